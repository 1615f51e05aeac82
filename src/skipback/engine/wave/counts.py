"""Counts: Adam's counts of steps in one tensor during a wave, as one addition to each of them would cost most.

The layers of a wave are at different counts, each at one of its own, so the fused kernel is told of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from skipback.update import FusedAdam, Parameters, Update


class Counted(FusedAdam):
    """A fused Adam or AdamW with the numbers, and while `bound` is not open the state, of the one it is made from.

    Args:
        update: bound to an optimizer.
        parameters: all that a wave changes.
    """

    def __init__(self, update: FusedAdam, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(update.make)
        self.optimizer = update.optimizer
        self.states = [update.state(p) for p in parameters]
        self.steps = torch.stack([state["step"] for state in self.states])
        self.whole: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])

    @override
    def lists(self, parameters: Parameters | list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        # cached once all layers work: from then on every tick updates the same parameters in the same order
        if len(parameters) < len(self.steps):
            return super().lists(parameters)
        if not self.whole[0]:
            self.whole = super().lists(parameters)
        return self.whole

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Inside, the counts are views of the one tensor; then they have their own memory again."""
        own = [state["step"] for state in self.states]
        for state, view in zip(self.states, self.steps, strict=True):
            state["step"] = view
        try:
            yield
        finally:
            for state, step in zip(self.states, own, strict=True):
                state["step"] = step.copy_(state["step"])

    @override
    def counted(self, steps: list[Tensor]) -> list[Tensor]:
        if len(steps) == len(self.steps):
            self.steps.add_(1)
            return steps
        return super().counted(steps)  # the wave fills or drains


def counted(update: Update, parameters: Sequence[nn.Parameter]) -> Counted | None:
    """The same with counts in one tensor, where that is possible."""
    if not isinstance(update, FusedAdam):
        return None
    group = update.group(parameters[0])
    return Counted(update, parameters) if update.by_kernel(group) else None
