"""Recorder: what turns a call into something that the device repeats without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from typing_extensions import override

Call = Callable[[], None]


class Recorder(Protocol):
    """What `Captured` asks of a device. The call reads and writes tensors that stay where they are."""

    def warm(self, call: Call) -> None:
        """Make the call for real, in a way that prepares `record`: what is made once is made here."""

    def record(self, call: Call) -> Call:
        """Note what the call asks of the device, without doing it. Returns what does it, each time it is called.

        Tensors that the call reads or writes are known by their addresses alone: whoever replays has to hold them.
        """


class CudaGraphs(Recorder):
    """A `torch.cuda.CUDAGraph` for each recording; warm-up and recording run on one side stream.

    Workspaces of cuBLAS belong to a stream, so the warm-up has to run on the stream that is recorded. Replays go to
    the stream that is current then. Source: the notes on CUDA semantics of torch, "CUDA Graphs".

    Args:
        device: where the network lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.side = torch.cuda.Stream(device)

    @override
    def warm(self, call: Call) -> None:
        now = torch.cuda.current_stream(self.device)
        self.side.wait_stream(now)
        with torch.cuda.stream(self.side):
            call()
        now.wait_stream(self.side)

    @override
    def record(self, call: Call) -> Call:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.side):
            call()
        replay: Call = graph.replay
        return replay
