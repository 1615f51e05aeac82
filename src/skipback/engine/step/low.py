"""A dense block under autocast, in closed form: the products in bfloat16, the weights and their gradients in float32.

    h, W, b -> bfloat16     a = h W^T + b     delta = g * f'(a)     dW = delta^T h -> float32     db likewise

The same kernels and roundings as autocast and autograd, so the same bits, without a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from skipback.engine.step.rules import Dense, Rule
from skipback.update import Update


class Low(Rule):
    """Linear and one activation. Runs inside `torch.autocast`, and is taught outside of it.

    Args:
        dense: the block.
    """

    def __init__(self, dense: Dense) -> None:
        self.linear, self.module, self.flatten = dense.linear, dense.module, dense.flatten
        self.activation, self.parameters = dense.activation, dense.parameters
        self.kept: tuple[Tensor, Tensor] | None = None

    def run(self, h: Tensor) -> Tensor:
        """See `Rule`."""
        h = h.flatten(1) if self.flatten else h
        a = F.linear(h, self.linear.weight, self.linear.bias)  # autocast chooses the type
        y = self.activation.f(self.module, a)
        self.kept = h.to(a.dtype), a if self.activation.keeps else y
        return y

    def pull(self, g: Tensor, *, own: bool = False) -> Sequence[Tensor | None]:
        """See `Rule`."""
        return [d.to(p.dtype) for d, p in zip(self._low(g, own=own), self.parameters, strict=True)]

    def learn(self, g: Tensor, update: Update, *, own: bool = False) -> None:
        """See `Rule`. Where a step is W - rate * dW, dW becomes float32 on the way."""
        rates = [update.inside_product(p) for p in self.parameters]
        if None in rates:
            super().learn(g, update, own=own)
            return
        for p, d, rate in zip(self.parameters, self._low(g, own=own), rates, strict=True):
            p.sub_(d, alpha=rate)

    def _low(self, g: Tensor, *, own: bool) -> list[Tensor]:
        """The gradients as they leave the products."""
        assert self.kept is not None
        h, kept = self.kept
        self.drop()
        delta = self.activation.slope(self.module, g, kept, own=own)
        dW = delta.t() @ h
        return [dW] if self.linear.bias is None else [dW, delta.sum(0)]

    def drop(self) -> None:
        """See `Rule`."""
        self.kept = None
