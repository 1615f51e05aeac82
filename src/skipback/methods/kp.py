"""Kolen-Pollack: the feedback gets the updates of the weights, and the decay makes the two meet.

    delta_{l-1} = (delta_l B_l) * f'(a_{l-1})
    dW_l = delta_l^T h_{l-1} + decay W_l
    dB_l = delta_l^T h_{l-1} + decay B_l            hence W_l - B_l shrinks by (1 - eta decay) at each SGD step

    delta_l   error at a_l = h_{l-1} W_l^T + b_l; at the output the exact dL/dy
    B_l       of the shape of W_l; a parameter, stepped by the optimizer of W_l at the same learning rate eta

Both ends of a synapse pair know delta_l and h_{l-1}, so no weight is transported. Biases do not decay. The law needs
the same step for both: SGD, with or without momentum. Adam divides W and B by different numbers once they
differ, and its W - B need not shrink. For a weight that is also an embedding, B misses the embedding's part of the
gradient.

Under DDP wrap the learner, not the network: B is a parameter of the learner.

The decay is added once for every backward pass. Under accumulation over k passes, or with a GradScaler, say so by
`learner(x, scale=...)`, as for an early signal.

Paper: Akrout, Wilson, Humphreys, Lillicrap, Tweed, "Deep Learning without Weight Transport", NeurIPS 2019,
arXiv 1904.05391, after Kolen and Pollack 1994.
Defaults: decay 1e-3, our choice: after 1/(eta decay) steps W - B has fallen to 1/e. B as the weights of torch,
U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

Deviations of the library's convention from the code of the paper (makrout, `FCNN_KP.py`):
1. Decay. There each step multiplies W and B by a factor that is 1 by default, and its `main.py` leaves it there: no
   decay, so W - B stays what it was. `as_published` has decay 0.
2. First feedback. There W and B are drawn from N(0, 1); `as_published` draws B so.
3. Batch scaling. There the summed error is divided by the size of the batch, which is what a mean loss does here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Generator, Tensor
from typing_extensions import override

from skipback.draws import Draw, Gaussian, Uniform
from skipback.kinds import must_be, must_call
from skipback.papers import AKROUT_2019
from skipback.routes.layerwise import Layerwise
from skipback.transport import Drift, Transport, drawn

PAPER = AKROUT_2019


@dataclass(frozen=True)
class KolenPollack(Transport):
    """M = B, which gets the gradient of W; both decay."""

    decay: float
    draw: Draw = field(default_factory=Uniform)
    learned = True
    follows = True

    def __post_init__(self) -> None:
        must_be("decay", self.decay, (int, float), "a number")
        must_call("draw", self.draw, "a draw, as Uniform()")

    @override
    def init(self, weight: Tensor, generator: Generator) -> Tensor:
        return drawn(self.draw, weight, generator)

    @override
    def drift(self, weight: Tensor, feedback: Tensor, generator: Generator) -> Drift:
        return self.decay * weight, self.decay * feedback


def kp(*, decay: float = 1e-3, draw: Draw = Uniform()) -> Layerwise:
    """Kolen-Pollack learning of the feedback, so `attach` needs `example=`.

    Args:
        decay: of W and B.
        draw: how each B (D_out, fan_in) starts.
    """
    return Layerwise(paper=PAPER, transport=KolenPollack(decay, draw))


def as_published() -> Layerwise:
    """Feedback that starts from N(0, 1), and no decay (deviations 1 and 2)."""
    return kp(decay=0.0, draw=Gaussian(1.0))
