"""A stage: the consecutive blocks that one process trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from skipback.core.records import Loss
from skipback.engine.stages.epoch import Epoch
from skipback.engine.stages.gather import gather, overwrite, parameters_of
from skipback.engine.stages.rank_pipeline import RankPipeline
from skipback.engine.stages.sizes import sizes_of
from skipback.learner import Learner
from skipback.step.chain import Chain
from skipback.step.fit import check
from skipback.update import Update


def stages(
    learner: Learner,
    *,
    rank: int | None = None,
    world: int | None = None,
    sizes: Sequence[int] | None = None,
    timeout: float = 300.0,
) -> Stage:
    """The stage of a learner that this process trains.

    Every process builds the same network and learner from the same seeds, and `torch.distributed` must run.

    Args:
        learner: on a plain `nn.Sequential`, with an early signal.
        rank: of this process; `None` asks torch.distributed.
        world: number of processes; `None` asks torch.distributed.
        sizes: the number of consecutive blocks of each rank, the head included; `None` balances parameters.
        timeout: seconds that one wait for another rank may take.

    Raises:
        ValueError: the learner cannot be spread, or `sizes` do not fit.
    """
    running = dist.is_available() and dist.is_initialized()
    rank = rank if rank is not None else dist.get_rank() if running else 0
    world = world if world is not None else dist.get_world_size() if running else 1
    return Stage(learner, RankPipeline(rank, world, timeout), sizes)


class Stage:
    """The consecutive blocks of one network that this process trains; made by `stages`.

    Attributes:
        sizes: the number of consecutive blocks of each rank.
    """

    def __init__(self, learner: Learner, pipeline: RankPipeline, sizes: Sequence[int] | None) -> None:
        self.learner, self.pipeline = learner, pipeline
        parts = parameters_of(_chain(learner))
        self.sizes = sizes_of([sum(p.numel() for p in part) for part in parts], pipeline.world, sizes)
        self.update: Update | None = None
        self.broken = False

    def epoch(self, batches: Iterable[Sequence[Any]], *, loss: Loss, update: Update) -> Tensor:
        """Train on all batches, once.

        Args:
            batches: (x, t) or (x, t, ids), the same on all ranks in the same order; x may be `None` but on rank 0.
            loss: loss(output, target).
            update: steps the weights. Pass the same one at every epoch.

        Returns:
            The loss of each batch (M,) before its update, on all ranks.

        Raises:
            TypeError: the update is none, or the loss returns no tensor.
            ValueError: the network is in eval mode, or a sample came twice.
            RuntimeError: the method was taken off, or autocast or inference mode is on; or another rank has failed, or
                had other batches. The epoch is incomplete then, and blocks have trained on different numbers of
                batches: start all processes again, from a saved state.
        """
        if self.broken:
            raise RuntimeError("an epoch was broken off by an error: start all ranks again, from a saved state")
        epoch = Epoch(self.learner, self.pipeline, self.sizes, loss, update)
        self.update, self.broken = update, True
        with torch.no_grad():
            losses = epoch.run(batches)
        self.broken = False
        return losses

    def gather(self) -> None:
        """Give each rank the weights, buffers, optimizer state and memory of the whole network. All ranks must call it.

        Afterwards `learner.net`, and `update.optimizer` if there was an epoch, are as they would be in one process.
        """
        if self.pipeline.world > 1:
            with torch.no_grad():
                gather(_chain(self.learner), self.sizes, self.update, self.pipeline)
                memory, device = self.learner.memory, next(self.learner.net.parameters()).device
                if memory is not None:  # only rank 0 saw the inputs
                    overwrite(memory.fingerprints, 0, self.pipeline, device)


def _chain(learner: Learner) -> Chain:
    chain = check("stages", learner).chain
    assert chain is not None
    return chain
