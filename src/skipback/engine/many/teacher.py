"""The teacher: the teaching of every port of N members, in one product for each port.

A signal that all members share, and that computes each sample from itself alone, is computed for all members at once,
as for one long batch; any other signal is computed member by member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skipback.core.advice import check
from skipback.core.direct import DirectRoute
from skipback.core.records import BatchContext, Needs, SignalInputs, as_matrix
from skipback.engine.many.layers import MemberStack
from skipback.memory import Memory
from skipback.signals import (
    Delayed,
    LossGradient,
    Masked,
    OutputError,
    Scaled,
    Signal,
    Signed,
    Target,
    Ternarised,
    Zero,
    identity,
    sigmoid,
    softmax,
)


def rowwise(signal: Signal) -> bool:
    """Whether each row of a signal is known to depend on that sample alone, but for the batch size in `Scaled`."""
    if isinstance(signal, Scaled | Signed | Ternarised | Masked):
        return rowwise(signal.signal)
    if isinstance(signal, Delayed):
        return rowwise(signal.of)
    if isinstance(signal, OutputError):
        return signal.link in (softmax, sigmoid, identity)
    return isinstance(signal, LossGradient | Target | Zero)


def of_members(signal: Signal, members: int) -> Signal:
    """The same signal for one long batch of all members: a mean stays the mean over one member's batch."""
    if isinstance(signal, Scaled):
        factor = signal.factor * (members if signal.mean else 1)
        return replace(signal, signal=of_members(signal.signal, members), factor=factor)
    if isinstance(signal, Signed | Ternarised | Masked):
        return replace(signal, signal=of_members(signal.signal, members))
    return signal


class Teacher:
    """Signal and feedback of N members.

    Args:
        stars: the direct route of each member, with a fixed matrix for each port.
    """

    def __init__(self, stars: Sequence[DirectRoute]) -> None:
        self.stars, first = list(stars), stars[0]
        self.needs = first.needs
        for star in stars:
            self.needs |= star.needs
        signal = first.method.signal
        self.joint = rowwise(signal) and all(star.method.signal == signal for star in stars)
        self.signal = of_members(signal, len(stars))
        self.feedback = [
            MemberStack([star.parts_of(block)[0] for star, block in zip(stars, blocks, strict=True)])
            for blocks in zip(*(star.ports for star in stars), strict=True)
        ]
        self.memory = (
            StackedMemory([star.memory for star in stars if star.memory is not None]) if self._remembers() else None
        )
        self.checked = False

    def _remembers(self) -> bool:
        return self.joint and self.stars[0].memory is not None

    @property
    def stacks(self) -> list[MemberStack]:
        """All stacks whose slices are the members' feedback and memory."""
        return [*self.feedback, *([] if self.memory is None else self.memory.stacks)]

    def __call__(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> list[Tensor]:
        """The teaching (N, B, D) of each port.

        Args:
            e: dL/dy (N, B, C).
            y: the outputs (N, B, C).
            t: the targets (N, B, ...).
            ids: (N, B), for delayed signals.
        """
        signal = self._together(e, y, t, ids) if self.joint else self._one_by_one(e, y, t, ids)
        return [torch.bmm(signal.to(B.whole.dtype), B.whole.flatten(2)) for B in self.feedback]

    def open(self, x: Tensor, t: Tensor, ids: Tensor | None) -> None:
        """Before the members run: the checks of a single run.

        Raises:
            ValueError: ids are missing, or the input of a remembered sample has changed.
        """
        if Needs.IDS in self.needs and ids is None:
            raise ValueError("a delayed signal needs ids: pass ids= (N, B), each sample's place in its training set")
        if Needs.TARGET in self.needs and not self.checked:
            self.checked = True
            for star, target in zip(self.stars, t, strict=True):
                like = torch.empty(len(target), star.width, dtype=star.dtype, device=target.device)
                check(star.method.signal, as_matrix(target, like), star.feedback)
        for n, star in enumerate(self.stars):
            if star.memory is not None and star.memory.checks_left > 0 and ids is not None:
                star.check_views(x[n], BatchContext(t[n], ids[n]))

    def _together(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Tensor:
        rows, memory = y.flatten(0, 1), None
        target = as_matrix(t.flatten(0, 1), rows) if Needs.TARGET in self.needs else None
        if self.memory is not None and ids is not None and target is not None:
            places = self.memory.places(ids)
            memory = self.memory.read(places, target)
            self.memory.rows.write(places, rows, target)
        return self.signal(SignalInputs(gradient=e.flatten(0, 1), output=rows, target=target, memory=memory)).view(
            e.shape
        )

    def _one_by_one(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Tensor:
        signals = []
        for n, star in enumerate(self.stars):
            own = None if ids is None else ids[n]
            signals.append(star.method.signal(star.step(e[n], y[n], t[n], own)))
            star.remember(y[n], BatchContext(t[n], own))
        return torch.stack(signals)


class StackedMemory:
    """The memories of N members as one table: the row of sample i of member n is n S + i.

    Args:
        memories: the memory of each member, of S samples each, and of one record.
    """

    def __init__(self, memories: Sequence[Memory]) -> None:
        first = memories[0]
        self.memories, (self.samples, outputs) = list(memories), first.rows.shape
        self.stacks = [MemberStack([m.rows for m in memories]), MemberStack([m.seen for m in memories])]
        self.rows = Memory(0, outputs, record=first.record, initial=first.initial)
        self.rows.rows, self.rows.seen = (stack.whole.flatten(0, 1) for stack in self.stacks)
        self.starts = torch.arange(len(memories), device=first.rows.device).unsqueeze(1) * self.samples

    def places(self, ids: Tensor) -> Tensor:
        """The rows of the samples (N, B) of all members, as one vector (N B,).

        Raises:
            IndexError: an id lies outside 0 .. S - 1, and would be a sample of another member.
        """
        ids = ids.to(self.starts.device, torch.int64)
        least, most = torch.aminmax(ids)
        if int(least) < 0 or int(most) >= self.samples:
            raise IndexError(
                f"ids reach from {int(least)} to {int(most)}, but the memory was made for samples 0 to "
                f"{self.samples - 1}: pass memory=len(training set) and the index of each sample in it"
            )
        return (ids + self.starts).flatten()

    def read(self, places: Tensor, target: Tensor) -> Tensor:
        """Read these rows; samples that were never visited get the initial value."""
        self.rows.complete = all(memory.complete for memory in self.memories)  # a member may have loaded a state
        found = self.rows.read(places, target)
        if self.rows.complete:
            for memory in self.memories:
                memory.complete = True
        return found
