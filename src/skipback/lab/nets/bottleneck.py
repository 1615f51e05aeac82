"""The middle layer of the bottleneck study of Launay et al. 2019 (arXiv 1906.04554), in its three forms.

There 3072-800-[800]-800-10 with tanh on CIFAR-10, b of 1, 3, 5, 8, 11, 18, 28, 46, 73, 118, 191, 308, 496 and 800.

| form | the middle layer | ports |
|---|---|---|
| corrected | as wide as the others; a share b / width of its gradients passes | all hidden layers |
| published | the same | none before it: its code does not see a layer of this class, so two layers are one block |
| narrow | b units | all hidden layers |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from skipback.bottleneck import MaskedLinear

Middle = Callable[[int, bool], nn.Linear]
"""Makes the middle layer of a network whose hidden layers have so many units, with or without biases."""


@dataclass(frozen=True)
class Narrow:
    """A layer of `units` units."""

    units: int

    def __call__(self, width: int, bias: bool) -> nn.Linear:
        """Width to units."""
        return nn.Linear(width, self.units, bias=bias)


@dataclass(frozen=True)
class Masked:
    """A layer of which `passing` / width of the gradients pass, in batches of `rows` samples."""

    passing: int
    rows: int

    def __call__(self, width: int, bias: bool) -> nn.Linear:
        """Width to width.

        Raises:
            ValueError: more would pass than there are.
        """
        if self.passing > width:
            raise ValueError(f"bottleneck: {self.passing} of {width} units cannot pass: at most {width}")
        return MaskedLinear(width, width, passing=self.passing / width, rows=self.rows, bias=bias)


def published_blocks(net: nn.Module) -> list[str]:
    """The modules after which the published code has its ports: before each plain linear layer but the first.

    A masked layer is of another class, which that code does not look for.
    """
    names, modules = zip(*net.named_children(), strict=True)
    places = [k for k, module in enumerate(modules) if type(module) is nn.Linear]
    return [names[k - 1] for k in places[1:]]
