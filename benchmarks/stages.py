"""Efficiency of a network spread over K processes, for K = 2 and 3. Run: python benchmarks/stages.py

Fill and drain alone leave M / (M + K - 1) of an epoch of M batches ("efficiency_formula"). Two networks of equal
blocks, trained by F3, one thread per process, medians of interleaved rounds:

    asleep      each block waits 5 ms instead of computing: the schedule and its traffic, whatever the cores do
    computing   512-(512 x 12)-10, batch 64, SGD

By the clock on the wall, which needs K idle cores, or it is about what else they do:

    efficiency              seconds of one process / (K * seconds of K processes)
    core_share              CPU / wall-clock seconds of K separate copies at once, the worst of them: below 0.95 the
                            cores were not idle, and the wall-clock figures of "computing" say nothing of the schedule
    efficiency_over_copies  seconds of the copies / (K * seconds of K processes): what K processes lose because they
                            are K, beside each other, is in both

By each process's own CPU seconds b_k (those of its traffic, too), which pass only while it has a core. Other work on
the machine disturbs them less, but not by nothing, as caches are shared:

    work                    b of one process / sum of b_k: what the K do beside its work (traffic; caches they share)
    balance                 mean b_k / largest b_k: how even the blocks were spread
    efficiency_busy         b of one process / (K * seconds of the schedule), if every turn of rank k takes b_k / M and
                            none waits for a core: (sum of b_k + (M - 1) * largest b_k) / M seconds. That the turns do
                            overlap so is not measured by it, but by "asleep". Equal ranks: formula * work

Results of each K are kept in results/stages.json, with cores and load. One to two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

import skipback as sb
from skipback.engine.stages import Stage, stages
from skipback.lab import machine
from skipback.lab.records import atomic_write, to_json

BLOCKS, BATCHES = 12, (1, 2, 4, 8, 32)
"""Hidden blocks: as many on each of 2, 3 or 4 ranks; the head is small. M of each epoch."""
IDLE = 0.95
"""Least share of a core that a process must have had, for the wall-clock figures to mean something."""


class Asleep(nn.Module):
    """Takes 5 ms, and no core."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x, later."""
        time.sleep(5e-3)
        return x


class Spent(NamedTuple):
    """What a call of some ranks took: wall-clock seconds of the slowest, CPU seconds and share of a core of each."""

    wall: float
    busy: list[float]
    share: list[float]


def network(width: int, wait: Callable[[], nn.Module]) -> nn.Sequential:
    """Equal hidden blocks, and a small head."""
    torch.manual_seed(0)
    blocks = [module for _ in range(BLOCKS) for module in (nn.Linear(width, width), wait())]
    return nn.Sequential(*blocks, nn.Linear(width, 10))


def trainer(build: Callable[[], nn.Sequential], batch: int, **ranks: int) -> tuple[Stage, Callable[[int], object]]:
    """A stage, and a call that trains it for an epoch of M batches."""
    net, samples = build(), batch * max(BATCHES)
    x, t = torch.randn(samples, net[0].in_features), torch.randint(10, (samples,))
    stage = stages(sb.attach(net, sb.f3(memory=samples), x[:batch], show=None), **ranks)
    update, batches = sb.update.sgd(lr=1e-3), [(x[i], t[i], i) for i in torch.arange(samples).split(batch)]
    return stage, lambda count: stage.epoch(batches[:count], loss=F.cross_entropy, update=update)


def spent(call: Callable[[], object] | None) -> Spent:
    """What the ranks that have a call took for it (`None`: this one looks on)."""
    dist.barrier()
    wall, busy = time.perf_counter(), time.process_time()
    if call is not None:
        call()
    mine = torch.tensor([time.perf_counter() - wall, time.process_time() - busy], dtype=torch.float64)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    pairs = [one.tolist() for one in every]
    return Spent(max(w for w, _ in pairs), [b for _, b in pairs], [b / w for w, b in pairs])


def measured(build: Callable[[], nn.Sequential], batch: int, rounds: int, *, busy: bool) -> dict[str, object]:
    """One network: by M, the formula and what was measured; `busy` where its blocks compute."""
    rank, world = dist.get_rank(), dist.get_world_size()
    stage, together = trainer(build, batch)
    _, alone = trainer(build, batch, rank=0, world=1)
    found: dict[int, list[tuple[Spent, Spent, Spent]]] = {count: [] for count in BATCHES}
    spent(lambda: (alone(1), together(1)))  # warms up
    for _ in range(rounds):
        for count in BATCHES:
            one = spent((lambda count=count: alone(count)) if rank == 0 else None)
            copies = spent(lambda count=count: alone(count)) if busy else one
            found[count].append((one, copies, spent(lambda count=count: together(count))))
    rows = {
        f"M = {count}": by_wall(count, world, trials) | (by_cpu(count, world, trials) if busy else {})
        for count, trials in found.items()
    }
    return {"blocks_of_each_rank": list(stage.sizes), "rounds": rounds, **rows}


def by_wall(count: int, world: int, trials: list[tuple[Spent, Spent, Spent]]) -> dict[str, object]:
    """Medians of milliseconds, and of the ratio of each round."""
    together = statistics.median(spread.wall for _, _, spread in trials)
    return {
        "one_process_ms": 1e3 * statistics.median(one.wall for one, _, _ in trials),
        "all_ranks_ms": 1e3 * together,
        "turn_ms": 1e3 * together / (count + world - 1),
        "efficiency_formula": count / (count + world - 1),
        "efficiency": statistics.median(one.wall / (world * spread.wall) for one, _, spread in trials),
    }


def by_cpu(count: int, world: int, trials: list[tuple[Spent, Spent, Spent]]) -> dict[str, object]:
    """The figures of networks that compute; see the top of this file."""
    one = statistics.median(alone.busy[0] for alone, _, _ in trials)
    ranks = [statistics.median(spread.busy[k] for _, _, spread in trials) for k in range(world)]
    return {
        "efficiency_over_copies": statistics.median(c.wall / (world * spread.wall) for _, c, spread in trials),
        "copies_slow_down": statistics.median(copies.wall / alone.wall for alone, copies, _ in trials),
        "core_share": statistics.median(min(copies.share) for _, copies, _ in trials),
        "one_process_busy_ms": 1e3 * one,
        "ranks_busy_ms": [1e3 * b for b in ranks],
        "work": one / sum(ranks),
        "balance": sum(ranks) / world / max(ranks),
        "efficiency_busy": one / (world * scheduled(ranks, count)),
    }


def scheduled(ranks: list[float], count: int) -> float:
    """Seconds, if a turn of rank k takes b_k / M: once through all ranks, then at the pace of the slowest."""
    return (sum(ranks) + (count - 1) * max(ranks)) / count


def keep(path: Path, world: int, result: dict[str, object]) -> None:
    """Write the result beside those of other numbers of processes."""
    before = json.loads(path.read_text()) if path.exists() else {}
    atomic_write(path, to_json({**before, f"{world} processes": result}))
    print(json.dumps({f"{world} processes": result}, indent=1))


def worker(rank: int, world: int, meet: str, options: argparse.Namespace) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    load = os.getloadavg()[0]
    environment = machine.describe(torch.device("cpu"), f"python benchmarks/stages.py --rounds {options.rounds}")
    asleep = measured(lambda: network(16, Asleep), 8, max(3, options.rounds // 3), busy=False)
    computing = measured(lambda: network(512, nn.Tanh), 64, options.rounds, busy=True)
    if rank == 0:
        cores = {"cores": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()[0]}
        keep(options.out, world, {"environment": environment, **cores, "asleep": asleep, "computing": computing})
        share = computing[f"M = {max(BATCHES)}"]["core_share"]
        if share < IDLE:
            print(
                f"{world} processes had {share:.2f} of a core each: the wall-clock figures of 'computing' are about "
                "what else this machine did, or how few cores it has; those by CPU seconds suffer less"
            )
    dist.destroy_process_group()


def main() -> None:
    """Start the processes, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3], help="each K")
    parser.add_argument("--out", type=Path, default=Path("results/stages.json"))
    options = parser.parse_args()
    for world in options.processes:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(worker, (world, f"{folder}/meet", options), nprocs=world)


if __name__ == "__main__":
    main()
