"""What `gpu.py` times: shapes on a device, blocks of steps in several dresses, and the clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipback as sb
from skipback.engine.capture.recorder import CudaGraphs
from skipback.lab.bench import plain, taught, ways
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.timing import Variant, repeated, speeds

METHODS = {"f3": lambda samples: sb.f3(memory=samples), "drtp": lambda _: sb.drtp(), "dfa": lambda _: sb.dfa()}
GRAPH = f"{ways.REFERENCE}, graph"


@dataclass(frozen=True)
class Bench:
    """Where, how long, and how many steps a block has."""

    device: torch.device
    seconds: float
    steps: int

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(
        self, calls: Mapping[str, Variant], *, over: str, steps: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Interleaved blocks: ms of one step, and how many times as fast as `over`."""
        for call in (*calls.values(), *calls.values()):  # the second: a memory that has filled is recorded anew
            call()
        trial = self._round(calls, list(calls))
        rounds = max(5, min(200, int(self.seconds / sum(trial.values()))))
        order, shuffle = list(calls), random.Random(0).shuffle
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            shuffle(order)
            for name, one in self._round(calls, order).items():
                seconds[name].append(one)
        return {**speeds(seconds, over, steps=self.steps if steps is None else steps), "rounds": rounds}

    def _round(self, calls: Mapping[str, Variant], order: list[str]) -> dict[str, float]:
        found = {}
        for name in order:
            self.wait()
            start = time.perf_counter()
            calls[name]()
            self.wait()
            found[name] = time.perf_counter() - start
        return found


def captured(method: sb.Method, build: Callable[[], nn.Module], rows: tuple[Tensor, Tensor], batch: int, update):
    """Whole epochs of a learner, on one order."""
    x, t = rows
    learner = sb.attach(build(), method, example=x[:2], show=None)
    steps = sb.captured(learner, x, t, batch=batch, loss=F.cross_entropy, update=update, refuse=False)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    return learner, lambda: steps.epoch(order)


def graphed_backprop(shape: Shape) -> Variant:
    """Plain PyTorch in a CUDA graph, with fused Adam that counts on the device: the honest opponent."""
    net, (x, t), graphs = shape.build(), shape.data(), CudaGraphs(torch.device(shape.device))
    optimizer = torch.optim.Adam(net.parameters(), lr=plain.LR, fused=True, capturable=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), t).backward()
        optimizer.step()

    for _ in range(3):
        graphs.warm(step)
    replay = graphs.record(step)

    def call() -> None:
        replay()
        _ = net, x, t, optimizer  # held: the graph has their addresses alone

    return call


def variants(shape: Shape, steps: int) -> dict[str, Variant]:
    """Blocks of as many steps."""
    x, t = shape.data()
    rows = x.repeat(steps, *[1] * (x.dim() - 1)), t.repeat(steps)
    once = {ways.REFERENCE: plain.backprop(shape, "adam")}
    if x.device.type == "cuda":
        once[GRAPH] = graphed_backprop(shape)
    once |= {f"{name} step": taught.step(shape, name, "adam") for name in METHODS}
    found = {name: repeated(call, steps) for name, call in once.items()}
    for name, method in {"backprop": lambda _: sb.bp(), **METHODS}.items():
        update = sb.update.adam(plain.LR)
        found[f"{name} captured"] = captured(method(len(rows[0])), shape.build, rows, shape.batch, update)[1]
    return found
