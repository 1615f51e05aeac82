"""Error-free gradients: terms of the gradients of W and B that do not depend on the error (a decay, a mirror's lesson).

Each pass adds them once, through autograd, by one function on the network's output: a gradient written by hand would be
erased by a `zero_grad()` between forward and backward, and not be synchronised under DDP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skipback.transport import Transport


class _ErrorFreeGradients(torch.autograd.Function):
    """Identity on y whose backward adds the error-free gradients. Call `error_free_gradients`, not this."""

    @staticmethod
    def forward(
        ctx: Any, transport: Transport, scale: float | Tensor, seed: int | None, y: Tensor, *pairs: Tensor
    ) -> Tensor:
        """Return y, and save W and B."""
        ctx.save_for_backward(*pairs)
        ctx.transport, ctx.scale, ctx.seed = transport, scale, seed
        return y.detach()  # y itself would become a view, which the user could not overwrite in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return dL/dy for y, and its error-free gradient for each W and B."""
        (e,), tensors = gradients, ctx.saved_tensors
        generator = torch.Generator().manual_seed(ctx.seed or 0)
        drifts: list[Tensor | None] = []
        for W, B in zip(tensors[::2], tensors[1::2], strict=True):
            drift = ctx.transport.drift(W.detach(), B.detach(), generator)
            drifts += [None if d is None else d * ctx.scale for d in drift or (None, None)]
        wanted = ctx.needs_input_grad[4:]
        return None, None, None, e, *(d if w else None for d, w in zip(drifts, wanted, strict=True))


def error_free_gradients(
    transport: Transport, y: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], scale: float | Tensor, seed: int | None
) -> Tensor:
    """Return y, connected so that its backward adds the error-free gradients of each W and B.

    Args:
        transport: computes them (`Transport.drift`).
        y: the network's output.
        pairs: (W, B) of every layer that the pass used.
        scale: factor of the loss.
        seed: of the random numbers of this pass.
    """
    tensors = [t for pair in pairs for t in pair]
    result: Tensor = _ErrorFreeGradients.apply(transport, scale, seed, y, *tensors)  # type: ignore[no-untyped-call]
    return result
