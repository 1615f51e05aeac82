"""Fixed random-magnitude sign-concordant feedback (frSF): the signs of the weights, with magnitudes drawn once.

    delta_{l-1} = (delta_l M_l) * f'(a_{l-1})       M_l = |B_l| sign(W_l), the signs of this pass
    dW_l = delta_l^T h_{l-1},   db_l = sum delta_l  as in backprop

    delta_l   error at a_l = h_{l-1} W_l^T + b_l; at the output the exact dL/dy
    B_l       of the shape of W_l, drawn once and never changed

Needs the signs of the weights on the way back, one bit of each, and every error of the layer above.

Paper: Liao, Leibo, Poggio, "How Important Is Weight Symmetry in Backpropagation?", AAAI 2016, arXiv 1510.05067.
Defaults: B from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as torch draws W.

Deviations of the library's convention from the paper:
1. Magnitudes. The paper draws |B| from U(0, 1), which `as_published` does (from memory of the paper: no code of it was
   found); that grows the error at each layer, and the paper tames it by batch norm and Batch Manhattan.
2. Signs. BioTorch draws B with both signs and multiplies the kept product by sign(W) again at every pass, so that its
   signs are no longer concordant; here the magnitude is |B|.
"""

from __future__ import annotations

from skipback.draws import Draw, Uniform
from skipback.papers import LIAO_2016
from skipback.routes.layerwise import Layerwise
from skipback.transport import SignSymmetric

PAPER = LIAO_2016


def frsf(*, draw: Draw = Uniform()) -> Layerwise:
    """Sign-concordant feedback with fixed random magnitudes.

    Args:
        draw: how each B (D_out, fan_in) is filled; its signs do not matter.
    """
    return Layerwise(paper=PAPER, transport=SignSymmetric(draw))


def as_published() -> Layerwise:
    """Magnitudes from U(0, 1) (deviation 1)."""
    return frsf(draw=Uniform(1.0))
