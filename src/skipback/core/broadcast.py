"""The whole engine: one autograd function that rewires the graph from a chain into a star.

    forward    (y, port_1 .. port_L, B_1 .. B_L) -> y
    backward   dL/dy -> dL/dy for y, feedback(signal, B_l) for port l, and the gradient of B_l if it learns

Three rules keep it correct under torch.compile, DDP and accumulation: it reads nothing but its inputs (a buffer that is
filled after the forward pass would be captured stale); gradients leave through autograd (a hand-written `p.grad` is not
synchronised by DDP); and the ports are attached tensors, while what flows on in the network is detached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipback.advice import SECOND_ORDER
from skipback.blocks.rows import PER_SAMPLE, Columns, output_rows
from skipback.blocks.specs import PortSpec
from skipback.core.feedback import FeedbackTensors, Lesson, Sees
from skipback.core.method import Direct
from skipback.core.records import BatchContext, Needs, SignalInputs

OnError = Callable[..., None]
"""Called with the output (detached), the error, the batch context, and the node that made the output."""


@dataclass(kw_only=True, eq=False)
class Plan:
    """One way through the network, as it is taught: what the broadcast knows, beside tensors.

    Attributes:
        method: the signal and the feedback.
        ports: what the feedback of each port must fit.
        names: of the feedback tensors of all ports, each once, in the order of the flat list.
        indices: for each port, the indices of its feedback tensors in the flat list passed to `Broadcast.apply`. A
            tensor shared by several ports appears in that list once.
        columns: for each port, which columns of the signal teach it, where there are several outputs; else `None`.
        picks: the numbers of the ports among the tensors that a pass meets; `None` where those are all ports.
        fitted: shapes of the output and the ports that were found to fit.
    """

    method: Direct
    ports: tuple[PortSpec, ...]
    names: tuple[str, ...]
    indices: tuple[tuple[int, ...], ...]
    columns: tuple[Columns | None, ...]
    picks: tuple[int, ...] | None = None
    fitted: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        sees, signal = self.method.feedback.sees, self.method.signal
        # asked at every step, and a flag takes as long to ask as a small product
        self.by_activity, self.by_relay = Sees.ACTIVITY in sees, Sees.RELAY in sees
        self.by_output, self.scales = Needs.OUTPUT in signal.needs, signal.scales
        self.plain = all(spec.rows is PER_SAMPLE for spec in self.ports)  # then shapes follow from that of the error
        self.one_each = self.indices == tuple((k,) for k in range(len(self.indices)))

    def lesson(
        self, k: int, signal: Tensor, output: Sequence[int], port: Sequence[int], h: Tensor | None, ahead: Tensor | None
    ) -> Lesson:
        """What the feedback of port k sees: its rows of the signal and of the port h, and its forward-mode result."""
        spec, columns = self.ports[k], self.columns[k]
        if columns is not None:
            signal = torch.cat([_summed(signal, group) for group in columns], 1)
            output = (*output[:1], signal.shape[1]) if len(output) == 2 else output
        relayed = ahead is not None and self.by_relay
        return Lesson(
            port=spec,
            signal=signal
            if len(output) == 2 and spec.rows is PER_SAMPLE
            else spec.rows.of_signal(signal, output, port),
            activity=None if h is None else spec.rows.of_port(h, spec.shape),
            jacobian=None if relayed else ahead,
            relayed=ahead if relayed else None,
        )

    def split(self, flat: Sequence[Tensor]) -> list[FeedbackTensors]:
        """The tensors of each port's feedback, out of the flat list."""
        if self.one_each:
            return list(zip(flat, strict=True))
        return [tuple([flat[i] for i in index]) for index in self.indices]

    def join(self, changes: Sequence[FeedbackTensors], count: int) -> list[Tensor | None]:
        """The reverse of `split`, for gradients: of a tensor that several ports hold, they add up."""
        joined: list[Tensor | None] = [None] * count
        for index, of_port in zip(self.indices, changes, strict=True):
            for i, change in zip(index, of_port, strict=True):
                before = joined[i]
                joined[i] = change if before is None else before + change
        return joined


def _summed(signal: Tensor, group: tuple[tuple[int, int], ...]) -> Tensor:
    """The sum of some columns (start, stop) of the signal; columns of no output, start < 0, are zeros."""
    parts = [signal[:, a:b] if a >= 0 else signal.new_zeros(len(signal), b) for a, b in group]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def scaled(scale: float | Tensor) -> bool:
    """Whether the scale is anything but a plain 1: a product with it takes as long as a small block's."""
    return type(scale) is not float or scale != 1


def teaching(
    plan: Plan,
    k: int,
    lesson: Lesson,
    parts: FeedbackTensors,
    context: BatchContext,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """The teaching of port k, in the shape and dtype of the port. The one place where a block is taught."""
    if plan.method.feedback.homogeneous or not scaled(context.scale):
        taught = plan.method.feedback.project(lesson, parts)
    else:  # the law of such a feedback is that of the loss as it was
        taught = plan.method.feedback.project(_unscaled(lesson, context), parts) * context.scale
    rows = plan.ports[k].rows
    if rows is not PER_SAMPLE or taught.shape != shape:  # another order of dimensions may have the same sizes
        taught = rows.to_port(taught, shape)
    return taught if taught.dtype == dtype else taught.to(dtype)


def lesson_gradient(plan: Plan, lesson: Lesson, parts: FeedbackTensors, context: BatchContext) -> FeedbackTensors:
    """The gradients of learned feedback: that of the loss as it was, and then scaled like the loss."""
    wide = _unscaled(lesson, context, parts[0].dtype)  # half precision would lose the quotient
    found = plan.method.feedback.gradient(wide, parts)
    return tuple([d * context.scale for d in found]) if scaled(context.scale) else found


def _unscaled(lesson: Lesson, context: BatchContext, dtype: torch.dtype | None = None) -> Lesson:
    signal = lesson.signal if dtype is None else lesson.signal.to(dtype)
    return Lesson(
        port=lesson.port,
        signal=signal / context.scale if scaled(context.scale) else signal,
        activity=lesson.activity,
        jacobian=lesson.jacobian,
        relayed=lesson.relayed,
    )


class Broadcast(torch.autograd.Function):
    """See the module's docstring. `apply` returns y, connected so that its gradient is broadcast to the ports."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        context: BatchContext,
        first: OnError | None,
        y: Tensor,
        known: Tensor | None,
        target: Tensor | None,
        *rest: Tensor | None,
    ) -> Tensor:
        """Pass y on, and save what backward needs.

        Args:
            ctx: of autograd.
            plan: the method, and the ports of this pass.
            context: its scale multiplies signals and feedback gradients that cannot see what multiplies the loss.
            first: is shown the output and the error that arrives at it, where nobody has looked yet.
            y: the network's output (N, ...).
            known: the signal (R, C), where it is known by now; `None` where it needs the gradient.
            target: the target (R, C), for signals that need it together with the gradient.
            rest: the attached outputs of the blocks; for each of them what forward mode found before this pass, or
                `None`; then the tensors of their feedback, in the plan's order.
        """
        count = len(plan.ports)
        ports, ahead, parts = rest[:count], rest[count : 2 * count], rest[2 * count :]
        output = y.detach() if plan.by_output and known is None else None
        ctx.save_for_backward(known, target, output, *(ports if plan.by_activity else [None] * count), *ahead, *parts)
        ctx.plan, ctx.context, ctx.before = plan, context, None
        ctx.first = None if first is None else functools.partial(first, y.detach(), context=context, node=y.grad_fn)
        ctx.dtypes, shapes = [], []
        for port in ports:  # a plain loop: torch.compile knows no attrgetter, and a comprehension costs a call
            assert port is not None  # only what stands behind the ports may be missing
            ctx.dtypes.append(port.dtype)
            shapes.append(port.shape)
        ctx.shapes = None if plan.plain else shapes
        return y.detach()  # y itself would become a view, which the user could not write in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Send the signal to every port, and gradients to the feedback that learns."""
        (e,), compiling = gradients, torch.compiler.is_compiling()
        if torch.is_grad_enabled() and not compiling:
            raise RuntimeError(SECOND_ORDER)
        if ctx.first is not None and not compiling:
            ctx.first(e)
        before, total = ctx.before, e if ctx.before is None else ctx.before + e
        sent = _sent(ctx, total)
        if before is not None:  # a second backward through this pass: only what its error adds
            earlier = _sent(ctx, before)
            sent = [a if a is None or b is None else a - b for a, b in zip(sent, earlier, strict=True)]
        if not compiling:
            ctx.before = total.detach()
        count = len(ctx.plan.ports)
        return (None, None, None, e, None, None, *sent[:count], *[None] * count, *sent[count:])


def _sent(ctx: Any, e: Tensor) -> list[Tensor | None]:
    """The teaching of each port, then the gradient of each feedback tensor, for an error e at the output."""
    plan, context, count = ctx.plan, ctx.context, len(ctx.plan.ports)
    known, target, output, *rest = ctx.saved_tensors
    parts = plan.split(rest[2 * count :])
    rows = e if e.dim() == 2 else output_rows(e)
    if known is not None:
        signal = where_error(plan.method, known, rows)
    else:
        seen = None if output is None else output_rows(output)
        signal = plan.method.signal(SignalInputs(gradient=rows, output=seen, target=target))
    if not plan.scales and scaled(context.scale):
        signal = signal * context.scale
    learns = any(ctx.needs_input_grad[6 + 2 * count :])
    sent: list[Tensor | None] = [None] * (count + len(rest) - 2 * count)
    found: list[FeedbackTensors] = []
    for k in range(count):
        if learns or ctx.needs_input_grad[6 + k]:
            shape = (e.shape[0], *plan.ports[k].shape) if ctx.shapes is None else ctx.shapes[k]
            lesson = plan.lesson(k, signal, e.shape, shape, rest[k], rest[count + k])
            if ctx.needs_input_grad[6 + k]:
                sent[k] = teaching(plan, k, lesson, parts[k], context, shape, ctx.dtypes[k])
            if learns:
                found.append(lesson_gradient(plan, lesson, parts[k], context))
    if learns:
        sent[count:] = plan.join(found, len(rest) - 2 * count)
    return sent


def where_error(method: Direct, known: Tensor, e: Tensor) -> Tensor:
    """A signal that was known before the loss, without the rows that the loss leaves out: their error is exactly 0.

    A signal that is divided by the number of rows is divided by the number of those that are left.
    """
    kept = e.any(1, keepdim=True)
    if not method.signal.means:
        return known * kept
    return known * (kept * (len(kept) / kept.sum().clamp_min(1).to(known.dtype)))
