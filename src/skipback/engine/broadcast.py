"""The whole engine: one autograd function that rewires the graph from a chain into a star.

    forward    (y, port_1 .. port_L, B_1 .. B_L) -> y
    backward   dL/dy -> dL/dy for y, feedback(signal, B_l) for port l, and the gradient of B_l if it learns

Three rules keep it correct under torch.compile, DDP and accumulation: it reads nothing but its inputs (a buffer that is
filled after the forward pass would be captured stale); gradients leave through autograd (a hand-written `p.grad` is not
synchronised by DDP); and the ports are attached tensors, while what flows on in the network is detached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipback.feedback import Lesson, Parts, Sees
from skipback.method import Direct
from skipback.types import Needs, PortSpec, Step


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the broadcast knows, beside tensors.

    Attributes:
        method: the signal and the feedback.
        ports: what the feedback of each port must fit.
        places: of each port, where its feedback's tensors stand in the row of all of them. Each tensor stands there
            once, though ports may share one, and a block that is called twice has two ports.
        width: the columns of the signal: C, or V where the positions of a sequence are samples of their own.
    """

    method: Direct
    ports: tuple[PortSpec, ...]
    places: tuple[tuple[int, ...], ...]
    width: int

    def rows(self, y: Tensor) -> Tensor:
        """The output as a matrix: one row per sample, or per position."""
        return y if y.dim() == 2 else y.reshape(-1, self.width)

    def lesson(self, k: int, signal: Tensor, h: Tensor | None = None, ahead: Tensor | None = None) -> Lesson:
        """What the feedback of port k sees, with positions as samples: the port h, and what was run ahead for it."""
        port, relayed = self.ports[k], ahead is not None and Sees.RELAY in self.method.feedback.sees
        return Lesson(
            port=port,
            signal=signal if signal.shape[1] == port.outputs else signal.reshape(-1, port.outputs),
            activity=None if h is None else h.reshape(-1, *port.shape),
            jacobian=None if relayed else ahead,
            relayed=ahead if relayed else None,
        )

    def teaching(
        self,
        k: int,
        signal: Tensor,
        scale: float | Tensor,
        parts: Parts,
        h: Tensor | None = None,
        ahead: Tensor | None = None,
    ) -> Tensor:
        """What port k is taught, where the loss, and so the signal, was multiplied with `scale`."""
        feedback = self.method.feedback
        if feedback.homogeneous or (isinstance(scale, float) and scale == 1):
            return feedback.project(self.lesson(k, signal, h, ahead), parts)
        return feedback.project(self.lesson(k, signal / scale, h, ahead), parts) * scale

    def split(self, flat: Sequence[Tensor]) -> list[Parts]:
        """The tensors of each port's feedback, out of all of them in a row."""
        return [tuple(flat[i] for i in place) for place in self.places]

    def join(self, changes: Sequence[Parts], count: int) -> list[Tensor | None]:
        """The reverse of `split`, for gradients: of a tensor that several ports hold, they add up."""
        joined: list[Tensor | None] = [None] * count
        for place, of_port in zip(self.places, changes, strict=True):
            for i, change in zip(place, of_port, strict=True):
                before = joined[i]
                joined[i] = change if before is None else before + change
        return joined


class Broadcast(torch.autograd.Function):
    """See the module's docstring. Call `broadcast`, not this."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        scale: float | Tensor,
        y: Tensor,
        known: Tensor | None,
        target: Tensor | None,
        *rest: Tensor | None,
    ) -> Tensor:
        """Pass y on, and keep what backward needs: signal if known, target, feedback, and what it sees."""
        method, count = plan.method, len(plan.ports)
        ports, ahead, parts = rest[:count], rest[count : 2 * count], rest[2 * count :]
        output = y.detach() if Needs.OUTPUT in method.signal.needs and known is None else None
        activities = ports if Sees.ACTIVITY in method.feedback.sees else [None] * count
        ctx.save_for_backward(known, target, output, *activities, *ahead, *parts)
        ctx.plan, ctx.scale = plan, scale
        ctx.dtypes = [port.dtype for port in ports if port is not None]  # all are tensors; this says so to mypy
        return y.detach()  # y itself would become a view, which the user could not write in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Send the signal to every port, and the lessons to the feedback that learns."""
        (e,), plan, count = gradients, ctx.plan, len(ctx.dtypes)
        known, target, output, *rest = ctx.saved_tensors
        activities, ahead, parts = rest[:count], rest[count : 2 * count], plan.split(rest[2 * count :])
        signal, method, scale = known, plan.method, ctx.scale
        if known is None:
            rows = None if output is None else plan.rows(output)
            signal = method.signal(Step(gradient=plan.rows(e), output=rows, target=target))
        if not method.signal.scales:
            signal = signal * scale
        taught, learned = ctx.needs_input_grad[5 : 5 + count], ctx.needs_input_grad[5 + 2 * count :]
        teachings = [
            plan.teaching(k, signal, scale, parts[k], activities[k], ahead[k])
            .reshape(*e.shape[: 1 + plan.ports[k].positions], *plan.ports[k].shape)
            .to(ctx.dtypes[k])
            if taught[k]
            else None
            for k in range(count)
        ]
        # no Jacobian was estimated in eval mode: the blocks are taught, the feedback stays
        unknown = Sees.JACOBIAN in method.feedback.sees and ahead[0] is None
        changes: list[Tensor | None] = [None] * len(learned)
        if any(learned) and not unknown:
            # a lesson need not grow with the loss: it is that of the loss as it was, and then scaled like the loss
            rows = [signal.to(of_port[0].dtype) / scale for of_port in parts]  # half precision would lose it there
            plain = [plan.lesson(k, rows[k], activities[k], ahead[k]) for k in range(count)]
            found = [method.feedback.gradient(plain[k], parts[k]) for k in range(count)]
            changes = [None if d is None else d * scale for d in plan.join(found, len(learned))]
        return (None, None, e, None, None, *teachings, *[None] * count, *changes)


def broadcast(
    plan: Plan,
    y: Tensor,
    *,
    known: Tensor | None,
    target: Tensor | None,
    scale: float | Tensor,
    ports: Sequence[Tensor],
    parts: Sequence[Tensor],
    ahead: Sequence[Tensor] = (),
) -> Tensor:
    """Return y, connected so that its gradient is broadcast to the ports.

    Args:
        plan: the method, and its ports.
        y: the network's output (N, ...).
        known: the signal (N, C), where it is known by now; `None` where it needs the gradient.
        target: the target (N, C), for signals that need it together with the gradient.
        scale: what the loss is multiplied with; signals and lessons that cannot see it are multiplied with it here.
        ports: the attached outputs of the blocks, (N, *P_l).
        parts: the tensors of their feedback, in the plan's order.
        ahead: what forward mode found for each port before this pass, for feedback that looks at it.
    """
    seen: Sequence[Tensor | None] = ahead or [None] * len(ports)
    result: Tensor = Broadcast.apply(plan, scale, y, known, target, *ports, *seen, *parts)  # type: ignore[no-untyped-call]
    return result
