"""Peak memory of a training step beyond the weights, each measurement in a fresh process.

    python -m skipback.lab.bench.memory WAY DEPTH WIDTH BATCH        prints MiB

The peak resident size (VmHWM) less that before the first step, with SGD: weights and feedback are there anyway, and
Adam's two moments would be for all alike. glibc returns each large tensor at once (`HEAP`), so that the peak is what
was alive, not what the allocator kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import torch

from skipback.lab import machine
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.timing import Call
from skipback.lab.bench.ways import backprop, backprop_in_place, checkpointed, step
from skipback.lab.errors import LabError

MAKE: dict[str, Callable[[Shape], Call]] = {
    "backprop": lambda shape: backprop(shape, "sgd"),
    "backprop, checkpointed": lambda shape: backprop(shape, "sgd", through=checkpointed),
    "backprop, checkpointed, update in backward": lambda shape: backprop_in_place(shape),
    "dfa step": lambda shape: step(shape, "dfa", "sgd"),
    "f3 step": lambda shape: step(shape, "f3", "sgd"),
}
"""What is measured."""

LONG = 64
"""Hidden layers above which one step is measured instead of two: it has the same peak."""

HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def peak(way: str, depth: int, width: int, batch: int) -> float:
    """MiB beyond the weights at the peak of a step, measured in a process of its own.

    Raises:
        LabError: that process failed, for want of memory as a rule.
    """
    command = [sys.executable, "-m", "skipback.lab.bench.memory", way, str(depth), str(width), str(batch)]
    paths = os.pathsep.join(filter(None, sys.path))  # the child finds the package where this process did
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env={**os.environ, **HEAP, "PYTHONPATH": paths}
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LabError(f"memory of {way} at depth {depth}, width {width}, batch {batch}: {why}")
    return float(done.stdout)


def measure(way: str, depth: int, width: int, batch: int) -> float:
    """MiB beyond the weights at the peak of a step of this process, which must have done nothing else."""
    torch.set_num_threads(1)
    small = Shape(line="", batch=batch, sizes={"depth": 2, "width": width})
    MAKE[way](small)()  # what is loaded at the first step is no activation
    call = MAKE[way](Shape(line="", batch=batch, sizes={"depth": depth, "width": width}))
    machine.reset_peak()
    before = machine.peak_mib(torch.device("cpu"))
    for _ in range(1 if depth > LONG else 2):
        call()
    return machine.peak_mib(torch.device("cpu")) - before


if __name__ == "__main__":
    _, name, *sizes = sys.argv
    sys.stdout.write(f"{measure(name, *map(int, sizes)):.2f}\n")
