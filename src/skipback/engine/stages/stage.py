"""A stage: the consecutive blocks that one process trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from skipback.engine.learner import Learner
from skipback.engine.stages.epoch import Epoch
from skipback.engine.stages.fit import fitting, sizes_of
from skipback.engine.stages.gather import gather, overwrite, parameters_of
from skipback.engine.stages.line import Line
from skipback.engine.step.checks import check_mode
from skipback.types import Loss
from skipback.update import Update


def stages(
    learner: Learner,
    *,
    rank: int | None = None,
    world: int | None = None,
    sizes: Sequence[int] | None = None,
    timeout: float = 300.0,
) -> Stage:
    """The part of a learner that this process trains.

    Every process builds the same network and learner from the same seeds, and `torch.distributed` must run.

    Args:
        learner: of a plain `nn.Sequential`, with an early signal.
        rank: of this process; `None` asks torch.distributed.
        world: number of processes; `None` asks torch.distributed.
        sizes: how many consecutive blocks each rank keeps, the head being the last; `None` balances parameters.
        timeout: seconds that one wait for another rank may take.

    Raises:
        ValueError: the learner cannot be spread so.
    """
    running = dist.is_available() and dist.is_initialized()
    rank = rank if rank is not None else dist.get_rank() if running else 0
    world = world if world is not None else dist.get_world_size() if running else 1
    return Stage(learner, Line(rank, world, timeout), sizes)


class Stage:
    """See `stages`.

    Attributes:
        sizes: how many blocks each rank keeps.
    """

    def __init__(self, learner: Learner, line: Line, sizes: Sequence[int] | None) -> None:
        self.learner, self.line = learner, line
        parts = parameters_of(fitting(learner))
        self.sizes = sizes_of([sum(p.numel() for p in part) for part in parts], line.world, sizes)
        self.update: Update | None = None
        self.broken = False

    def epoch(self, batches: Iterable[Sequence[Any]], *, loss: Loss, update: Update) -> Tensor:
        """Train on all batches, once.

        Args:
            batches: (x, t) or (x, t, ids), the same on all ranks in the same order; x may be `None` but on rank 0.
            loss: loss(output, target).
            update: what changes the weights. Pass the same one at every epoch.

        Returns:
            The loss of each batch (M,) before its update, on all ranks.

        Raises:
            ValueError: the network is in eval mode, or a sample came twice.
            RuntimeError: another rank has failed, or had other batches. The epoch is half done then, and blocks have
                seen different numbers of batches: start all processes again, from what was saved before.
        """
        if not self.learner.net.training:
            raise ValueError("epoch() trains: call train() first")
        check_mode()
        if self.broken:
            raise RuntimeError("an epoch was broken off by an error: start all ranks again, from what was saved before")
        epoch = Epoch(self.learner, self.line, self.sizes, loss, update)
        self.update, self.broken = update, True
        with torch.no_grad():
            losses = epoch.run(batches)
        self.broken = False
        return losses

    def gather(self) -> None:
        """Give all ranks the weights, buffers, optimizer state and memory of the whole network. All ranks must call it.

        Afterwards `learner.net`, and `update.optimizer` if there was an epoch, are as they would be in one process.
        """
        if self.line.world > 1:
            with torch.no_grad():
                gather(fitting(self.learner), self.sizes, self.update, self.line)
                memory, device = self.learner.memory, next(self.learner.net.parameters()).device
                if memory is not None:  # only rank 0 saw the inputs
                    overwrite(memory.fingerprints, 0, self.line, device)
