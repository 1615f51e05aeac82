"""Rules: how one block runs, and how its own gradients follow from what it is taught.

    y = rule.run(h)              h (N, ...), which gets no gradient
    gradients = rule.pull(g)     of the block's parameters, for g in place of dL/dy

`Graph` does it by autograd, for any modules. `Dense` is the closed form of one linear layer and one elementwise
activation: the same kernels in the same order, so the same bits, without a graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipback.update import Update

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An elementwise f, and its derivative, by the kernels that autograd calls.

    Attributes:
        f: y = f(a), in the place of a unless a is kept; its first argument is the module.
        back: g * f'(a), from the module, g, and what is kept.
        over: the same in the place of g, where the kernel can and its arguments are g and y alone.
        keeps: a is kept for it; else y, which the next block keeps anyway.
    """

    f: Callable[[Any, Tensor], Tensor]
    back: Callable[[Any, Tensor, Tensor], Tensor]
    over: Callable[[Tensor, Tensor], Tensor] | None = None
    keeps: bool = False

    def slope(self, module: nn.Module, g: Tensor, kept: Tensor, *, own: bool) -> Tensor:
        """Return g * f'(a), in the place of g where nobody else has it."""
        return self.back(module, g, kept) if self.over is None or not own else self.over(g, kept)


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(
        lambda m, a: a.tanh_(),
        lambda m, g, y: aten.tanh_backward.default(g, y),
        lambda g, y: aten.tanh_backward.grad_input(g, y, grad_input=g),
    ),
    nn.Sigmoid: Activation(
        lambda m, a: a.sigmoid_(),
        lambda m, g, y: aten.sigmoid_backward.default(g, y),
        lambda g, y: aten.sigmoid_backward.grad_input(g, y, grad_input=g),
    ),
    nn.ReLU: Activation(
        lambda m, a: a.relu_(),
        lambda m, g, y: aten.threshold_backward.default(g, y, 0),
        lambda g, y: aten.threshold_backward.grad_input(g, y, 0, grad_input=g),
    ),
    nn.LeakyReLU: Activation(
        lambda m, a: F.leaky_relu(a, m.negative_slope),
        lambda m, g, a: aten.leaky_relu_backward.default(g, a, m.negative_slope, False),
        keeps=True,
    ),
    nn.GELU: Activation(
        lambda m, a: F.gelu(a, approximate=m.approximate),
        lambda m, g, a: aten.gelu_backward.default(g, a, approximate=m.approximate),
        keeps=True,
    ),
    nn.SiLU: Activation(lambda m, a: F.silu(a), lambda m, g, a: aten.silu_backward.default(g, a), keeps=True),
    nn.Identity: Activation(lambda m, a: a, lambda m, g, y: g),
}


class Rule(ABC):
    """One block.

    Attributes:
        parameters: those that are trained.
    """

    parameters: tuple[nn.Parameter, ...]

    @abstractmethod
    def run(self, h: Any) -> Any:
        """Run the block; what it returns is not attached to what it was given."""

    @abstractmethod
    def pull(self, g: Tensor, *, own: bool = False) -> Sequence[Tensor | None]:
        """The gradients of the parameters, and an end to what the block has kept.

        Args:
            g: in place of dL/dy.
            own: nobody else has g, so it may be written over.
        """

    @abstractmethod
    def drop(self) -> None:
        """Forget what the block has kept: nothing will teach it."""

    def learn(self, g: Tensor, update: Update, *, own: bool = False) -> None:
        """Change the parameters. The arguments are those of `pull`."""
        update.apply(self.parameters, self.pull(g, own=own))


class Attached(Rule):
    """A block whose output is attached to its parameters, y."""

    y: Tensor | None = None

    def pull(self, g: Tensor, *, own: bool = False) -> Sequence[Tensor | None]:
        """See `Rule`."""
        y = self.y
        self.drop()
        if y is None or not y.requires_grad or not self.parameters:
            return [None] * len(self.parameters)
        return torch.autograd.grad(y, self.parameters, g, allow_unused=True)

    def drop(self) -> None:
        """See `Rule`."""
        self.y = None


class Graph(Attached):
    """A block of any modules, by autograd."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.calls = [_call(*pair) for pair in zip([None, *self.modules], self.modules, strict=False)]
        self.parameters = tuple(dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad))

    def run(self, h: Any) -> Any:
        """See `Rule`."""
        with torch.enable_grad():
            for call in self.calls:
                h = call(h)
        self.y = h
        return h.detach()


IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.Sigmoid: torch.sigmoid_,
    nn.ReLU: torch.relu_,
}
FRESH = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Modules whose output is nobody else's, and which their own backward does not need."""


def _call(before: nn.Module | None, module: nn.Module) -> Callable[[Any], Any]:
    """What runs a module of a block: an activation writes over what the module before it has just made."""
    own = any("forward" in vars(m) for m in (before, module) if m is not None)
    return module if own or type(before) not in FRESH else IN_PLACE.get(type(module), module)


class Ran(Attached):
    """A block that the network ran itself: what it returned, attached to its parameters."""

    def __init__(self, y: Tensor, parameters: tuple[nn.Parameter, ...]) -> None:
        self.y = y
        self.parameters = parameters

    def run(self, h: Any) -> Any:
        """It has run."""
        return h


class Dense(Rule):
    """Linear and one activation, in closed form: delta = g * f'(a), dW = delta^T h, db = sum_n delta_n."""

    def __init__(self, linear: nn.Linear, activation: nn.Module, *, flatten: bool) -> None:
        self.linear, self.module, self.flatten = linear, activation, flatten
        self.activation = ACTIVATIONS[type(activation)]
        self.weight, self.bias = linear.weight, linear.bias  # once: a module takes microseconds to look them up
        self.parameters = tuple(linear.parameters())
        self.kept: tuple[Tensor, Tensor] | None = None

    def run(self, h: Tensor) -> Tensor:
        """See `Rule`."""
        h = h.flatten(1) if self.flatten else h
        return self.activate(h, F.linear(h, self.weight, self.bias))

    def activate(self, h: Tensor, a: Tensor) -> Tensor:
        """Y = f(a), keeping what `pull` needs. Nobody else has a."""
        y = self.activation.f(self.module, a)
        self.kept = h, a if self.activation.keeps else y
        return y

    def derived(self, tangent: Tensor, *, own: bool) -> Tensor:
        """f'(a) times a tangent of a, which may be written over if nobody else has it."""
        assert self.kept is not None
        return self.activation.slope(self.module, tangent, self.kept[1], own=own)

    def pull(self, g: Tensor, *, own: bool = False) -> Sequence[Tensor | None]:
        """See `Rule`."""
        h, delta = self._delta(g, own=own)
        dW = self.weight_gradient(delta, h)
        return (dW,) if self.bias is None else (dW, delta.sum(0))

    def weight_gradient(self, delta: Tensor, h: Tensor) -> Tensor:
        """Return dW = delta^T h."""
        return delta.t() @ h

    def descend(self, delta: Tensor, h: Tensor, rate: float) -> None:
        """W - rate * delta^T h, inside the product."""
        self.weight.addmm_(delta.t(), h, alpha=-rate)

    def learn(self, g: Tensor, update: Update, *, own: bool = False) -> None:
        """See `Rule`."""
        rates = [rate for p in self.parameters if (rate := update.inside_product(p)) is not None]
        if len(rates) < len(self.parameters):
            super().learn(g, update, own=own)
            return
        h, delta = self._delta(g, own=own)
        self.descend(delta, h, rates[0])
        if self.bias is not None:
            self.bias.sub_(delta.sum(0), alpha=rates[1])

    def drop(self) -> None:
        """See `Rule`."""
        self.kept = None

    def _delta(self, g: Tensor, *, own: bool) -> tuple[Tensor, Tensor]:
        assert self.kept is not None
        h, delta = self.kept[0], self.derived(g, own=own)
        self.kept = None
        return h, delta


def rule(modules: Sequence[nn.Module], *, rows: bool) -> Rule:
    """The closed form where there is one, else autograd.

    Args:
        modules: the block, in order.
        rows: what it returns is a matrix (N, D).
    """
    rest = [m for m in modules if type(m) not in (nn.Flatten, nn.Identity)]
    first = modules[0] if modules else None
    flatten = isinstance(first, nn.Flatten) and (first.start_dim, first.end_dim) == (1, -1)
    flats = sum(isinstance(m, nn.Flatten) for m in modules)
    if not rows or not 1 <= len(rest) <= 2 or type(rest[0]) is not nn.Linear or flats != flatten:
        return Graph(modules)
    linear, activation = rest[0], rest[1] if len(rest) == 2 else nn.Identity()
    known = type(activation) in ACTIVATIONS and not any("forward" in vars(m) for m in rest)
    if not known or not all(p.requires_grad and not p._backward_hooks for p in linear.parameters()):
        return Graph(modules)
    return Dense(linear, activation, flatten=flatten)
