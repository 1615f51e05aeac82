"""Rules: the forward pass of one block, and the gradients of its parameters from its teaching.

    y = rule.run(h)                 h (N, ...), which gets no gradient
    gradients = rule.backward(g)    of the block's parameters; g, the teaching, takes the place of dL/dy

`ModulesBlock` does it by autograd, for any modules. `Dense` is the closed form of one linear layer and one elementwise
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
from typing_extensions import override

from skipback.update import Update

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


class Rule(ABC):
    """One block.

    Attributes:
        parameters: those that are trained.
    """

    parameters: tuple[nn.Parameter, ...]

    @abstractmethod
    def run(self, h: Any) -> Any:
        """Run the block, and save the activations for `backward`. The output is detached from h."""

    @abstractmethod
    def backward(self, g: Tensor, *, may_overwrite: bool = False) -> Sequence[Tensor | None]:
        """Return the gradients of the parameters, and free the saved activations.

        Args:
            g: the teaching of the block's output, in place of dL/dy.
            may_overwrite: g is not referenced elsewhere, so the block may overwrite it.
        """

    @abstractmethod
    def release(self) -> None:
        """Free the saved activations of a block that nothing will teach."""

    def learn(self, g: Tensor, update: Update, *, may_overwrite: bool = False) -> None:
        """Update the parameters by their gradients. The arguments g and may_overwrite are those of `backward`."""
        update.apply(self.parameters, self.backward(g, may_overwrite=may_overwrite))


class AutogradBlock(Rule):
    """A block by autograd: `y` is its output, with the graph back to its parameters."""

    y: Tensor | None = None

    @override
    def backward(self, g: Tensor, *, may_overwrite: bool = False) -> Sequence[Tensor | None]:
        y = self.y
        self.release()
        if y is None or not y.requires_grad or not self.parameters:
            return [None] * len(self.parameters)
        return torch.autograd.grad(y, self.parameters, g, allow_unused=True)

    @override
    def release(self) -> None:
        self.y = None


class ModulesBlock(AutogradBlock):
    """A block of any modules, run one by one in a graph."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.calls = [_call(*pair) for pair in zip([None, *self.modules], self.modules, strict=False)]
        self.parameters = tuple(dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad))

    @override
    def run(self, h: Any) -> Any:
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
"""Layers whose output is a fresh tensor that their backward does not read, so the next activation may overwrite it."""


def _call(before: nn.Module | None, module: nn.Module) -> Callable[[Any], Any]:
    """Return the callable for one module of a block; an activation after a layer in `FRESH` runs in place.

    Else its `forward`, without the hooks: those of a chain are the learner's cuts, which a step does not need.
    """
    own = any("forward" in vars(m) for m in (before, module) if m is not None)
    if not own and type(before) in FRESH and type(module) in IN_PLACE:
        return IN_PLACE[type(module)]
    return module.forward if type(module).__call__ is nn.Module.__call__ else module


class HookedBlock(AutogradBlock):
    """A block that the network ran itself: y is what a hook found at its cut, with the graph back to its parameters."""

    def __init__(self, y: Tensor, parameters: tuple[nn.Parameter, ...]) -> None:
        self.y = y
        self.parameters = parameters

    def run(self, h: Any) -> Any:
        """Return h: the network has run the block already."""
        return h


class Dense(Rule):
    """Linear and one activation, in closed form: delta = g * f'(a), dW = delta^T h, db = sum_n delta_n.

    Attributes:
        product: of two matrices, for dW.
    """

    product: Callable[[Tensor, Tensor], Tensor] = staticmethod(torch.mm)

    def __init__(self, linear: nn.Linear, activation: nn.Module, *, flatten: bool) -> None:
        self.linear, self.module, self.flatten = linear, activation, flatten
        self.activation = ACTIVATIONS[type(activation)](activation)
        self.weight, self.bias = linear.weight, linear.bias  # an attribute of a module takes microseconds to look up
        self.parameters = tuple(linear.parameters())
        self.saved: tuple[Tensor, Tensor] | None = None
        self.plain, self.needs_input = type(activation) is nn.Identity, self.activation.needs_input
        self.f, self.slope, self.slope_owned = (
            self.activation.f,
            self.activation.backward,
            self.activation.backward_owned,
        )

    @override
    def run(self, h: Tensor) -> Tensor:
        if self.flatten:
            h = h.flatten(1)
        a = F.linear(h, self.weight, self.bias)
        y = a if self.plain else self.f(a)
        self.saved = h, a if self.needs_input else y
        return y

    def activate(self, h: Tensor, a: Tensor) -> Tensor:
        """Return y = f(a), and save h and a or y for `backward`. a is a fresh tensor, which f may overwrite."""
        y = self.f(a)
        self.saved = h, a if self.needs_input else y
        return y

    def derived(self, tangent: Tensor) -> Tensor:
        """Return f'(a) times a tangent of a, which may take its memory."""
        assert self.saved is not None
        return self.slope_owned(tangent, self.saved[1])

    @override
    def backward(self, g: Tensor, *, may_overwrite: bool = False) -> Sequence[Tensor | None]:
        assert self.saved is not None
        (h, saved), self.saved = self.saved, None
        delta = g if self.plain else self.slope_owned(g, saved) if may_overwrite else self.slope(g, saved)
        dW = self.product(delta.t(), h)
        return (dW,) if self.bias is None else (dW, delta.sum(0))

    def descend(self, delta: Tensor, h: Tensor, rate: float) -> None:
        """Plain SGD fused into the product: W <- W - rate * delta^T h."""
        self.weight.addmm_(delta.t(), h, alpha=-rate)

    @override
    def learn(self, g: Tensor, update: Update, *, may_overwrite: bool = False) -> None:
        rates = _rates(update, self.parameters) if update.fuses else None
        if rates is None:
            update.apply(self.parameters, self.backward(g, may_overwrite=may_overwrite))
            return
        assert self.saved is not None
        (h, saved), self.saved = self.saved, None
        delta = self.slope_owned(g, saved) if may_overwrite else self.slope(g, saved)
        self.descend(delta, h, rates[0])
        if self.bias is not None:
            self.bias.sub_(delta.sum(0), alpha=rates[1])

    @override
    def release(self) -> None:
        self.saved = None


def _rates(update: Update, parameters: Sequence[nn.Parameter]) -> list[float] | None:
    """The rates to fuse into the product; `None` if the step of one of them is more than that."""
    rates = [rate for p in parameters if (rate := update.fusable_rate(p)) is not None]
    return rates if len(rates) == len(parameters) else None


def rule(modules: Sequence[nn.Module], *, rows: bool) -> Rule:
    """The rule of a block: the closed form where there is one, else autograd.

    Args:
        modules: the block, in order.
        rows: the block's output is a matrix (N, D).
    """
    rest = [m for m in modules if type(m) not in (nn.Flatten, nn.Identity)]
    first = modules[0] if modules else None
    flatten = isinstance(first, nn.Flatten) and (first.start_dim, first.end_dim) == (1, -1)
    flats = sum(isinstance(m, nn.Flatten) for m in modules)
    if not rows or not 1 <= len(rest) <= 2 or type(rest[0]) is not nn.Linear or flats != flatten:
        return ModulesBlock(modules)
    linear, activation = rest[0], rest[1] if len(rest) == 2 else nn.Identity()
    known = type(activation) in ACTIVATIONS and not any("forward" in vars(m) for m in rest)
    if not known or not all(p.requires_grad and not p._backward_hooks for p in linear.parameters()):
        return ModulesBlock(modules)
    return Dense(linear, activation, flatten=flatten)
