"""Principled DFA: direct feedback alignment with one shared matrix, rescaled to the same norm at every port.

    teaching_l = e B_l          e = dL/dy (N, C)
    B_l        = R[:, :D_l] sqrt(D_max / D_l)       R (C, D_max) from N(0, 1/(C D_max)): E |B_l|^2 = 1

Paper: Launay, Poli, Krzakala, "Principled Training of Neural Networks with Direct Feedback Alignment", 2019,
arXiv 1906.04554.
Defaults: `feedback_normalization=True` of its code.

Deviations of the library's convention from the published code:
1. Batch scaling. There the hidden layers get softmax(y) - t summed over the batch, the head the mean: with a batch of
   128 the hidden learning rate is 128 times the head's. Here all get the gradient of the loss; `as_published` sends the
   sum, and the head's loss stays a mean.
2. Order of layers. Its fully connected net is Linear, dropout, activation, batch norm; the lab's `mlp` is Linear, batch
   norm, activation, dropout unless it is told `dropout_first` and `norm_last` (--dropout-first --norm-last).
"""

from __future__ import annotations

from skipback.core.feedback import Feedback
from skipback.core.method import Direct, Paper
from skipback.draws import UnitNorm
from skipback.signals import Link, LossGradient, OutputError, softmax
from skipback.structures import Sliced

PAPER = Paper(
    title="Principled Training of Neural Networks with Direct Feedback Alignment",
    authors="Julien Launay, Iacopo Poli, Florent Krzakala",
    year=2019,
    venue="arXiv",
    url="https://arxiv.org/abs/1906.04554",
)

SLICED = Sliced(UnitNorm(), rescale=True)
"""The feedback of the paper's code."""


def principled_dfa(*, feedback: Feedback = SLICED) -> Direct:
    """Direct feedback alignment with feedback of unit norm.

    Args:
        feedback: how the error is projected to a port.
    """
    return Direct(paper=PAPER, signal=LossGradient(), feedback=feedback)


def as_published(*, feedback: Feedback = SLICED, link: Link = softmax) -> Direct:
    """The published update: the error summed over the batch for hidden layers (deviation 1).

    Args:
        feedback: how the error is projected to a port.
        link: from the network's output to the prediction; the code has cross-entropy only.
    """
    return Direct(paper=PAPER, signal=OutputError(link), feedback=feedback)
