"""Transported: one weight layer whose backward propagates the error by the transport's matrix M instead of W.

dL/dW, dL/db   exact, from the dL/dy that arrives
dL/dx          the layer's own backward, with M = transport.weight(W, B) in place of W; computed only if wanted
dL/dB          dL/dW, for feedback that follows its weight
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from skipback.transport import Transport


class Layer(Protocol):
    """A map that is linear in x and in W."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return y."""
        ...

    def to_input(self, gradient: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        """Return the gradient of x, of this shape."""
        ...

    def to_weight(self, gradient: Tensor, x: Tensor, weight_shape: torch.Size) -> Tensor:
        """Return the gradient of W."""
        ...

    def to_bias(self, gradient: Tensor) -> Tensor:
        """Return the gradient of b."""
        ...


@dataclass(frozen=True)
class Linear(Layer):
    """y (..., D_out) = x (..., D_in) W^T + b."""

    @override
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @override
    def to_input(self, gradient: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        return gradient @ weight

    @override
    def to_weight(self, gradient: Tensor, x: Tensor, weight_shape: torch.Size) -> Tensor:
        rows, columns = weight_shape
        return gradient.reshape(-1, rows).T @ x.reshape(-1, columns)

    @override
    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.sum(list(range(gradient.dim() - 1))) if gradient.dim() > 1 else gradient


@dataclass(frozen=True)
class Convolution(Layer):
    """y (N, C_out, ...) = x (N, C_in, ...) * W + b, in one to three dimensions."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @override
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(self.stride) - 1]
        return conv(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    @override
    def to_input(self, gradient: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        return self._backward(gradient, gradient.new_empty(1).expand(shape), weight, 0)  # the values are not read

    @override
    def to_weight(self, gradient: Tensor, x: Tensor, weight_shape: torch.Size) -> Tensor:
        return self._backward(gradient, x, gradient.new_empty(1).expand(weight_shape), 1)

    @override
    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.sum([0, *range(2, gradient.dim())])

    def _backward(self, gradient: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
        zeros, mask = [0] * len(self.stride), [which == 0, which == 1, False]
        options = (None, self.stride, self.padding, self.dilation, False, zeros, self.groups, mask)
        result: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, *options)[which]
        return result


class _Transported(torch.autograd.Function):
    """One weight layer with the transport's backward. Call `transported`, not this."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, transport: Transport, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor
    ) -> Tensor:
        """Run the layer, and save only the tensors that the wanted gradients need."""
        to_x, to_weight, _, to_feedback = ctx.needs_input_grad[2:]
        keep_x, keep_weights = to_weight or to_feedback, (weight, feedback) if to_x else (None, None)
        ctx.save_for_backward(x if keep_x else None, *keep_weights)
        ctx.layer, ctx.transport, ctx.shapes = layer, transport, (x.shape, weight.shape)
        return layer.forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of x by M, of W and b exactly, and of B where feedback follows its weight."""
        (e,), layer, (x_shape, weight_shape) = gradients, ctx.layer, ctx.shapes
        x, weight, feedback = ctx.saved_tensors
        to_x, to_weight, to_bias, to_feedback = ctx.needs_input_grad[2:]
        M = ctx.transport.weight(weight, feedback) if to_x else None
        dx = layer.to_input(e, x_shape, M) if to_x else None
        follows = to_feedback and ctx.transport.follows
        dW = layer.to_weight(e, x, weight_shape) if to_weight or follows else None
        db = layer.to_bias(e) if to_bias else None
        return None, None, dx, dW if to_weight else None, db, dW if follows else None


def transported(
    layer: Layer, transport: Transport, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor
) -> Tensor:
    """Return the layer's output, connected so that its backward propagates the error by the transport.

    Args:
        layer: the map.
        transport: gives M, which replaces W in the gradient of x.
        x: the input of the layer.
        weight: W.
        bias: b.
        feedback: B, of W's shape.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return _apply(layer, transport, x, weight, bias, feedback)
    # cast as F.linear does under autocast, but before the function, so that its backward has one dtype
    low = torch.get_autocast_dtype(kind)
    cast = [t if t is None or t.dtype == torch.float64 else t.to(low) for t in (x, weight, bias, feedback)]
    with torch.autocast(kind, enabled=False):
        return _apply(layer, transport, *cast)


def _apply(layer: Layer, transport: Transport, *tensors: Tensor | None) -> Tensor:
    result: Tensor = _Transported.apply(layer, transport, *tensors)  # type: ignore[no-untyped-call]
    return result
