"""A dense block by oneDNN: product, bias and activation in one float32 kernel, where `precision` selects oneDNN.

The kernel computes in float32 on every processor. The setting that sends all float32 products to oneDNN does not: with
AMX tiles it rounds to bfloat16. A step therefore switches the setting off, and the blocks call the kernel explicitly
where it pays: below `LEAST` multiply-adds torch's own product is faster. Results differ from torch's in the last bits,
as the kernel adds in another order.
"""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor, nn
from typing_extensions import override

from skipback import precision
from skipback.step.chain import Chain
from skipback.step.rules import Dense

LEAST = 2**20
"""Multiply-adds: measured on AMD Zen 5, one thread, layers of 8 to 1000 units."""

FUSED: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ReLU: "relu"}
"""Activations whose derivative follows from y, by their names in the kernel."""


def takes(chain: Chain, x: Tensor) -> bool:
    """Whether all blocks of the chain can call the kernel on this input. Asked where the setting selects oneDNN."""
    return x.device.type == "cpu" and x.dtype is torch.float32 and _exact() and chain.dense


@functools.cache
def _exact() -> bool:
    """Whether this torch has the kernel, and the kernel rounds no factor of a float32 product."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return precision.error_of(lambda a, b: _product(a, b.t())) < precision.EXACT


def _product(h: Tensor, W: Tensor, b: Tensor | None = None, f: str = "none") -> Tensor:
    """f(h W^T + b)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(h, W, b, f, [], "")
    return y


class native_matmul(contextlib.AbstractContextManager[None]):  # noqa: N801  # used as a function is
    """Switch the oneDNN float32 setting off; blocks call the oneDNN kernel explicitly where it pays."""

    def __enter__(self) -> None:
        precision.choose_product("none")

    def __exit__(self, *_: object) -> None:
        precision.choose_product("bf16")  # `takes` allows the kernel under this setting only


class OneDNNDense(Dense):
    """Linear and one activation, by the oneDNN kernel.

    Args:
        dense: the block by torch's own kernels.
    """

    def __init__(self, dense: Dense) -> None:
        super().__init__(dense.linear, dense.module, flatten=dense.flatten)
        self.fused = FUSED.get(type(dense.module))

    @override
    def run(self, h: Tensor) -> Tensor:
        h = h.flatten(1) if self.flatten else h
        if not self._large(h):
            return super().run(h)
        if self.fused is None:
            return self.activate(h, _product(h, self.weight, self.bias))
        y = _product(h, self.weight, self.bias, self.fused)
        self.saved = h, y
        return y

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Of two matrices, for dW."""
        return _product(a, b.t()) if self._large(b) else torch.mm(a, b)

    @override
    def descend(self, delta: Tensor, h: Tensor, rate: float) -> None:
        # the kernel cannot add to W in place; addmm_ can, and runs in oneDNN while the setting is on
        setting = "bf16" if self._large(h) and precision.exact() else "none"
        precision.choose_product(setting)
        super().descend(delta, h, rate)
        precision.choose_product("none")

    def _large(self, h: Tensor) -> bool:
        return h.shape[0] * self.weight.numel() >= LEAST
