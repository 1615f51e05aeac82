"""Uniform sign-concordant feedback (uSF): the error passes backwards through the signs of the weights.

    delta_{l-1} = (delta_l M_l) * f'(a_{l-1})       M_l = s_l sign(W_l), the signs of this pass
    dW_l = delta_l^T h_{l-1},   db_l = sum delta_l  as in backprop

    delta_l   error at a_l = h_{l-1} W_l^T + b_l; at the output the exact dL/dy
    s_l       one number for each layer: the root mean square of W_l when the learner is attached, then constant

Needs the signs of the weights on the way back, one bit of each, and every error of the layer above.

Paper: Liao, Leibo, Poggio, "How Important Is Weight Symmetry in Backpropagation?", AAAI 2016, arXiv 1510.05067.
Defaults: s from the idea of Xiao et al. 2018 (arXiv 1811.03567) to give the feedback the size of the initial weights.

Deviations of the library's convention from the paper:
1. Scale. The paper has s = 1, which grows the error by about sqrt(fan_out) at each layer, and tames it by batch norm
   and by stepping along the sign of the gradient (Batch Manhattan). `as_published` has s = 1. BioTorch, too, has s = 1,
   and by option s = sqrt(2 / (fan_in + fan_out)), the size of Xavier's weights.
2. Batch Manhattan is an optimizer, and not part of this method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from skipback.draws import Constant
from skipback.papers import LIAO_2016
from skipback.routes.layerwise import Layerwise
from skipback.transport import SignSymmetric

PAPER = LIAO_2016


@dataclass(frozen=True)
class UniformSigns(SignSymmetric):
    """|B| is one number for each layer: the root mean square of its weights at the time of `attach`."""

    @override
    def init(self, weight: Tensor, generator: Generator) -> Tensor:
        return torch.full_like(weight, weight.square().mean().sqrt().item())


def usf() -> Layerwise:
    """Uniform sign-concordant feedback, of the size of the initial weights."""
    return Layerwise(paper=PAPER, transport=UniformSigns())


def as_published() -> Layerwise:
    """M = sign(W) (deviation 1)."""
    return Layerwise(paper=PAPER, transport=SignSymmetric(Constant(1.0)))
