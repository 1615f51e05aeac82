"""Drift: what the gradients of W and B get once for every pass, whatever its error (a decay, a mirror's lesson).

It arrives through autograd, by one function on the network's output: a gradient written by hand would be lost by a
`zero_grad()` between forward and backward, and not synchronised under DDP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skipback.transport import Transport


class _Drifting(torch.autograd.Function):
    """See the module's docstring. Call `drifting`, not this."""

    @staticmethod
    def forward(
        ctx: Any, transport: Transport, scale: float | Tensor, seed: int | None, y: Tensor, *pairs: Tensor
    ) -> Tensor:
        """Pass y on."""
        ctx.save_for_backward(*pairs)
        ctx.transport, ctx.scale, ctx.seed = transport, scale, seed
        return y.detach()  # y itself would become a view, which the user could not write in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Pass dL/dy on, and give each W and B its drift."""
        (e,), tensors = gradients, ctx.saved_tensors
        generator = torch.Generator().manual_seed(ctx.seed or 0)
        drifts: list[Tensor | None] = []
        for W, B in zip(tensors[::2], tensors[1::2], strict=True):
            drift = ctx.transport.drift(W.detach(), B.detach(), generator)
            drifts += [None if d is None else d * ctx.scale for d in drift or (None, None)]
        wanted = ctx.needs_input_grad[4:]
        return None, None, None, e, *(d if w else None for d, w in zip(drifts, wanted, strict=True))


def drifting(
    transport: Transport, y: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], scale: float | Tensor, seed: int | None
) -> Tensor:
    """Return y, connected so that its backward gives the drift to each W and B.

    Args:
        transport: knows the drift.
        y: the network's output.
        pairs: (W, B) of every layer that the pass met.
        scale: what the loss is multiplied with.
        seed: of the random numbers of this pass.
    """
    tensors = [t for pair in pairs for t in pair]
    result: Tensor = _Drifting.apply(transport, scale, seed, y, *tensors)  # type: ignore[no-untyped-call]
    return result
