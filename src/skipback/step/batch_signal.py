"""The signal of one batch, and what it teaches each block: in a step, in a stage, and at the first block of a wave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from skipback.core.broadcast import lesson_gradient, scaled, teaching
from skipback.core.direct import DirectRoute
from skipback.core.records import BatchContext

NOTHING: Mapping[str, Tensor] = {}


class BatchSignal:
    """What is sent to every port for one batch.

    Args:
        direct: the feedback.
        context: target, ids and scale of the batch.
        signal: (R, C), of the loss as it was.
        output: the shape of the output.
        target: as a matrix, where it was made.
        ahead: by block, what forward mode has found.
    """

    def __init__(
        self,
        direct: DirectRoute,
        context: BatchContext,
        signal: Tensor,
        output: Sequence[int],
        target: Tensor | None = None,
        ahead: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        self.direct, self.context, self.output, self.target, self.ahead = direct, context, output, target, ahead
        self.signal = signal * context.scale if scaled(context.scale) and not direct.direct.signal.scales else signal
        self.plan = direct.whole_plan()

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
    output = target.shape if len(direct.shape) < 3 else direct.output_shape(target, context)
    return BatchSignal(direct, context, signal, output, target, ahead)


def late_signal(
    direct: DirectRoute, e: Tensor, y: Tensor, context: BatchContext, ahead: Mapping[str, Tensor] = NOTHING
) -> BatchSignal:
    """That of a pass that has run, from the gradient e at its output y."""
    return BatchSignal(direct, context, direct.late(e, y, context), y.shape, None, ahead)
