"""Whether hidden blocks move at all. A dead arm must not count as a result, nor as what others are measured against."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from skipback.advice import SkipbackWarning
from skipback.core.method import Direct, HeadOnly, Method
from skipback.lab.data.pipeline_rows import Batch
from skipback.learner import Learner
from skipback.measure.aside import layout_of
from skipback.measure.saturation import saturation
from skipback.signals import Signal, Wrapper, Zero

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By size of an element in bytes, what its bits are read as."""
DEAD = 0.99
"""From this share of units on that are saturated for every sample, a block counts as saturated."""


def hidden(learner: Learner, inputs: tuple[Any, ...]) -> dict[str, nn.Parameter]:
    """The parameters of all blocks but the head, by name."""
    segments = layout_of(learner, inputs).segments
    head = {id(p) for p in segments[-1].parameters} if segments else set()
    return {name: p for name, p in learner.net.named_parameters() if p.requires_grad and id(p) not in head}


def teaches(method: Method) -> bool:
    """Whether a method is there to move hidden blocks: `shallow` is not, nor is the signal `zeros`."""
    if method is not method.base:  # some passes are plain backprop
        return True
    if isinstance(method, HeadOnly):
        return False
    return not (isinstance(method, Direct) and _silent(method.signal))


def _silent(signal: Signal) -> bool:
    return _silent(signal.signal) if isinstance(signal, Wrapper) else isinstance(signal, Zero)


class Movement:
    """Tells after each epoch whether a hidden block has moved. It keeps a number per tensor, no copy of the weights.

    Args:
        learner: with its weights as they start.
        inputs: a batch, to find the blocks.
    """

    def __init__(self, learner: Learner, inputs: tuple[Any, ...]) -> None:
        self.watched = list(hidden(learner, inputs).values()) if teaches(learner.record) else []
        self.sums = self._sums()

    def begin(self) -> None:
        """The weights are what an epoch begins with."""
        self.sums = self._sums()

    def moved(self) -> bool | None:
        """Whether a hidden block has changed since; `None` where none should."""
        if not self.watched:
            return None
        before, self.sums = self.sums, self._sums()
        return self.sums != before

    def _sums(self) -> list[int]:
        """Of the bits of each tensor: those of two states are the same by a chance of 2^-64 at most, or so."""
        found = [p.detach().view(INTEGERS[p.element_size()]).sum(dtype=torch.int64) for p in self.watched]
        return torch.stack(found).tolist() if found else []


def cause(learner: Learner, inputs: tuple[Any, ...], t: Tensor, loss: Any, ids: Tensor | None) -> str:
    """Why no hidden block moves, as far as it can be seen.

    Args:
        learner: after an epoch in which none did.
        inputs: a batch.
        t: its targets.
        loss: loss(output, target).
        ids: for delayed signals.
    """
    feedback = list(learner.feedback.values()) if learner.route is not None else []
    if feedback and not any(bool(B.any()) for B in feedback):
        return "its feedback is all 0"
    if not any(bool(p.any()) for p in hidden(learner, inputs).values() if p.dim() > 1):
        return "its weights started at 0, where they get no gradient"
    ports = saturation(learner, inputs, t, loss, ids=ids)
    if ports and all(port.dead >= DEAD for port in ports):
        return "every unit is saturated"
    return "its gradients there are 0, or the steps too small for the weights' digits"


def warn_unmoved(name: str, epoch: int, learner: Learner, batch: Batch, loss: Any) -> None:
    """Say that no hidden block has moved, and why.

    Args:
        name: of the method.
        epoch: in which none did.
        learner: after it.
        batch: training rows.
        loss: loss(output, target).
    """
    why = cause(learner.eval(), batch.inputs, batch.t, loss, batch.ids)
    said = f"method {name!r}: nothing moved: no weight of a hidden block has changed in epoch {epoch}"
    warnings.warn(f"{said}, as {why}", SkipbackWarning, stacklevel=2)
