"""The signal of one batch, and what it teaches each block: in a step, in a stage, and at the first block of a wave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from skipback.core.broadcast import Plan, lesson_gradient, scaled, teaching
from skipback.core.direct import DirectRoute
from skipback.core.records import BatchContext
from skipback.targets import output_shape

NOTHING: Mapping[str, Tensor] = {}


@dataclass
class BatchSignal:
    """What is sent to every port for one batch.

    Attributes:
        direct: the feedback.
        plan: how each port is taught.
        context: target, ids and scale of the batch.
        signal: (R, C), scaled like the loss.
        output: the shape of the output.
        target: as a matrix, where it was made.
        ahead: by block, what forward mode has found.
    """

    direct: DirectRoute
    plan: Plan
    context: BatchContext
    signal: Tensor
    output: Sequence[int]
    target: Tensor | None
    ahead: Mapping[str, Tensor]

    def teaching(self, k: int, port: Tensor, learn: Callable[[Tensor, Tensor], None] | None = None) -> Tensor:
        """The teaching of port k.

        Args:
            k: which port.
            port: its value.
            learn: gets each tensor of its feedback, if that learns, with its gradient.
        """
        direct, plan, block = self.direct, self.plan, self.plan.ports[k].name
        h, ahead, parts = port if direct.by_activity else None, self.ahead.get(block), direct.parts_of(block)
        lesson = plan.lesson(k, self.signal, self.output, port.shape, h, ahead)
        if learn is not None:
            for part, change in zip(parts, lesson_gradient(plan, lesson, parts, self.context), strict=True):
                learn(part, change)
        return teaching(plan, k, lesson, parts, self.context, port.shape, port.dtype)


def early_signal(direct: DirectRoute, context: BatchContext, ahead: Mapping[str, Tensor] = NOTHING) -> BatchSignal:
    """That of a pass that has not begun."""
    signal, target = direct.early(context)
    if scaled(context.scale) and not direct.direct.signal.scales:
        signal = signal * context.scale
    output: Sequence[int] = target.shape
    if len(direct.shape) > 2 and context.target is not None:
        output = output_shape(context.target, len(target), direct.width, len(direct.shape))
    return BatchSignal(direct, direct.whole_plan(), context, signal, output, target, ahead)


def late_signal(
    direct: DirectRoute, e: Tensor, y: Tensor, context: BatchContext, ahead: Mapping[str, Tensor] = NOTHING
) -> BatchSignal:
    """That of a pass that has run, from the gradient e at its output y."""
    signal = direct.late(e, y, context)
    if scaled(context.scale) and not direct.direct.signal.scales:
        signal = signal * context.scale
    return BatchSignal(direct, direct.whole_plan(), context, signal, y.shape, None, ahead)
