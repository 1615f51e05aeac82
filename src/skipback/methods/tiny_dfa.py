"""TinyDFA: direct feedback alignment with one matrix for the whole network.

    teaching_l = e R[:, :D_l] / sqrt(D_max)     e = dL/dy (N, C), R (C, D_max) from U(-1, 1), never changed

Each port takes the first columns of one shared R, so C D_max numbers are stored whatever the depth, and ports of one
width have the same feedback. The scale is that of the widest port for all.

Paper: Launay, Poli, Boniface, Krzakala, "Direct Feedback Alignment Scales to Modern Deep Learning Tasks and
Architectures", NeurIPS 2020, arXiv 2006.12878.
Defaults: the draw and `normalization=True` of its code (TinyDFA).

Deviations of the library's convention from the published code:
1. Repeated rows. Where a port has k rows for each row of the error (the points on a ray), the code repeats the
   projection and divides by sqrt(k); here a port of that form is one of k D_l units.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback
from skipback.core.method import Direct, Paper
from skipback.signals import LossGradient
from skipback.structures import Sliced

PAPER = Paper(
    title="Direct Feedback Alignment Scales to Modern Deep Learning Tasks and Architectures",
    authors="Julien Launay, Iacopo Poli, François Boniface, Florent Krzakala",
    year=2020,
    venue="NeurIPS 33",
    url="https://arxiv.org/abs/2006.12878",
)


SLICED = Sliced()
"""The feedback of TinyDFA."""


def tiny_dfa(*, feedback: Feedback = SLICED) -> Direct:
    """Direct feedback alignment with one shared matrix.

    Args:
        feedback: how the error is projected to a port.
    """
    return Direct(paper=PAPER, signal=LossGradient(), feedback=feedback)


def as_published(*, feedback: Feedback = SLICED) -> Direct:
    """The same update: its error is the gradient of the loss, whatever the loss.

    Args:
        feedback: how the error is projected to a port.
    """
    return tiny_dfa(feedback=feedback)
