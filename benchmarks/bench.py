"""What the step must reach against plain backprop. Run: python benchmarks/bench.py

One thread, CPU time, interleaved in one process, medians of the ratios of each round; `skipback bench` measures the
same variants, and more of them. Each row: the target, what was measured, whether it was reached, and what binds where
it was not. Written to results/bench.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from by_hand import by_hand
from skipback.lab.bench import memory, plain, taught, ways
from skipback.lab.bench.shapes import SHAPES, Shape
from skipback.lab.bench.timing import Variant
from skipback.lab.bench.verb import BATCH, WIDTH, environment, timed
from skipback.lab.records import atomic_write, to_json

F3, DFA, FDFA, GENERIC = "f3 step", "dfa backward", "fdfa step", "f3 step, by autograd"
ONEDNN, HAND = "f3 step, oneDNN float32", "f3 step, written by hand"
KERNELS = "kernels: written by hand, they reach the figure beside it; up to there, {python} us of Python a step"
DUAL = "FLOPs: forward mode does 3 products, as backprop does (limit 0.99), and draws noise for each port"
INSIDE = "inside a block there is plain backprop: few cuts, few savings"
SAME = "FLOPs: each block begins with a norm, whose weights need the gradient of all behind it: backprop's products"
GRAPH = "dispatch: autograd's graph for each block"
ROUTE = "bytes: with products at twice the speed, the optimizer's pass over the weights is what is left"
SPEED = [
    ("F3 step, Adam, S1", 1.25, "S1", "adam", F3, ways.REFERENCE, KERNELS),
    ("F3 step, Adam, S3", 1.40, "S3", "adam", F3, ways.REFERENCE, KERNELS),
    ("F3 step, Adam, S6", 1.45, "S6", "adam", F3, ways.REFERENCE, KERNELS),
    ("F3 step, SGD, S1", 1.3, "S1", "sgd", F3, ways.REFERENCE, KERNELS),
    ("F3 step, SGD, S3", 1.6, "S3", "sgd", F3, ways.REFERENCE, KERNELS),
    ("F3 step, SGD, S6", 1.6, "S6", "sgd", F3, ways.REFERENCE, KERNELS),
    ("DFA loss.backward(), Adam, S3", 1.30, "S3", "adam", DFA, ways.REFERENCE, GRAPH),
    ("F3 step by autograd over closed form, Adam, S1", 0.85, "S1", "adam", GENERIC, F3, GRAPH),
    ("F3 step by autograd over closed form, Adam, S3", 0.85, "S3", "adam", GENERIC, F3, GRAPH),
    ("FDFA step, Adam, S2", 1.0, "S2", "adam", FDFA, ways.REFERENCE, DUAL),
    ("FDFA step, Adam, S3", 0.95, "S3", "adam", FDFA, ways.REFERENCE, DUAL),
    ("F3 step, Adam, small CNN", 1.2, "cnn", "adam", F3, ways.REFERENCE, INSIDE),
    ("F3 step, Adam, F3's transformer", 1.04, "transformer", "adam", F3, ways.REFERENCE, SAME),
    ("F3 step, Adam, oneDNN float32, over plain torch, S3", 2.2, "S3", "adam", ONEDNN, ways.REFERENCE, ROUTE),
]
"""What, target, shape, optimizer, variant, over which, and what binds if it is not reached."""

SHOWN = [
    f"{ways.REFERENCE}, default optimizer",
    f"{ways.REFERENCE}, checkpointed",
    f"{ways.REFERENCE}, compiled",
    f"{ways.REFERENCE}, oneDNN float32",
    "dfa step",
    "f3 backward",
    "f3 step, compiled",
    ONEDNN,
]
"""Variants that are timed beside those of the rows, for the table of the README."""


def measured(shape: str, optimizer: str, seconds: float) -> dict[str, object]:
    """The variants that the rows and the table need."""
    wanted = {v for row in SPEED if row[2:4] == (shape, optimizer) for v in row[4:6]} | {*SHOWN, ways.REFERENCE}
    makes = ways.ways(SHAPES[shape], ("dfa", "f3", "fdfa"), optimizer, compiled=True)
    calls = {name: make() for name, make in makes.items() if name in wanted}
    if SHAPES[shape].net == "mlp":
        calls[HAND] = hand(SHAPES[shape], optimizer)
    return timed(calls, seconds, ways.REFERENCE, guard=plain.no_compiling)


def hand(shape: Shape, optimizer: str) -> Variant:
    """The step by hand, after it was held against `learner.step`: the same losses and weights."""
    (x, t), ids = shape.data(), torch.arange(shape.batch)
    ours, theirs = (taught.learner(shape.build(), "f3", x) for _ in range(2))
    step, update = by_hand(theirs, optimizer), plain.OPTIMIZERS[optimizer][1]()
    for _ in range(3):
        value = ours.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
        assert torch.equal(value, step(x, t, ids))
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs), "written by hand, it must be the same step"
    return lambda: step(x, t, ids)


def speed_rows(speed: dict) -> list[dict[str, object]]:
    """One row for each target."""
    rows = []
    for what, target, shape, optimizer, variant, over, binds in SPEED:
        of = speed[shape][optimizer]["variants"]
        limit = of[HAND]["times_as_fast"] if variant == F3 and over == ways.REFERENCE and HAND in of else None
        if variant in of:
            value = of[variant]["times_as_fast"] / of[over]["times_as_fast"]
            python = "" if limit is None else f"{1e3 * (of[F3]['median_ms'] - of[HAND]['median_ms']):.0f}"
            rows.append(row(what, target, value, binds.format(python=python), limit=limit))
        else:
            rows.append(row(what, target, None, "this processor's oneDNN rounds, so the route is not used"))
    return rows


def row(
    what: str, target: float, value: float | None, binds: str, *, most: bool = False, limit: float | None = None
) -> dict[str, object]:
    """A target and what was measured; `most` where less is better; `limit` where the step by hand was measured, too."""
    reached = value is not None and (value <= target if most else value >= target)
    why = None if reached else binds
    return {"what": what, "target": target, "measured": value, "by_hand": limit, "reached": reached, "binds": why}


def memory_rows(mib: dict[str, dict[int, float]], flat: tuple[int, int]) -> list[dict[str, object]]:
    """Memory against backprop, and whether it grows with depth."""
    f3 = mib["f3 step"]
    times, growth = mib["backprop"][256] / f3[256], f3[flat[1]] / f3[flat[0]]
    return [
        row(
            "activation memory at depth 256, backprop over F3 step",
            80,
            times,
            "bytes: three activations of a block are alive: input, output and delta",
        ),
        row(
            f"F3 step, memory at depth {flat[1]} over depth {flat[0]}",
            1.05,
            growth,
            "the Python objects of each block, less than a kilobyte",
            most=True,
        ),
    ]


def start_rows() -> list[dict[str, object]]:
    """CPU seconds until the first words."""
    limits = (("--help", 0.3), ("list", 0.5))
    binds = "imports: Python, tyro and pydantic"
    return [row(f"skipback {verb}, s", limit, started(verb), binds, most=True) for verb, limit in limits]


def started(verb: str) -> float:
    """Median CPU seconds of `skipback VERB`."""
    seconds = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "skipback.lab.cli", verb], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="about how long each shape and optimizer is measured")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"))
    options = parser.parse_args()
    machine = environment(f"python benchmarks/bench.py --seconds {options.seconds:g}")
    speed: dict = {}
    for shape, optimizer in dict.fromkeys(r[2:4] for r in SPEED):
        found = measured(shape, optimizer, options.seconds)
        speed.setdefault(shape, {"line": SHAPES[shape].line})[optimizer] = found
        print(shape, optimizer, {k: round(v["times_as_fast"], 2) for k, v in found["variants"].items()}, flush=True)
    atomic_write(options.out, to_json({"environment": machine, "speed": speed}))  # memory takes minutes more
    depths = dict.fromkeys(memory.MAKE, (4, 64, 256)) | {"f3 step": (4, 64, 256, 1024)}
    mib = {way: {d: memory.peak(way, d, WIDTH, BATCH) for d in depths[way]} for way in memory.MAKE}
    rows = speed_rows(speed) + memory_rows(mib, (4, 1024)) + start_rows()
    kept = {"width": WIDTH, "batch": BATCH, "mib": mib}
    atomic_write(options.out, to_json({"environment": machine, "rows": rows, "speed": speed, "memory": kept}))
    for one in rows:
        print(one)


if __name__ == "__main__":
    main()
