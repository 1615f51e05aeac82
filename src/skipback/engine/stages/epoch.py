"""An epoch of one stage: its blocks are trained while the batches pass by.

    rank r, batch m    h = receive from r - 1;  for each block: h = f(h), teach, update;  send h to r + 1

While rank r works on batch m, rank r + 1 works on batch m - 1, by weights that only it changes: none are stale, all are
those of one process, bit for bit. K equal ranks need M + K - 1 turns for M batches, and each works in M of them: the
efficiency is M / (M + K - 1), M being a whole epoch. At its end the last rank hands out losses and F3's memory rows.
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

from skipback.engine.learner import Learner
from skipback.engine.stages.fit import fitting
from skipback.engine.stages.line import Line
from skipback.engine.star import Given, Star
from skipback.engine.step.rules import Rule
from skipback.types import Loss
from skipback.update import Update


class Turn(NamedTuple):
    """A batch, as all ranks know it.

    Attributes:
        x: the input; only rank 0 looks at it.
        given: target and ids.
        signal: (N, C).
        tag: the checksum of targets and ids up to here. A rank with other batches waits for a tag that never comes.
    """

    x: Any
    given: Given
    signal: Tensor
    tag: int


class Epoch:
    """One epoch.

    Args:
        learner: of the whole network.
        line: the ranks.
        sizes: how many blocks each rank keeps.
        loss: loss(output, target).
        update: what changes the weights.

    Raises:
        ValueError: the learner is not what it was when the stage was made, or autocast is on.
    """

    def __init__(self, learner: Learner, line: Line, sizes: Sequence[int], loss: Loss, update: Update) -> None:
        self.line, self.loss, self.update = line, loss, update
        star, layout, chain = learner.star, learner.layout, fitting(learner)
        assert star is not None
        assert layout is not None
        self.star: Star = star
        self.plan = star.plan(tuple(star.ports))
        first = sum(sizes[: line.rank])
        self.hidden = list(enumerate(chain.hidden))[first : first + sizes[line.rank]]
        self.head = chain.head if self.line.last else None
        self.entry = layout.segments[first - 1].shape[1:]  # of what arrives; nothing does at rank 0
        self.device = next(learner.net.parameters()).device
        self.losses: list[Tensor] = []
        self.ids: list[Tensor] = []
        self.met = None if star.memory is None else torch.zeros(len(star.memory.rows), dtype=torch.bool)
        self.count = self.sum = 0
        if torch.is_autocast_enabled(self.device.type):
            raise ValueError("epoch() runs without autocast: leave it, or train in one process")
        update.bind(learner.parameters())

    def run(self, batches: Iterable[Sequence[Any]]) -> Tensor:
        """All batches, and what is handed out at the end."""
        for turn, h in self._fed(self._turn(*batch) for batch in batches):
            self._train(turn, h)
        self.line.flush()
        return self._drain()

    def _turn(self, x: Any, t: Tensor, ids: Tensor | None = None) -> Turn:
        """The signal is read ahead of its turn: in this epoch no other sample writes these rows."""
        given = Given(t, ids)
        signal, _ = self.star.early(given)
        self._note(t, ids)
        return Turn(x, given, signal, self.sum & 0x7FFFFFFF)

    def _fed(self, turns: Iterator[Turn]) -> Iterator[tuple[Turn, Tensor]]:
        """Each turn, and what enters the first block of this rank; the next one travels while this one is trained."""
        if self.line.rank == 0:
            yield from ((turn, turn.x) for turn in turns)
            return
        coming: deque[tuple[Turn, tuple[Tensor, dist.Work]]] = deque()
        for turn in turns:
            coming.append((turn, self.line.expect(self._room(turn), turn.tag)))
            if len(coming) > 1:
                now, wanted = coming.popleft()
                yield now, self.line.arrived(wanted)
        for now, wanted in coming:
            yield now, self.line.arrived(wanted)

    def _room(self, turn: Turn) -> Tensor:
        assert turn.given.target is not None
        return torch.empty((len(turn.given.target), *self.entry), dtype=self.star.dtype, device=self.device)

    def _train(self, turn: Turn, h: Tensor) -> None:
        if self.line.rank == 0:
            self.star.check_views(h, turn.given)
        for k, (block, rule) in self.hidden:
            h = rule.run(h)
            if k == self.hidden[-1][0] and self.head is None:
                self.line.send(self._sendable(h), turn.tag)  # untaught: the rank behind needs nothing else
            self._teach(k, block, rule, h, turn.signal)
        if self.head is not None:
            self._finish(self.head, self.head.run(h), turn.given)

    def _sendable(self, h: Tensor) -> Tensor:
        if h.dtype != self.star.dtype:
            raise RuntimeError(f"a block returned {h.dtype}, but the weights, and what is sent, are {self.star.dtype}")
        return h

    def _teach(self, k: int, block: str, rule: Rule, y: Tensor, signal: Tensor) -> None:
        """As in a step of one process."""
        lesson = self.plan.lesson(k, signal, y)
        teaching = self.star.method.feedback.project(lesson, self.star.parts_of(block))
        rule.learn(teaching.reshape(y.shape).to(y.dtype), self.update)

    def _finish(self, head: Rule, y: Tensor, given: Given) -> None:
        """The loss, and the head's exact gradient; what the memory keeps of this visit."""
        assert given.target is not None
        leaf = y.detach().requires_grad_()
        with torch.enable_grad():
            value = self.loss(leaf, given.target)
        (e,) = torch.autograd.grad(value, leaf)
        self.star.remember(y, given)
        head.learn(e, self.update)
        self.losses.append(value.detach())

    def _note(self, t: Tensor, ids: Tensor | None) -> None:
        """Add a batch to what all ranks must agree on.

        Raises:
            ValueError: a sample comes twice, but its new row is known to the other ranks only after the epoch.
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
        """Losses and memory rows go from the last rank to all."""
        if self.line.world > 1:
            self._agree()
        last, dtype = self.line.world - 1, self.star.dtype
        known = torch.stack(self.losses).to(dtype) if self.losses else torch.empty(self.count, dtype=dtype)
        losses = self.line.spread(known.to(self.device), last)
        memory = self.star.memory
        if memory is not None and self.ids and self.line.world > 1:
            ids = torch.cat(self.ids).to(memory.rows.device, torch.int64)
            rows = self.line.spread(memory.rows.index_select(0, ids).to(self.device), last)
            memory.rows.index_copy_(0, ids, rows.to(memory.rows.device))
            memory.seen.index_fill_(0, ids, True)
        return losses

    def _agree(self) -> None:
        """Compare what the ranks have counted and summed.

        Raises:
            RuntimeError: they have trained on different batches.
        """
        every = [one.tolist() for one in self.line.collect(torch.tensor([self.count, self.sum], device=self.device))]
        other = [rank for rank, one in enumerate(every) if one != every[0]]
        if other:
            raise RuntimeError(
                f"rank {other[0]} had other targets or ids than rank 0, so the weights are wrong: give all ranks the "
                "same batches in the same order (seed the loader's generator alike on all of them)"
            )


def _checksum(tensor: Tensor, start: int) -> int:
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return zlib.crc32(ctypes.string_at(flat.data_ptr(), flat.nbytes), start)  # .numpy() would need NumPy
