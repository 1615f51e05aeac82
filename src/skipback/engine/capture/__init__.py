"""Capture: whole training steps as one CUDA graph, the data set on the device. The public call is `captured`."""

from skipback.engine.capture.captured import captured
from skipback.engine.capture.checks import reason
from skipback.engine.capture.recorder import Recorder
from skipback.engine.capture.steps import Captured

__all__ = ["Captured", "Recorder", "captured", "reason"]
