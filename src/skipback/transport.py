"""Transport: what replaces W transposed, where the layerwise route sends an error backwards through a weight layer.

    forward    y = x W^T + b        W (D_out, D_in); a convolution likewise, with the kernel as W
    backward   dL/dx = dL/dy M      M = transport.weight(W, B), of W's shape; backprop has M = W

Fixed feedback is drawn once. Learned feedback is a parameter: `learner.parameters()` has it, the backward pass that
teaches the layers gives it a gradient too, and any optimizer steps it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor
from typing_extensions import override

from skipback.draws import Draw, Uniform
from skipback.kinds import must_call
from skipback.renamed import renamed

__getattr__ = renamed(__name__, {"Signed": "SignSymmetric"})

Drift = tuple[Tensor | None, Tensor]
"""What is added to the gradients of W and of B, whatever the error says; `None` adds nothing."""


class Transport(ABC):
    """How an error passes one weight layer. The tensor B, one for each weight and of its shape, lives in the learner.

    Laws that every transport obeys, checked by `skipback.testing.check_transport`: B and M have the shape and dtype of
    W, and B memory of its own; some rows of W and B give those rows of M; what is drawn comes from the generator alone;
    `redraw` returns a new tensor, as an earlier pass may still wait for its backward; a `drift`, and `follows`, are for
    learned B only; nothing that is passed in is written, and nothing is kept from call to call.

    Attributes:
        learned: B is a parameter, and the optimizer changes it.
        follows: a learned B gets the gradient of W as its own.
        random: draws at every training pass, from the learner's own stream.
    """

    learned: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    random: ClassVar[bool] = False

    @abstractmethod
    def init(self, weight: Tensor, generator: Generator) -> Tensor:
        """Return the first B, of the shape of W."""

    def weight(self, weight: Tensor, feedback: Tensor) -> Tensor:
        """Return M, what stands in for W on the way back. W and B may be the same part of the layer's tensors."""
        return feedback

    def redraw(self, weight: Tensor, feedback: Tensor, generator: Generator) -> Tensor:
        """Return B for the training pass that begins now. Only asked of those that are `random`."""
        return feedback

    def drift(self, weight: Tensor, feedback: Tensor, generator: Generator) -> Drift | None:
        """Return what the gradients of W and B get once for every pass, whatever its error. Learned feedback only."""
        return None


def drawn(draw: Draw, weight: Tensor, generator: Generator) -> Tensor:
    """A tensor in the shape, layout, dtype and device of a weight, filled by a draw of (D_out, fan_in)."""
    flat = draw(len(weight), weight[0].numel(), generator)
    return torch.empty_like(weight).copy_(flat.reshape(weight.shape))


@dataclass(frozen=True)
class Random(Transport):
    """M = B, drawn once and never changed."""

    draw: Draw = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        must_call("draw", self.draw, "a draw, as Uniform()")

    @override
    def init(self, weight: Tensor, generator: Generator) -> Tensor:
        return drawn(self.draw, weight, generator)


@dataclass(frozen=True)
class SignSymmetric(Random):
    """M = |B| sign(W): the signs of the weights at this pass, with magnitudes that are drawn once."""

    @override
    def weight(self, weight: Tensor, feedback: Tensor) -> Tensor:
        return feedback.abs() * weight.sign()
