"""Counts: Adam's step counts of all parameters in one tensor during a wave, so that one addition increments them all.

The layers of a wave have done different numbers of steps, so the fused kernel gets one count for each parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from skipback.update import FusedAdam, Parameters, Update


class SharedStepCounts(FusedAdam):
    """A fused Adam or AdamW that shares the optimizer of another one; inside `bound`, its counts are one tensor.

    Args:
        update: the other one, bound to its optimizer.
        parameters: all parameters that the wave trains.
    """

    def __init__(self, update: FusedAdam, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(update.make)
        self.optimizer = update.optimizer
        self.states = [update.state(p) for p in parameters]
        self.steps = torch.stack([state["step"] for state in self.states])
        self.whole: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])

    @override
    def advanced(self, parameters: Parameters | list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        if len(parameters) < len(self.steps):
            return super().advanced(parameters)  # some layers have no minibatch: the wave fills or drains
        # cached once all layers work: from then on every tick updates the same parameters in the same order
        if not self.whole[0]:
            held = [self.state(p) for p in parameters]
            self.whole = [s["exp_avg"] for s in held], [s["exp_avg_sq"] for s in held], [s["step"] for s in held]
        self.steps.add_(1)
        return self.whole

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Context in which each count is a view of the one tensor; afterwards it has memory of its own again."""
        own = [state["step"] for state in self.states]
        for state, view in zip(self.states, self.steps, strict=True):
            state["step"] = view
        try:
            yield
        finally:
            for state, step in zip(self.states, own, strict=True):
                state["step"] = step.copy_(state["step"])


def shared_step_counts(update: Update, parameters: Sequence[nn.Parameter]) -> SharedStepCounts | None:
    """Return the update with its counts in one tensor; `None` if it is no fused Adam."""
    if not isinstance(update, FusedAdam):
        return None
    group = update.group(parameters[0])
    return SharedStepCounts(update, parameters) if update.by_kernel(group) else None
