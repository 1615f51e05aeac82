"""The verb `bench`: what it measures, what it writes. torch is imported only to measure."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipback.lab.bench.options import TOGETHER, Bench, chosen, depths, split
from skipback.lab.bench.shapes import SHAPES, Shape
from skipback.lab.bench.table import text

if TYPE_CHECKING:
    import torch

    from skipback.lab.bench.energy import Counter
    from skipback.lab.bench.timing import Clock, Variant

__all__ = ["Bench", "environment", "run", "text", "timed"]

WIDTH, BATCH = 1000, 1024
LASTS, LEAST = 0.02, 3
"""Seconds of one call, and steps: as many as fill both. A loop finds its own weights in the cache, a lone step not."""


def run(options: Bench, command: str) -> dict[str, Any]:
    """Measure, and write bench.json, after each shape, and bench.png. Returns what bench.json holds.

    Raises:
        LabError: an option is wrong, the folder cannot be written, or there is no such device, or no compiler.
    """
    from skipback.lab import machine
    from skipback.lab.bench import figure, plain
    from skipback.lab.records import atomic_write, to_json

    options = chosen(options)
    device = machine.device(options.device)
    if options.compile:  # what can fail is tried before an hour is spent
        plain.check_compiler()
    _check_folder(options.out)
    result = {"environment": environment(command, device)}
    kept = f"nothing was measured yet, and nothing written to {options.out}"
    try:
        for found in measured(options, device):
            result |= found
            atomic_write(options.out / "bench.json", to_json(result))
            kept = f"{options.out / 'bench.json'} holds the shapes that were done"
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept) from None
    atomic_write(options.out / "bench.png", figure.draw(result))
    return result


def _check_folder(folder: Path) -> None:
    from skipback.lab.records import atomic_write

    atomic_write(folder / ".writable", b"")
    (folder / ".writable").unlink()


def environment(command: str, device: torch.device | None = None) -> dict[str, Any]:
    """The machine, how busy it was, and the clock."""
    import torch

    from skipback.lab import machine

    torch.set_num_threads(1)
    device = device or torch.device("cpu")
    load = [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    clock = "CPU time" if device.type == "cpu" else "time on the clock, when the GPU was done"
    return {**machine.describe(device, command), "load": load, "clock": clock}


def measured(options: Bench, device: torch.device) -> Iterator[dict[str, Any]]:
    """Speed by shape and optimizer, energy where it is counted, memory by depth: what is known, after each shape."""
    from skipback.lab.bench import energy

    counters, why = ([], "--quick leaves it out") if options.quick else energy.counters(device)
    speed, joules = dict[str, Any](), dict[str, Any]()
    power = {"counters": [c.name for c in counters], "joules_per_step": joules} if counters else {"none": why}
    for name in split(options.shapes):
        shape = dataclasses.replace(SHAPES[name], device=device.type)
        speed[name], joules[name] = {"line": shape.line}, {}
        for optimizer in split(options.optimizers):
            with _told(f"speed of {name}, {optimizer}"):
                speed[name][optimizer], joules[name][optimizer] = of_shape(shape, optimizer, options, counters)
        yield {"speed": speed, "memory": None, "energy": power}
    if depths(options.depths):
        with _told("memory"):
            yield {"memory": of_depths(options, device)}


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say on stderr what is being measured, and how long it took."""
    start = time.perf_counter()
    sys.stderr.write(f"{what} ... ")
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write(f"{time.perf_counter() - start:.0f} s\n")


def of_shape(
    shape: Shape, optimizer: str, options: Bench, counters: list[Counter]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Time one shape, a few methods at a time, each time with plain backprop among them; and joules per step."""
    import torch

    from skipback.lab.bench import energy, plain, timing, ways

    now = timing.clock(torch.device(shape.device))
    wall = timing.waiting(torch.cuda.synchronize) if shape.device == "cuda" else time.perf_counter
    methods, speed, joules = split(options.methods), dict[str, Any](), dict[str, float]()
    for first in range(0, len(methods), TOGETHER):
        known = {**speed.get("variants", {}), **speed.get("refused", {})}
        makes = ways.ways(shape, methods[first : first + TOGETHER], optimizer, compiled=options.compile)
        left = {name: make for name, make in makes.items() if name == ways.REFERENCE or name not in known}
        calls, refused = ways.built(left)
        guard = plain.no_compiling if options.compile else contextlib.nullcontext
        speed = _merged(speed, timed(calls, options.seconds, ways.REFERENCE, now=now, guard=guard), refused)
        if counters:
            joules = _first(joules, energy.joules(calls, counters, wall))
    return speed, joules


def _merged(speed: dict[str, Any], more: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """Two groups of variants of one shape as one; of rounds and their steps the fewest are said."""
    if not speed:
        return {**more, "refused": refused}
    return {
        "rounds": min(speed["rounds"], more["rounds"]),
        "steps_per_round": min(speed["steps_per_round"], more["steps_per_round"]),
        "variants": _first(speed["variants"], more["variants"]),
        "refused": {**speed["refused"], **refused},
    }


def _first(found: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both, in their order; what is in both as it was found first."""
    return found | {name: value for name, value in more.items() if name not in found}


def timed(
    calls: dict[str, Variant],
    seconds: float,
    reference: str,
    *,
    now: Clock = time.process_time,
    guard: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> dict[str, Any]:
    """Time one shape.

    Args:
        calls: one step each.
        seconds: to spend, about; there are at least 5 rounds.
        reference: the variant that is 1.
        now: the clock.
        guard: what must hold in the rounds, but not while the calls warm up.
    """
    from skipback.lab.bench.timing import interleaved, repeated, speeds

    trial = interleaved(calls, rounds=2, warm_up=3, now=now)
    steps = max(LEAST, round(LASTS / min(trial[reference])))
    rounds = max(5, int(seconds / (steps * sum(min(times) for times in trial.values()))))
    many = {name: repeated(call, steps) for name, call in calls.items()}
    with guard():
        times = interleaved(many, rounds=rounds, warm_up=1, now=now)
    return {"rounds": rounds, "steps_per_round": steps, "variants": speeds(times, reference, steps=steps)}


def of_depths(options: Bench, device: torch.device) -> dict[str, Any]:
    """Peak memory by way and depth, and why there is none."""
    from skipback.lab.bench import memory

    jobs = [(way, d) for way in memory.of_methods(split(options.methods)) for d in depths(options.depths)]
    mib, refused = dict[str, dict[int, float]](), dict[str, dict[int, str]]()
    for (way, depth), found in zip(jobs, memory.peaks(jobs, WIDTH, BATCH, device.type), strict=True):
        if isinstance(found, str):
            refused.setdefault(way, {})[depth] = found
        else:
            mib.setdefault(way, {})[depth] = found
    return {"width": WIDTH, "batch": BATCH, "mib": mib, "refused": refused}
