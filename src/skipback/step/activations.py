"""Activations: elementwise functions with their derivatives, by the kernels that autograd calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An elementwise f, and its derivative, by the kernels that autograd calls.

    Attributes:
        f: a -> y. Overwrites a with y, unless `backward` needs a.
        backward: (g, a or y) -> g * f'(a).
        backward_inplace: (g, y) -> g * f'(a), which overwrites g; `None` where no kernel does that from g and y alone.
        needs_input: `backward` takes a, which is cached for it; else it takes y, which the next block caches anyway.
    """

    f: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    backward_inplace: Callable[[Tensor, Tensor], Tensor] | None = None
    needs_input: bool = False

    @property
    def backward_owned(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same as `backward`, for a g that is not referenced elsewhere: the result may take its memory."""
        return self.backward_inplace or self.backward


TANH = Activation(
    torch.tanh_,
    aten.tanh_backward.default,
    lambda g, y: aten.tanh_backward.grad_input(g, y, grad_input=g),
)
SIGMOID = Activation(
    torch.sigmoid_,
    aten.sigmoid_backward.default,
    lambda g, y: aten.sigmoid_backward.grad_input(g, y, grad_input=g),
)
RELU = Activation(
    torch.relu_,
    lambda g, y: aten.threshold_backward.default(g, y, 0),
    lambda g, y: aten.threshold_backward.grad_input(g, y, 0, grad_input=g),
)
IDENTITY = Activation(lambda a: a, lambda g, y: g)


def _leaky_relu(m: Any) -> Activation:
    return Activation(
        lambda a: F.leaky_relu(a, m.negative_slope),
        lambda g, a: aten.leaky_relu_backward.default(g, a, m.negative_slope, False),
        needs_input=True,
    )


def _gelu(m: Any) -> Activation:
    return Activation(
        lambda a: F.gelu(a, approximate=m.approximate),
        lambda g, a: aten.gelu_backward.default(g, a, approximate=m.approximate),
        needs_input=True,
    )


ACTIVATIONS: dict[type[nn.Module], Callable[[nn.Module], Activation]] = {
    nn.Tanh: lambda m: TANH,
    nn.Sigmoid: lambda m: SIGMOID,
    nn.ReLU: lambda m: RELU,
    nn.LeakyReLU: _leaky_relu,
    nn.GELU: _gelu,
    nn.SiLU: lambda m: Activation(F.silu, aten.silu_backward.default, needs_input=True),
    nn.Identity: lambda m: IDENTITY,
}
"""The activation of a module; settings such as a slope are read from the module at each call."""
