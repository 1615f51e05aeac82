"""A dense block by oneDNN: product, bias and activation in one kernel, in float32, where float32 products are oneDNN's.

The kernel computes in float32 on every processor; the setting that sends all products there does not with AMX tiles.
A step therefore switches the setting off, and takes the kernel for products that are worth it: below `LEAST` multiply-
adds torch's own product is faster. Results differ from torch's in the last bits, as its sums have another order.
"""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor, nn

from skipback import precision
from skipback.engine.step.chain import Chain
from skipback.engine.step.rules import Dense

LEAST = 2**20
"""Multiply-adds: measured on AMD Zen 5, one thread, layers of 8 to 1000 units."""

FUSED: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ReLU: "relu"}
"""Activations whose derivative follows from y, by their names in the kernel."""


def takes(chain: Chain, x: Tensor) -> bool:
    """Whether these blocks can all go by the kernel, and the setting asks for it."""
    asked = precision.product() == "bf16" and x.device.type == "cpu" and x.dtype is torch.float32
    return asked and _exact() and chain.dense


@functools.cache
def _exact() -> bool:
    """Whether the kernel is there, and multiplies float32 exactly."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return precision.error_of(lambda a, b: _product(a, b.t())) < precision.EXACT


def _product(h: Tensor, W: Tensor, b: Tensor | None = None, f: str = "none") -> Tensor:
    """f(h W^T + b)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(h, W, b, f, [], "")
    return y


class Apart(contextlib.AbstractContextManager[None]):
    """Inside, products are torch's own, where nobody asks for the kernel."""

    def __enter__(self) -> None:
        precision.choose_product("none")

    def __exit__(self, *_: object) -> None:
        precision.choose_product("bf16")  # without it, nobody comes here


class OneDNN(Dense):
    """Linear and one activation, by the kernel.

    Args:
        dense: the block.
    """

    def __init__(self, dense: Dense) -> None:
        super().__init__(dense.linear, dense.module, flatten=dense.flatten)
        self.fused = FUSED.get(type(dense.module))

    def run(self, h: Tensor) -> Tensor:
        """See `Rule`."""
        h = h.flatten(1) if self.flatten else h
        if not self._large(h):
            return super().run(h)
        if self.fused is None:
            return self.activate(h, _product(h, self.weight, self.bias))
        y = _product(h, self.weight, self.bias, self.fused)
        self.kept = h, y
        return y

    def weight_gradient(self, delta: Tensor, h: Tensor) -> Tensor:
        """See `Dense`."""
        return _product(delta.t(), h.t()) if self._large(h) else super().weight_gradient(delta, h)

    def descend(self, delta: Tensor, h: Tensor, rate: float) -> None:
        """See `Dense`. The kernel cannot add to what is there; the product that can is oneDNN's by the setting."""
        setting = "bf16" if self._large(h) and precision.exact() else "none"
        precision.choose_product(setting)
        super().descend(delta, h, rate)
        precision.choose_product("none")

    def _large(self, h: Tensor) -> bool:
        return h.shape[0] * self.weight.numel() >= LEAST
