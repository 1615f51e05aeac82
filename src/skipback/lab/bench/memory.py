"""Peak memory of a training step beyond the weights, each measurement in a process of its own.

    python -m skipback.lab.bench.memory '{"jobs": [[WAY, DEPTH], ...], "width": W, "batch": N, "device": "cpu"}'

prints one line of JSON per job: MiB, or why there are none. That process has loaded everything and computed nothing;
each job is forked from it.

On the CPU it is the peak resident size (VmHWM) less that before the first step, with SGD: weights and feedback are
there anyway, and Adam's two moments would be for all alike. glibc returns each large tensor at once (`HEAP`), so that
the peak is what was alive, not what the allocator kept. On a GPU it is the peak that torch has allocated, likewise.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from skipback.lab import machine
from skipback.lab.bench.plain import backprop, backprop_in_place, checkpointed
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.taught import backward, step, steps
from skipback.lab.bench.timing import Variant
from skipback.lab.bench.ways import ACCUMULATED, reason
from skipback.lab.errors import LabError

MAKE: dict[str, Callable[[Shape], Variant]] = {
    "backprop": lambda shape: backprop(shape, "sgd"),
    f"backprop, accumulated over {ACCUMULATED}": lambda shape: backprop(shape, "sgd", parts=ACCUMULATED),
    "backprop, checkpointed": lambda shape: backprop(shape, "sgd", through=checkpointed),
    "backprop, checkpointed, update in backward": lambda shape: backprop_in_place(shape),
    "dfa step": lambda shape: step(shape, "dfa", "sgd"),
    "f3 step": lambda shape: step(shape, "f3", "sgd"),
}
"""What is measured where nothing else is said; `make` knows the ways of all methods."""

LONG = 64
"""Hidden layers above which one step is measured instead of two: it has the same peak."""

HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def of_methods(methods: Sequence[str]) -> list[str]:
    """The ways to measure: those of plain backprop, and the best one of each method."""
    plain = [way for way in MAKE if way.startswith("backprop")]
    return plain + [f"{name} {'step' if steps(name) else 'backward'}" for name in methods]


def make(way: str) -> Callable[[Shape], Variant]:
    """How to build a way: one of `MAKE`, or "METHOD step", or "METHOD backward"."""
    if way in MAKE:
        return MAKE[way]
    name, kind = way.rsplit(" ", 1)
    build = {"step": step, "backward": backward}[kind]
    return lambda shape: build(shape, name, "sgd")


def peak(way: str, depth: int, width: int, batch: int, device: str = "cpu") -> float:
    """MiB beyond the weights at the peak of a step, measured in a process of its own.

    Raises:
        LabError: that process failed, for want of memory as a rule.
    """
    (found,) = peaks([(way, depth)], width, batch, device)
    if isinstance(found, str):
        raise LabError(f"memory of {way} at depth {depth}, width {width}, batch {batch}: {found}")
    return found


def peaks(jobs: Sequence[tuple[str, int]], width: int, batch: int, device: str = "cpu") -> Iterator[float | str]:
    """MiB at the peak of each (way, depth), or why it cannot be measured, one after the other."""
    order = json.dumps({"jobs": jobs, "width": width, "batch": batch, "device": device})
    paths = os.pathsep.join(filter(None, sys.path))  # the child finds the package where this process did
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "skipback.lab.bench.memory", order],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **HEAP, "PYTHONPATH": paths},
    ) as child:
        assert child.stdout is not None
        for _ in jobs:
            line = child.stdout.readline()
            yield json.loads(line) if line else f"its process ended with exit code {child.wait()}"


def measure(way: str, depth: int, width: int, batch: int, device: str = "cpu") -> float:
    """MiB beyond the weights at the peak of a step of this process, which must have done nothing else."""
    torch.set_num_threads(1)
    where = torch.device(device)
    small = Shape(line="", batch=batch, sizes={"depth": 2, "width": width}, device=device)
    make(way)(small)()  # what is loaded at the first step is no activation
    call = make(way)(Shape(line="", batch=batch, sizes={"depth": depth, "width": width}, device=device))
    machine.reset_peak()
    before = machine.peak_mib(where)
    for _ in range(1 if depth > LONG else 2):
        call()
    return round(machine.peak_mib(where) - before, 2)


def apart(call: Callable[[], float]) -> float | str:
    """What a call returns, or why it fails, in a process that is forked from this one."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.write(into, json.dumps(_said(call)).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found: float | str = json.loads(said) if said else f"its process was ended by signal {-code}"
    return found


def _said(call: Callable[[], float]) -> float | str:
    try:
        return call()
    except Exception as error:  # whatever it is, the parent hears of it
        return reason(error)


def main(order: str) -> None:
    """Measure what an order says, and print it. Ctrl-C, and nobody who reads, end this process without a word."""
    for name in ("SIGINT", "SIGPIPE"):  # the second is of POSIX only
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    import torch._dynamo  # noqa: F401  # optimizers and checkpoints load it, and it takes a second

    what = json.loads(order)
    sizes = what["width"], what["batch"], what["device"]
    for way, depth in what["jobs"]:
        found = apart(partial(measure, way, depth, *sizes))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
