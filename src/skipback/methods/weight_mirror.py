"""Weight mirror: the feedback learns the weights from noise that is sent through each layer.

    delta_{l-1} = (delta_l B_l) * f'(a_{l-1})
    dW_l = delta_l^T h_{l-1},   db_l = sum delta_l              as in backprop
    dB_l = decay B_l - (1/S) sum_s (W_l xi_s) xi_s^T            at every training pass; descended by any optimizer

    delta_l   error at a_l = h_{l-1} W_l^T + b_l; at the output the exact dL/dy
    xi_s      noise at the input of layer l: S samples from N(0, noise^2), drawn for each layer and pass by itself
    B_l       of the shape of W_l; a parameter

The noise runs with the bias blocked, so E[dB] = decay B - noise^2 W: B moves along W, and rests at (noise^2/decay) W on
average. A kernel of a convolution gets its noise patch by patch, so that borders and overlaps do not bias it.

Engaged and mirror mode are one here: the mirror's gradient arrives at B in the same `loss.backward()` that teaches W,
and the optimizer steps both. It reads nothing of the batch. Give B (`learner.route.parameters()`) a
parameter group of its own for another step size; under DDP wrap the learner, not the network.

Paper: Akrout, Wilson, Humphreys, Lillicrap, Tweed, "Deep Learning without Weight Transport", NeurIPS 2019,
arXiv 1904.05391.
Defaults: one mirror step for every training batch, as the code of the paper. noise 1 and decay 1, our choice: B then
rests at W itself, and 1/eta is the number of batches that it averages over. S = 128, the code's batch.

Deviations of the library's convention from the code of the paper (makrout, `FCNN_WM.py`):
1. Noise. There it is uniform in +-0.05 and 128 samples, summed, with rate 0.01, without decay: `as_published` has the
   variance of that noise, as a gaussian, the sum, and no decay. Give B an SGD group with lr 0.01.
2. Layer. There the noise passes bias and sigmoid; here the layer alone, with the bias blocked as the paper describes.
3. Growth. There a rescaling of B is written down and has no effect (it assigns to a loop variable). Here the decay
   bounds B.
4. First feedback. There from N(0, 1), mirrored with the noise of one epoch before training starts; here from
   U(-1/sqrt(fan_in), 1/sqrt(fan_in)), without.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from typing_extensions import override

from skipback.draws import Draw, Gaussian, Uniform
from skipback.kinds import must_be, must_call
from skipback.papers import AKROUT_2019
from skipback.routes.layerwise import Layerwise
from skipback.transport import Drift, Transport, drawn

PAPER = AKROUT_2019


@dataclass(frozen=True)
class Mirror(Transport):
    """M = B, which learns from noise."""

    noise: float
    decay: float
    samples: int
    summed: bool = False
    draw: Draw = field(default_factory=Uniform)
    learned = True
    random = True

    def __post_init__(self) -> None:
        must_be("noise", self.noise, (int, float), "a number")
        must_be("decay", self.decay, (int, float), "a number")
        must_be("samples", self.samples, int, "a whole number")
        must_call("draw", self.draw, "a draw, as Uniform()")

    @override
    def init(self, weight: Tensor, generator: Generator) -> Tensor:
        return drawn(self.draw, weight, generator)

    @override
    def drift(self, weight: Tensor, feedback: Tensor, generator: Generator) -> Drift:
        flat = weight.flatten(1)
        xi = self.noise * torch.randn(self.samples, flat.shape[1], generator=generator).to(flat)
        correlation = (xi @ flat.T).T @ xi
        heard = correlation if self.summed else correlation / self.samples
        return None, self.decay * feedback - heard.reshape(weight.shape)


def weight_mirror(
    *,
    noise: float = 1.0,
    decay: float = 1.0,
    samples: int = 128,
    draw: Draw = Uniform(),
) -> Layerwise:
    """Feedback that mirrors the weights, learned from noise, so `attach` needs `example=`.

    Args:
        noise: standard deviation of the noise.
        decay: of B.
        samples: of noise, for each layer and pass.
        draw: how each B (D_out, fan_in) starts.
    """
    return Layerwise(paper=PAPER, transport=Mirror(noise, decay, samples, draw=draw))


def as_published() -> Layerwise:
    """The noise and the sum of the paper's code, without decay (deviation 1)."""
    transport = Mirror(noise=0.1 / 12**0.5, decay=0.0, samples=128, summed=True, draw=Gaussian(1.0))
    return Layerwise(paper=PAPER, transport=transport)
