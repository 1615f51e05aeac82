"""An epoch of one stage: each rank trains its blocks while the batches pass through them.

    rank r, batch m    h = receive from r - 1;  for each block: h = f(h), teach, update;  send h to r + 1

While rank r computes batch m, rank r + 1 computes batch m - 1, with weights that it alone updates: no weight is stale,
and every weight is that of one process, bit for bit. K equal ranks need M + K - 1 turns for the M batches of an epoch,
and each computes in M of them: the efficiency is M / (M + K - 1). At the end of the epoch the last rank broadcasts the
losses and F3's memory rows.
"""

from __future__ import annotations

import ctypes
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from skipback.core.direct import DirectRoute
from skipback.core.records import BatchContext, Loss
from skipback.engine.stages.rank_pipeline import RankPipeline
from skipback.learner import Learner
from skipback.step.batch_signal import BatchSignal, early_signal
from skipback.step.errors import error
from skipback.step.fit import check
from skipback.step.rules import Rule
from skipback.update import Update, check_one_by_one, check_update


class StageBatch(NamedTuple):
    """A batch, as every rank reads it.

    Attributes:
        x: the input; only rank 0 uses it.
        signal: what is sent to every block, with target and ids.
        tag: the checksum of all targets and ids so far. A rank with other batches waits for a tag that nobody sends.
    """

    x: Any
    signal: BatchSignal
    tag: int

    @property
    def target(self) -> Tensor:
        """Class indices or values, as they were given."""
        assert self.signal.context.target is not None
        return self.signal.context.target


class Epoch:
    """One epoch.

    Args:
        learner: of the whole network.
        pipeline: the ranks.
        sizes: the number of consecutive blocks of each rank.
        loss: loss(output, target).
        update: steps the weights.

    Raises:
        ValueError: the learner no longer fits (`step.fit`).
        RuntimeError: autocast is on.
    """

    def __init__(
        self, learner: Learner, pipeline: RankPipeline, sizes: Sequence[int], loss: Loss, update: Update
    ) -> None:
        self.pipeline, self.loss, self.update = pipeline, loss, update
        check_update(update)
        traits, layout = check("stages", learner, update, now=True), learner.layout
        chain = traits.chain
        assert chain is not None
        assert layout is not None
        self.direct: DirectRoute = learner.direct
        first = sum(sizes[: pipeline.rank])
        self.hidden = list(enumerate(chain.hidden))[first : first + sizes[pipeline.rank]]
        self.head = chain.head if self.pipeline.last else None
        self.entry = layout.segments[first - 1].shape[1:]  # shape of an arriving activation; rank 0 receives none
        self.device = traits.device
        self.losses: list[Tensor] = []
        self.ids: list[Tensor] = []
        memory = self.direct.memory
        self.met = None if memory is None else torch.zeros(len(memory.rows), dtype=torch.bool)
        self.count = self.sum = 0
        update.bind(learner)
        check_one_by_one(update, "a stage")

    def run(self, batches: Iterable[Sequence[Any]]) -> Tensor:
        """Train on all batches, and exchange losses and memory rows at the end. Returns the losses."""
        for batch, h in self._with_inputs(self._batch(*batch) for batch in batches):
            self._train(batch, h)
        self.pipeline.flush()
        return self._drain()

    def _batch(self, x: Any, t: Tensor, ids: Tensor | None = None) -> StageBatch:
        """Compute the signal ahead of time: within this epoch no other sample writes the memory rows that it reads."""
        signal = early_signal(self.direct, BatchContext(t, ids))
        self._check_in(t, ids)
        return StageBatch(x, signal, self.sum & 0x7FFFFFFF)

    def _with_inputs(self, batches: Iterator[StageBatch]) -> Iterator[tuple[StageBatch, Tensor]]:
        """Each batch with the input of this rank's first block; the next input is received meanwhile."""
        if self.pipeline.rank == 0:
            yield from ((batch, batch.x) for batch in batches)
            return
        coming: deque[tuple[StageBatch, tuple[Tensor, dist.Work]]] = deque()
        for batch in batches:
            coming.append((batch, self.pipeline.expect(self._room(batch), batch.tag)))
            if len(coming) > 1:
                now, wanted = coming.popleft()
                yield now, self.pipeline.arrived(wanted)
        for now, wanted in coming:
            yield now, self.pipeline.arrived(wanted)

    def _room(self, batch: StageBatch) -> Tensor:
        return torch.empty((len(batch.target), *self.entry), dtype=self.direct.dtype, device=self.device)

    def _train(self, batch: StageBatch, h: Tensor) -> None:
        if self.pipeline.rank == 0:
            self.direct.check_inputs(h, batch.signal.context)
        for k, (_, rule) in self.hidden:
            h = rule.run(h)
            if k == self.hidden[-1][0] and self.head is None:
                self.pipeline.send(self._sendable(h), batch.tag)  # before teaching: the next rank goes on
            rule.learn(batch.signal.teaching(k, h), self.update)
        if self.head is not None:
            self._finish(self.head, self.head.run(h), batch)

    def _sendable(self, h: Tensor) -> Tensor:
        dtype = self.direct.dtype
        if h.dtype != dtype:
            raise RuntimeError(f"a block returned {h.dtype}, but weights and sent activations are {dtype}")
        return h

    def _finish(self, head: Rule, y: Tensor, batch: StageBatch) -> None:
        """Compute the loss, write the memory, and update the head by its exact gradient."""
        value, e = error(self.loss, y, batch.target, 1.0)
        self.direct.remember(y, batch.signal.context, batch.signal.target)
        head.learn(e, self.update)
        self.losses.append(value)

    def _check_in(self, t: Tensor, ids: Tensor | None) -> None:
        """Add a batch to the count and checksum that all ranks compare.

        Raises:
            ValueError: a sample comes twice, but the other ranks receive its new memory row only after the epoch.
        """
        self.count, self.sum = self.count + 1, _checksum(t, self.sum)
        if ids is None:
            return
        self.sum = _checksum(ids, self.sum)
        if self.met is None:
            return
        unique, counts = ids.to("cpu", torch.int64).unique(return_counts=True)
        again = unique[(counts > 1) | self.met[unique]].tolist()
        if again:
            raise ValueError(
                f"sample {again[0]} came twice in one epoch, and other ranks learn its new error only at the end: let "
                "each sample come once per call of epoch()"
            )
        self.met[unique] = True
        self.ids.append(ids)

    def _drain(self) -> Tensor:
        """Broadcast losses and memory rows from the last rank."""
        if self.pipeline.world > 1:
            self._agree()
        last, dtype = self.pipeline.world - 1, self.direct.dtype
        known = torch.stack(self.losses).to(dtype) if self.losses else torch.empty(self.count, dtype=dtype)
        losses = self.pipeline.spread(known.to(self.device), last)
        memory = self.direct.memory
        if memory is not None and self.ids and self.pipeline.world > 1:
            ids = torch.cat(self.ids).to(memory.rows.device, torch.int64)
            rows = self.pipeline.spread(memory.rows.index_select(0, ids).to(self.device), last)
            memory.rows.index_copy_(0, ids, rows.to(memory.rows.device))
            memory.seen.index_fill_(0, ids, True)
        return losses

    def _agree(self) -> None:
        """Compare the counts and checksums of all ranks.

        Raises:
            RuntimeError: the ranks have trained on different batches.
        """
        every = [
            one.tolist() for one in self.pipeline.collect(torch.tensor([self.count, self.sum], device=self.device))
        ]
        other = [rank for rank, one in enumerate(every) if one != every[0]]
        if other:
            raise RuntimeError(
                f"rank {other[0]} had other targets or ids than rank 0, so the weights are wrong: give all ranks the "
                "same batches in the same order (seed the loader's generator alike on all of them)"
            )


def _checksum(tensor: Tensor, start: int) -> int:
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return zlib.crc32(ctypes.string_at(flat.data_ptr(), flat.nbytes), start)  # .numpy() would need NumPy
