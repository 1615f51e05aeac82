"""The signal of one batch, and what it teaches each block: in a step, in a stage, and at the first block of a wave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from skipback.core.broadcast import lesson_gradient, scaled, teaching
from skipback.core.direct import DirectRoute
from skipback.core.feedback import FeedbackTensors, Lesson
from skipback.core.records import BatchContext
from skipback.step.checks import check_taught

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

    def check(self, k: int, port: Tensor) -> None:
        """Refuse a port whose shape does not fit."""
        check_taught(self.plan.ports[k], port, self.signal, self.output)

    def teaching(self, k: int, port: Tensor) -> Tensor:
        """The teaching of port k."""
        return self.taught(k, port, *self.lesson(k, port))

    def lesson(self, k: int, port: Tensor) -> tuple[Lesson, FeedbackTensors]:
        """What the feedback of port k sees, and its tensors."""
        direct, block = self.direct, self.plan.ports[k].name
        h, ahead = port if direct.by_activity else None, self.ahead.get(block)
        return self.plan.lesson(k, self.signal, self.output, port.shape, h, ahead), direct.parts_of(block)

    def taught(self, k: int, port: Tensor, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        """The teaching of port k, from its lesson."""
        return teaching(self.plan, k, lesson, parts, self.context, port.shape, port.dtype)

    def learned(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        """The gradients of learned feedback."""
        return lesson_gradient(self.plan, lesson, parts, self.context)


def early_signal(direct: DirectRoute, context: BatchContext, ahead: Mapping[str, Tensor] = NOTHING) -> BatchSignal:
    """That of a pass that has not begun."""
    signal, target = direct.early(context)
    return BatchSignal(direct, context, signal, direct.output_shape(target, context), target, ahead)


def late_signal(
    direct: DirectRoute, e: Tensor, y: Tensor, context: BatchContext, ahead: Mapping[str, Tensor] = NOTHING
) -> BatchSignal:
    """That of a pass that has run, from the gradient e at its output y."""
    return BatchSignal(direct, context, direct.late(e, y, context), y.shape, None, ahead)
