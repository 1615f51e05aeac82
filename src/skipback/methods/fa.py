"""Feedback alignment: the error passes backwards through fixed random matrices instead of the transposed weights.

    delta_{l-1} = (delta_l B_l) * f'(a_{l-1})       with backprop's W_l replaced by B_l (D_l, D_{l-1})
    dW_l = delta_l^T h_{l-1},   db_l = sum delta_l  as in backprop

    delta_l   error at a_l = h_{l-1} W_l^T + b_l; at the output the exact dL/dy
    B_l       of the shape of W_l, drawn once and never changed; a kernel, for a convolution
    h_l       f(a_l), the activity

Everything between two weight layers (f', norms, pooling, attention's softmax and products, residual sums) is exact.
Needs no weight on the way back, but every error of the layer above: the update lock of backprop remains.

Paper: Lillicrap, Cownden, Tweed, Akerman, "Random synaptic feedback weights support error backpropagation for deep
learning", Nature Communications 7:13276, 2016.
Defaults: B from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the distribution that dfa-torch draws its feedback and weights from
(`rfb_mag = 0`).

Deviations of the library's convention from dfa-torch, the code of Nøkland 2016:
1. First feedback. dfa-torch feeds back a copy of the layer's initial weights, so that a ReLU network starts with the
   gradients of backprop. Here B is another draw from the same distribution; `as_published` copies.
2. Zero start. dfa-torch sets the forward weights of tanh and sigmoid nets to 0 after that copy, all but those of its
   MLP's first layer; that is a choice of the network, and not made here. Attach first, then `skipback.init.zeros(net,
   kept=[first])`: a copy of zeros would teach nothing, and is refused.
3. Batch scaling. dfa-torch sums the error over batch and classes; here the error has the scaling of the loss (the lab
   sums it `--as-published`, where no `--reduction` is given).
4. First layer. In its MLP the first layer is an ordinary one, in its conv net it has feedback, which nothing reads
   then; here every weight has B, and it is read when the input wants a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor
from typing_extensions import override

from skipback.core.method import Paper
from skipback.draws import Draw, Uniform
from skipback.routes.layerwise import Layerwise
from skipback.transport import Random, Transport

PAPER = Paper(
    title="Random synaptic feedback weights support error backpropagation for deep learning",
    authors="Timothy P. Lillicrap, Daniel Cownden, Douglas B. Tweed, Colin J. Akerman",
    year=2016,
    venue="Nature Communications 7:13276",
    url="https://doi.org/10.1038/ncomms13276",
)
REDUCTION = "sum"
"""Of the loss in dfa-torch, whose convention `as_published` has."""


@dataclass(frozen=True)
class InitialWeights(Transport):
    """M = B, a copy of the weights at the time of `attach`.

    Raises:
        ValueError: the weights of a layer are all 0, and so would be the error that it passes on, for ever.
    """

    @override
    def init(self, weight: Tensor, generator: Generator) -> Tensor:
        if not weight.is_meta and not bool(weight.any()):
            raise ValueError(
                f"the feedback would be a copy of weights that are all 0 (shape {tuple(weight.shape)}), and teach "
                "nothing: attach first, and set the weights to 0 afterwards (skipback.init.zeros)"
            )
        return weight.clone()


def fa(*, draw: Draw = Uniform()) -> Layerwise:
    """Feedback alignment.

    Args:
        draw: how each B (D_out, fan_in) is filled.
    """
    return Layerwise(paper=PAPER, transport=Random(draw))


def as_published() -> Layerwise:
    """The first feedback of dfa-torch: a copy of the initial weights (deviation 1)."""
    return Layerwise(paper=PAPER, transport=InitialWeights())
