"""The estimate as an autograd function: forward mode gives dy, backward gives e = dL/dy, and dL = <e, dy>.

    forward    (y, dy_1 .. dy_K, taught tensors, their directions) -> y
    backward   e -> e for y, and sum_k c_k u_{k,i} for tensor i, with s_k = <e, dy_k> and c = combine(s)

As in `broadcast`, the function reads its inputs only, and returns all gradients through autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skipback.estimate import Combine


class Estimated(torch.autograd.Function):
    """Identity on y whose backward returns the estimates. Call `estimated`, not this."""

    @staticmethod
    def forward(ctx: Any, combine: Combine, per_sample: bool, y: Tensor, tangents: Tensor, *rest: Any) -> Tensor:
        """Return y, and save the tangents and the directions."""
        count, *tensors = rest
        taught, directions = tensors[:count], tensors[count:]
        ctx.save_for_backward(tangents, *directions)
        ctx.combine, ctx.per_sample = combine, per_sample
        ctx.dtypes = [tensor.dtype for tensor in taught]
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return dL/dy for y, and the estimated gradient of each taught tensor."""
        (e,) = gradients
        tangents, *directions = ctx.saved_tensors
        s = derivatives(e, tangents, per_sample=ctx.per_sample)
        flat = [u.reshape(*s.shape, -1) for u in directions]
        c = ctx.combine(s, flat)
        needed = ctx.needs_input_grad[5 : 5 + len(ctx.dtypes)]
        estimates = [
            torch.einsum("kg,kgd->gd", c.to(f), f).reshape(u.shape[1:]).to(dtype) if wanted else None
            for f, u, dtype, wanted in zip(flat, directions, ctx.dtypes, needed, strict=False)
        ]
        return (None, None, e, None, None, *estimates, *[None] * len(directions))


def derivatives(e: Tensor, tangents: Tensor, *, per_sample: bool) -> Tensor:
    """The derivatives of the loss, s_k = <e, dy_k>.

    Args:
        e: dL/dy (N, C...).
        tangents: dy (K, N, C...).
        per_sample: s (K, N), one derivative per sample, rather than (K, 1).
    """
    wide = torch.promote_types(e.dtype, torch.float32)  # half precision would lose a sum over the batch
    product = tangents.to(wide) * e.to(wide)
    return product.reshape(len(tangents), len(e) if per_sample else 1, -1).sum(2)


def estimated(
    y: Tensor,
    *,
    combine: Combine,
    per_sample: bool,
    tangents: Tensor,
    taught: Sequence[Tensor],
    directions: Sequence[Tensor],
) -> Tensor:
    """Return y, connected so that its backward returns the estimates as gradients of the taught tensors.

    Args:
        y: the network's output (N, C...).
        combine: maps derivatives to coefficients.
        per_sample: whether each sample is estimated on its own (activities), or all together (weights).
        tangents: dy (K, N, C...), the output's tangent in each direction.
        taught: parameters, or ports (N, *P).
        directions: for each taught tensor (K, *its shape); then those of perturbed tensors that are not taught.
    """
    inputs = (combine, per_sample, y, tangents, len(taught), *taught, *directions)
    result: Tensor = Estimated.apply(*inputs)  # type: ignore[no-untyped-call]
    return result
