"""Track: measure at every k-th training pass; training itself stays the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.alignment import alignment

Measure = Callable[..., Sequence[Any]]
"""measure(learner, x, t, loss, ids=ids) -> records."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The result of one measure.

    Attributes:
        forward: number of training passes before it: 0 is before the first one.
        measure: the measure's name.
        records: the records that the measure returned.
    """

    forward: int
    measure: str
    records: tuple[Any, ...]


class Track:
    """Measures while the network trains, and collects the results in `looks`, until `stop` or the end of a `with`."""

    def __init__(self, learner: Learner, measures: Sequence[Measure], every: int, arguments: dict[str, Any]) -> None:
        self.learner, self.measures, self.every, self.arguments = learner, measures, every, arguments
        self.looks: list[Look] = []
        self.forwards = 0
        self._looking = False
        # prepended: before the learner's hook, so that a measure runs outside of a pass
        self._handle = learner.net.register_forward_pre_hook(self._count, prepend=True)

    def stop(self) -> list[Look]:
        """Stop measuring. Returns all results."""
        self._handle.remove()
        return self.looks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _count(self, net: nn.Module, args: Any) -> None:
        if self._looking or not net.training or self.learner.gate.idle:
            return
        self._looking = True
        try:
            if self.forwards % self.every == 0:
                self._look()
        finally:
            self._looking = False
        self.forwards += 1

    def _look(self) -> None:
        for measure in self.measures:
            records = tuple(measure(self.learner, **self.arguments))
            self.looks.append(Look(forward=self.forwards, measure=measure.__name__, records=records))


def track(
    learner: Learner,
    *,
    batch: tuple[Any, Tensor],
    loss: Loss,
    ids: Tensor | None = None,
    every: int = 100,
    measures: Sequence[Measure] = (alignment,),
) -> Track:
    """Measure on one batch at every k-th training pass, before it runs. Training is the same to the bit.

    A training pass is a call of the network in training mode, with gradients enabled, outside of `exact()`. In a
    compiled network a look is a graph break: keep `fullgraph=True` for training without it.

    Args:
        learner: with any method.
        batch: (x, t), always the same, so that looks can be compared.
        loss: loss(output, target).
        ids: for delayed signals: of the batch.
        every: k; the first look is before the first pass.
        measures: of this folder, or your own with the same arguments.

    Raises:
        ValueError: every is less than 1.
    """
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    x, t = batch
    return Track(learner, measures, every, {"x": x, "t": t, "loss": loss, "ids": ids})
