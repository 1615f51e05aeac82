"""Calls: the arguments of torch's linear and convolution functions, as the user's layers pass them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from skipback.routes.transported import Convolution, Layer, Linear


@dataclass(frozen=True)
class LayerCall:
    """One call of a linear or convolution function. `squeeze`: a dimension of the output that the user's has not."""

    layer: Layer
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    squeeze: int | None = None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> LayerCall:
    if weight.dim() > 1:
        return LayerCall(Linear(), input, weight, bias)
    # a weight vector: one output, which torch returns without a dimension
    return LayerCall(Linear(), input, weight.unsqueeze(0), bias, squeeze=-1)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> LayerCall:
    n = weight.dim() - 2
    stride, dilation = _each(stride, n), _each(dilation, n)
    x, padding = _padded(input, padding, [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)])
    layer = Convolution(stride, padding, dilation, groups)
    if x.dim() == n + 2:
        return LayerCall(layer, x, weight, bias)
    return LayerCall(layer, x.unsqueeze(0), weight, bias, squeeze=0)  # an image without a batch


def _each(value: Any, n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def _padded(x: Tensor, padding: Any, reach: list[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Resolve padding by name. "same" pads one more at the end if the reach of the kernel is odd."""
    if padding == "valid":
        return x, (0,) * len(reach)
    if padding != "same":
        return x, _each(padding, len(reach))
    if all(r % 2 == 0 for r in reach):
        return x, tuple(r // 2 for r in reach)
    ends = [side for r in reversed(reach) for side in (r // 2, math.ceil(r / 2))]
    return F.pad(x, ends), (0,) * len(reach)


CALLS: dict[Any, Any] = {F.linear: _linear, F.conv1d: _convolution, F.conv2d: _convolution, F.conv3d: _convolution}
"""The functions that the route replaces, and the readers of their arguments."""


def feedback_view_of(name: str, weight: Tensor, part: Tensor, B: Tensor) -> Tensor:
    """Return the view of B that corresponds to `part`, a view of W: a third of packed projections, or W transposed."""
    if part is weight:
        return B
    if B.stride() != weight.stride():
        raise RuntimeError(
            f"parameter {name!r} is used through a view, and has other strides than its feedback: attach again"
        )
    return B.as_strided(
        part.size(), part.stride(), part.storage_offset() - weight.storage_offset() + B.storage_offset()
    )
