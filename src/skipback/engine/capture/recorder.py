"""Recorder: records the work that a call gives the device, so that the device repeats it without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from typing_extensions import override

Thunk = Callable[[], None]
"""A call without arguments: one training step, or its replay."""


class Recorder(Protocol):
    """What `Captured` asks of a device. The call reads and writes tensors whose addresses do not change."""

    def warm(self, call: Thunk) -> None:
        """Run the call, and prepare `record`: tensors and handles that a first call initialises are made here."""

    def record(self, call: Thunk) -> Thunk:
        """Record the work of the call without running it. Returns the replay, which runs it each time it is called.

        The recording knows tensors by their addresses alone, so the caller has to hold them as long as it replays.
        """


class CudaGraphs(Recorder):
    """A `torch.cuda.CUDAGraph` for each recording; warm-up and recording run on one side stream.

    Workspaces of cuBLAS belong to a stream, so the warm-up has to run on the stream that is recorded. Replays go to
    the stream that is current then. Source: the notes on CUDA semantics of torch, "CUDA Graphs".

    Args:
        device: of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.side = torch.cuda.Stream(device)

    @override
    def warm(self, call: Thunk) -> None:
        now = torch.cuda.current_stream(self.device)
        self.side.wait_stream(now)
        with torch.cuda.stream(self.side):
            call()
        now.wait_stream(self.side)

    @override
    def record(self, call: Thunk) -> Thunk:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.side):
            call()
        replay: Thunk = graph.replay
        return replay
