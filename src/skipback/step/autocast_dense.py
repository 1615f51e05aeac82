"""A dense block under autocast, in closed form: the products in bfloat16, the weights and their gradients in float32.

    h, W, b -> bfloat16     a = h W^T + b     delta = g * f'(a)     dW = delta^T h -> float32     db likewise

The same kernels and roundings as autocast and autograd, so the same bits, without a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from skipback.step.rules import Dense


class AutocastDense(Dense):
    """Linear and one activation. Runs inside `torch.autocast`, which chooses the dtype; backward runs outside.

    Args:
        dense: the block in float32.
    """

    def __init__(self, dense: Dense) -> None:
        super().__init__(dense.linear, dense.module, flatten=dense.flatten)

    @override
    def run(self, h: Tensor) -> Tensor:
        h = h.flatten(1) if self.flatten else h
        a = F.linear(h, self.weight, self.bias)
        return self.activate(h.to(a.dtype), a)

    @override
    def backward(self, g: Tensor, *, may_overwrite: bool = False) -> Sequence[Tensor | None]:
        low = super().backward(g, may_overwrite=may_overwrite)
        return [None if d is None else d.to(p.dtype) for d, p in zip(low, self.parameters, strict=True)]

    @override
    def descend(self, delta: Tensor, h: Tensor, rate: float) -> None:
        # the product in bfloat16 becomes float32 when it is added to the weights
        self.weight.sub_(self.product(delta.t(), h), alpha=rate)
