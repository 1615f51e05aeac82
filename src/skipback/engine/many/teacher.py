"""The teacher: what N stars send to their ports, in one product for each port.

Where all members have one signal that looks at each sample alone, it is found for all of them at once, as if their
batches were one; else member by member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skipback.engine.guards import check
from skipback.engine.many.layers import Stack
from skipback.engine.star import Given, Star
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
from skipback.types import Needs, Step, as_matrix


def rowwise(signal: Signal) -> bool:
    """Whether a signal is known to look at each sample alone, but for the size of the batch in `Scaled`."""
    if isinstance(signal, Scaled | Signed | Ternarised | Masked):
        return rowwise(signal.signal)
    if isinstance(signal, Delayed):
        return rowwise(signal.of)
    if isinstance(signal, OutputError):
        return signal.link in (softmax, sigmoid, identity)
    return isinstance(signal, LossGradient | Target | Zero)


def of_members(signal: Signal, members: int) -> Signal:
    """The same signal for the batches of all members in a row: a mean is one over a member's own batch."""
    if isinstance(signal, Scaled):
        factor = signal.factor * (members if signal.mean else 1)
        return replace(signal, signal=of_members(signal.signal, members), factor=factor)
    if isinstance(signal, Signed | Ternarised | Masked):
        return replace(signal, signal=of_members(signal.signal, members))
    return signal


class Teacher:
    """Signal and feedback of N members.

    Args:
        stars: theirs; all feedback is a fixed matrix for each port.
    """

    def __init__(self, stars: Sequence[Star]) -> None:
        self.stars, first = list(stars), stars[0]
        self.needs = first.needs
        for star in stars:
            self.needs |= star.needs
        signal = first.method.signal
        self.joint = rowwise(signal) and all(star.method.signal == signal for star in stars)
        self.signal = of_members(signal, len(stars))
        self.feedback = [
            Stack([star.parts_of(block)[0] for star, block in zip(stars, blocks, strict=True)])
            for blocks in zip(*(star.ports for star in stars), strict=True)
        ]
        self.memory = (
            Together([star.memory for star in stars if star.memory is not None]) if self._remembers() else None
        )
        self.checked = False

    def _remembers(self) -> bool:
        return self.joint and self.stars[0].memory is not None

    @property
    def stacks(self) -> list[Stack]:
        """All tensors that are shared with the members."""
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
        """Before the members run: check what a single run would check.

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
            if star.memory is not None and star.memory.input_checks_left > 0 and ids is not None:
                star.check_views(x[n], Given(t[n], ids[n]))

    def _together(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Tensor:
        rows, memory = y.flatten(0, 1), None
        target = as_matrix(t.flatten(0, 1), rows) if Needs.TARGET in self.needs else None
        if self.memory is not None and ids is not None and target is not None:
            places = self.memory.places(ids)
            memory = self.memory.read(places, target)
            self.memory.rows.write(places, rows, target)
        return self.signal(Step(gradient=e.flatten(0, 1), output=rows, target=target, memory=memory)).view(e.shape)

    def _one_by_one(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Tensor:
        signals = []
        for n, star in enumerate(self.stars):
            own = None if ids is None else ids[n]
            signals.append(star.method.signal(star.step(e[n], y[n], t[n], own)))
            star.remember(y[n], Given(t[n], own))
        return torch.stack(signals)


class Together:
    """The memories of N members as one, member by member: the row of sample i of member n is n S + i.

    Args:
        memories: theirs, of S samples each, and of one record.
    """

    def __init__(self, memories: Sequence[Memory]) -> None:
        first = memories[0]
        self.memories, (self.samples, outputs) = list(memories), first.rows.shape
        self.stacks = [Stack([m.rows for m in memories]), Stack([m.seen for m in memories])]
        self.rows = Memory(0, outputs, record=first.record, initial=first.initial)
        self.rows.rows, self.rows.seen = (stack.whole.flatten(0, 1) for stack in self.stacks)
        self.starts = torch.arange(len(memories), device=first.rows.device).unsqueeze(1) * self.samples

    def places(self, ids: Tensor) -> Tensor:
        """Where the samples (N, B) of the members lie, in a row.

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
        """The rows of these places, initial where unseen."""
        self.rows.all_seen = all(memory.all_seen for memory in self.memories)  # a member may have loaded a state
        found = self.rows.read(places, target)
        if self.rows.all_seen:
            for memory in self.memories:
                memory.all_seen = True
        return found
