"""Steps on a GPU, one by one and captured, against backprop in the same dress. Run: python benchmarks/gpu.py

    checked    captured epochs against loops of `learner.step` on this device: the largest difference of the weights
    speed      S1 to S6, fused Adam: ms of one step, and how many times as fast as backprop one by one and in a graph
    members    ten seeds of 784-width-10: one by one, as one batched net (`Many`), and one after the other, captured
    wavefront  20 layers at once on different minibatches, against the plain order, and that captured
    memory     peak MiB of a step beyond weights, by depth

Wall time of blocks of steps, each ended by a wait for the device, variants interleaved in another order each round;
medians, and medians of the ratios of each round. Captured steps also pick their rows from the data set; the others take
the same batch again. Written to results/gpu/speed.json after each part.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import wave
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import many
import skipback as sb
from gpu_ways import GRAPH, METHODS, Bench, variants
from skipback.engine.many.many import Many
from skipback.lab import machine
from skipback.lab.bench import memory, ways
from skipback.lab.bench.shapes import SHAPES, Shape
from skipback.lab.bench.timing import Variant
from skipback.lab.records import atomic_write, to_json

WIDTHS, DEPTHS = (32, 100), (4, 16, 64, 256)
WAVES = {**wave.SHAPES, "width 256, batch 64": (256, 256, 64)}


def speed(bench: Bench, names: list[str]) -> dict[str, object]:
    """By shape."""
    found = {}
    for name in names:
        shape = dataclasses.replace(SHAPES[name], device=str(bench.device))
        of = bench.timed(variants(shape, bench.steps), over=ways.REFERENCE)
        if GRAPH in of:
            graph = of[GRAPH]["median_ms"]
            of |= {k: {**v, "over_graph": graph / v["median_ms"]} for k, v in of.items() if k != "rounds"}
        found[name] = {"line": shape.line, "variants": of}
    return found


def checked(bench: Bench) -> dict[str, object]:
    """Two epochs of captured steps against the loop: the largest difference of a weight, and why, if not captured."""
    found, batch = {}, 16
    x, t = torch.randn(70, 20, device=bench.device), torch.randint(10, (70,), device=bench.device)
    updates = {"sgd": sb.update.sgd, "momentum": sb.update.momentum, "adam": sb.update.adam, "adamw": sb.update.adamw}
    for name, method in {**METHODS, "dkp": lambda _: sb.dkp(), "shallow": lambda _: sb.shallow()}.items():
        for kind, make in updates.items():
            ours, theirs = (sb.attach(_small(bench.device), method(len(x)), example=x[:2], show=None) for _ in range(2))
            update, other = make(), make()
            steps = sb.captured(ours, x, t, batch=batch, loss=F.cross_entropy, update=update, refuse=False)
            for _ in range(2):
                order = torch.randperm(len(x)).to(bench.device)
                steps.epoch(order)
                for ids in order.split(batch):
                    theirs.step(x[ids], t[ids], loss=F.cross_entropy, update=other, ids=ids)
            pairs = zip(ours.net.parameters(), theirs.net.parameters(), strict=True)
            worst = max((p - q).abs().max().item() for p, q in pairs)
            found[f"{name}, {kind}"] = {"largest_difference": worst, "one_by_one": steps.why}
    return found


def _small(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)).to(device)


def members(bench: Bench) -> dict[str, object]:
    """Ten seeds, by width and method; a step is one of all ten."""
    found: dict[str, object] = {"members": many.MEMBERS, "batch": many.BATCH}
    for width in WIDTHS:
        for name, method in {"bp": sb.bp(), "f3": sb.f3(memory=many.BATCH * bench.steps)}.items():
            rows = torch.randn(many.BATCH * bench.steps, 784), torch.randint(10, (many.BATCH * bench.steps,))
            calls = _of_members(method, width, (rows[0].to(bench.device), rows[1].to(bench.device)), bench.steps)
            found[f"784-{width}-10, {name}"] = bench.timed(calls, over="one by one")
    return found


def _of_members(method: sb.Method, width: int, rows: tuple[Tensor, Tensor], steps: int) -> dict[str, Variant]:
    alone, together, own = ([one.to(rows[0].device) for one in many.learners(method, width)] for _ in range(3))
    batches = [(x, t, ids) for x, t, ids in zip(*(part.split(many.BATCH) for part in (*rows, _ids(rows))), strict=True)]
    updates, net, update = [sb.update.adam(1e-4) for _ in alone], Many(together), sb.update.adam(1e-4)
    kinds = {"batch": many.BATCH, "loss": F.cross_entropy, "refuse": False}
    epochs = [sb.captured(one, *rows, update=sb.update.adam(1e-4), **kinds) for one in own]

    def one_by_one() -> None:
        for x, t, ids in batches:
            for learner, mine in zip(alone, updates, strict=True):
                learner.step(x, t, loss=F.cross_entropy, update=mine, ids=ids)

    def as_one() -> None:
        for batch in batches:
            x, t, ids = (part.expand(many.MEMBERS, *part.shape) for part in batch)
            net.step(x, t, loss=F.cross_entropy, update=update, ids=ids)

    return {
        "one by one": one_by_one,
        "together": as_one,
        "captured, one after the other": lambda: [one.epoch(_ids(rows)) for one in epochs],
    }


def _ids(rows: tuple[Tensor, Tensor]) -> Tensor:
    return torch.arange(len(rows[0]), device=rows[0].device)


def wavefront(bench: Bench) -> dict[str, object]:
    """By shape and method, SGD; a step is a minibatch."""
    found: dict[str, object] = {"layers": wave.LAYERS}
    for line, (inputs, width, batch) in WAVES.items():
        x, t = torch.randn(batch * bench.steps, inputs).to(bench.device), torch.randint(10, (batch * bench.steps,))
        rows = x, t.to(bench.device)
        parts = list(zip(*(part.split(batch) for part in (*rows, _ids(rows))), strict=True))
        for name in ("drtp", "f3"):
            one, other, third = (wave.learner(METHODS[name](len(x)), inputs, width).to(bench.device) for _ in range(3))
            found[f"{line}, {name}"] = bench.timed(_orders(one, other, third, parts, rows, batch), over="plain")
    return found


def _orders(one, other, third, parts, rows: tuple[Tensor, Tensor], batch: int) -> dict[str, Variant]:
    updates = [sb.update.sgd(1e-4) for _ in range(3)]
    lanes = sb.wavefront(one, update=updates[0])
    steps = sb.captured(third, *rows, batch=batch, loss=F.cross_entropy, update=updates[2], refuse=False)

    def plain() -> None:
        for x, t, ids in parts:
            other.step(x, t, loss=F.cross_entropy, update=updates[1], ids=ids)

    ids = _ids(rows)
    return {
        "plain": plain,
        "wave": lambda: lanes.epoch(parts, loss=F.cross_entropy),
        "plain, captured": lambda: steps.epoch(ids),
    }


def peaks(bench: Bench, depths: tuple[int, ...], width: int = 1000, batch: int = 1024) -> dict[str, object]:
    """MiB beyond the weights at the peak of a first step, SGD; gradients count, as they are there at that peak."""
    mib: dict[str, dict[int, float]] = {way: {} for way in memory.MAKE}
    for way, depth in ((way, depth) for way in mib for depth in depths):
        small, call = (
            memory.MAKE[way](Shape(line="", batch=n, sizes={"depth": d, "width": w}, device=str(bench.device)))
            for n, d, w in ((8, 2, 8), (batch, depth, width))
        )
        small()  # what is loaded at the first step is no activation
        bench.wait()
        machine.reset_peak()
        before = machine.peak_mib(bench.device)
        call()
        bench.wait()
        mib[way][depth] = machine.peak_mib(bench.device) - before
        del call
    return {"width": width, "batch": batch, "mib": mib}


def main(arguments: list[str] | None = None) -> int:
    """Measure all parts. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="about how long each group of variants is measured")
    parser.add_argument("--steps", type=int, default=100, help="in a block")
    parser.add_argument("--shapes", default="S1,S2,S3,S4,S5,S6")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), help="at which memory is measured")
    parser.add_argument("--tf32", action="store_true", help="let float32 products round to TF32, on both sides")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # for the tests of this file
    parser.add_argument("--out", type=Path, default=Path("results/gpu/speed.json"))
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"gpu.py measures a GPU, and torch {torch.__version__} sees no CUDA device here", file=sys.stderr)
        return 2
    if options.tf32:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    bench = Bench(torch.device(options.device), options.seconds, options.steps)
    command = f"python benchmarks/gpu.py --seconds {options.seconds:g} --steps {options.steps}"
    command += " --tf32" if options.tf32 else ""
    result = {"environment": machine.describe(bench.device, command)}
    depths = tuple(map(int, options.depths.split(",")))
    parts = {
        "checked": lambda: checked(bench),
        "speed": lambda: speed(bench, options.shapes.split(",")),
        "members": lambda: members(bench),
        "wavefront": lambda: wavefront(bench),
        "memory": lambda: peaks(bench, depths),
    }
    for name, part in parts.items():
        result[name] = part()
        atomic_write(options.out, to_json(result))
        print(to_json({name: result[name]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
