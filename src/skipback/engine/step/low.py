"""A dense block under autocast, in closed form: the products in bfloat16, the weights and their gradients in float32.

    h, W, b -> bfloat16     a = h W^T + b     delta = g * f'(a)     dW = delta^T h -> float32     db likewise

The same kernels and roundings as autocast and autograd, so the same bits, without a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from skipback.engine.step.rules import Dense


class Low(Dense):
    """Linear and one activation. Runs inside `torch.autocast`, which chooses the type, and is taught outside of it.

    Args:
        dense: the block.
    """

    def __init__(self, dense: Dense) -> None:
        super().__init__(dense.linear, dense.module, flatten=dense.flatten)

    def activate(self, h: Tensor, a: Tensor) -> Tensor:
        """See `Dense`."""
        return super().activate(h.to(a.dtype), a)

    def pull(self, g: Tensor, *, own: bool = False) -> Sequence[Tensor | None]:
        """See `Rule`."""
        low = super().pull(g, own=own)
        return [None if d is None else d.to(p.dtype) for d, p in zip(low, self.parameters, strict=True)]

    def descend(self, delta: Tensor, h: Tensor, rate: float) -> None:
        """See `Dense`. The product becomes float32 on the way to the weights."""
        self.weight.sub_(self.weight_gradient(delta, h), alpha=rate)
