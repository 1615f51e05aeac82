"""The teacher: the teaching of every port of N members, in one product for each port.

A signal that all members share, and that computes each sample from itself alone, is computed for all members at once,
as for one long batch; any other signal is computed member by member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skipback.core.direct import DirectRoute
from skipback.core.records import BatchContext, SignalInputs
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
from skipback.targets import as_matrix, matrix_of


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
        members: the direct route of each, with a fixed matrix for each port.
    """

    def __init__(self, members: Sequence[DirectRoute]) -> None:
        self.members, first = list(members), members[0]
        signal = first.direct.signal
        self.joint = rowwise(signal) and all(one.direct.signal == signal for one in members)
        self.signal = of_members(signal, len(members))
        self.feedback = [
            MemberStack([one.parts_of(block)[0] for one, block in zip(members, blocks, strict=True)])
            for blocks in zip(*(one.blocks for one in members), strict=True)
        ]
        memories = [one.memory for one in members if one.memory is not None]
        self.memory = StackedMemory(memories) if self.joint and memories else None
        self.checked = False

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
        if ids is None and any(one.by_ids for one in self.members):
            raise ValueError("a delayed signal needs ids: pass ids= (N, B), each sample's place in its training set")
        for one, target in zip(self.members if not self.checked else (), t, strict=False):
            if one.by_target:
                rows, _ = matrix_of(target, (len(target), one.width), one.dtype, target.device)
                one.advise(rows)
        self.checked = True
        for n, one in enumerate(self.members):
            if one.memory is not None and ids is not None:
                one.check_inputs(x[n], BatchContext(t[n], ids[n]))

    def _together(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Tensor:
        rows, memory, first = y.flatten(0, 1), None, self.members[0]
        target = as_matrix(t.flatten(0, 1), rows) if first.by_target else None
        if self.memory is not None and ids is not None and target is not None:
            places = self.memory.places(ids)
            memory = self.memory.read(places, target)
            self.memory.rows.write(places, rows, target)
        gradient = e.flatten(0, 1) if first.by_gradient else None
        signal = self.signal(SignalInputs(gradient=gradient, output=rows, target=target, memory=memory)).view(e.shape)
        return signal if first.by_gradient else self._masked(signal, e, t)

    def _masked(self, signal: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """Without the rows that are not taught; a mean over a member's rows becomes one over those that are left."""
        if self.members[0].early_known:
            _, found = matrix_of(t.flatten(0, 1), (e.shape[:2].numel(), e.shape[2]), e.dtype, e.device)
            kept = None if found is None else found.view(*e.shape[:2], 1)
        else:
            kept = e.any(2, keepdim=True)
        if kept is None or not self.signal.means:
            return signal if kept is None else signal * kept
        return signal * (kept * (kept.shape[1] / kept.sum(1, keepdim=True).clamp_min(1).to(signal.dtype)))

    def _one_by_one(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Tensor:
        signals = []
        for n, one in enumerate(self.members):
            context, target = BatchContext(t[n], None if ids is None else ids[n]), None
            if one.early_known:
                signal, target = one.early(context)
            else:
                signal = one.late(e[n], y[n], context)
            signals.append(signal)
            one.remember(y[n], context, target)
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
        self.rows.all_seen = all(memory.all_seen for memory in self.memories)  # a member may have loaded a state
        found = self.rows.read(places, target)
        if self.rows.all_seen:
            for memory in self.memories:
                memory.all_seen = True
        return found
