"""Calls: how the arguments of torch's linear and convolution functions are read, as the user's layers pass them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from skipback.engine.transported import Convolution, Layer, Linear


@dataclass(frozen=True)
class Call:
    """One call of a linear or convolution function. `squeeze` is a dimension that only it has, not the user's."""

    layer: Layer
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    squeeze: int | None = None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
    if weight.dim() > 1:
        return Call(Linear(), input, weight, bias)
    return Call(Linear(), input, weight.unsqueeze(0), bias, squeeze=-1)  # one output, which torch gives no dimension


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Call:
    n = weight.dim() - 2
    stride, dilation = _each(stride, n), _each(dilation, n)
    x, padding = _padded(input, padding, [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)])
    layer = Convolution(stride, padding, dilation, groups)
    if x.dim() == n + 2:
        return Call(layer, x, weight, bias)
    return Call(layer, x.unsqueeze(0), weight, bias, squeeze=0)  # an image without a batch


def _each(value: Any, n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def _padded(x: Tensor, padding: Any, reach: list[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Resolve padding by name. "same" pads one more at the end, where the kernel's reach is odd."""
    if padding == "valid":
        return x, (0,) * len(reach)
    if padding != "same":
        return x, _each(padding, len(reach))
    if all(r % 2 == 0 for r in reach):
        return x, tuple(r // 2 for r in reach)
    ends = [side for r in reversed(reach) for side in (r // 2, math.ceil(r / 2))]
    return F.pad(x, ends), (0,) * len(reach)


CALLS: dict[Any, Any] = {F.linear: _linear, F.conv1d: _convolution, F.conv2d: _convolution, F.conv3d: _convolution}
"""Functions that the route meets, and how their arguments are read."""


def feedback_view_of(name: str, weight: Tensor, part: Tensor, B: Tensor) -> Tensor:
    """The part of B that belongs to a view of W: a third of packed projections, or W transposed."""
    if part is weight:
        return B
    if B.stride() != weight.stride():
        raise RuntimeError(
            f"parameter {name!r} is used through a view, and has other strides than its feedback: attach again"
        )
    return B.as_strided(
        part.size(), part.stride(), part.storage_offset() - weight.storage_offset() + B.storage_offset()
    )
