"""Signals: WHAT is sent to every port. The two pure ones of `core.signals`, and those that need more.

`Delayed` sends what the same sample left in a per-sample memory at its last visit (F3); `OutputError`, `OutputGradient`
and the initial memories are its options. `Scaled`, `Signed`, `Ternarised` and `Masked` wrap any signal.
"""

from skipback.core.signals import LossGradient, Signal, Target
from skipback.memory import Initial, Record
from skipback.signals.delayed import Delayed, ScaledTarget, minus_target, untrained, zeros
from skipback.signals.errors import Link, OutputError, OutputGradient, Zero, identity, sigmoid, softmax
from skipback.signals.wrappers import Masked, Scaled, Signed, Ternarised, Wrapper

__all__ = [
    "Delayed",
    "Initial",
    "Link",
    "LossGradient",
    "Masked",
    "OutputError",
    "OutputGradient",
    "Record",
    "Scaled",
    "ScaledTarget",
    "Signal",
    "Signed",
    "Target",
    "Ternarised",
    "Wrapper",
    "Zero",
    "identity",
    "minus_target",
    "sigmoid",
    "softmax",
    "untrained",
    "zeros",
]
