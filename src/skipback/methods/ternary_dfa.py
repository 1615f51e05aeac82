"""Ternary DFA: the error is rounded to -1, 0 and 1 before it is sent, as optical co-processors need it.

    teaching_l = t(e) B_l       e = dL/dy (N, C), B_l (C, D_l) drawn once and never changed
    t(e_c)     = sign(e_c) if |e_c| > theta max_c |e_c|, else 0         sample by sample

Entries of the error that do not matter to a sample are silent, unlike in `sdfa`, where each output has its full say.

Paper: Launay, Poli, Müller, Pariente, Carron, Daudet, Krzakala, Gigan, "Hardware Beyond Backpropagation: a Photonic
Co-Processor for Direct Feedback Alignment", 2020, arXiv 2012.06373.
Defaults: theta = 0.1, our choice: the threshold of the paper could not be found. Feedback gaussian, which is what
scattered light gives.

Deviations from the paper:
1. Threshold. Ours is relative to the largest entry of the sample, so it does not depend on the scaling of the loss.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback, Fixed
from skipback.core.method import Direct, Paper
from skipback.draws import Gaussian
from skipback.signals import LossGradient, Ternarised

PAPER = Paper(
    title="Hardware Beyond Backpropagation: a Photonic Co-Processor for Direct Feedback Alignment",
    authors="Julien Launay, Iacopo Poli, Kilian Müller, Gustave Pariente, Igor Carron, Laurent Daudet, "
    "Florent Krzakala, Sylvain Gigan",
    year=2020,
    venue="arXiv",
    url="https://arxiv.org/abs/2012.06373",
    letter="b",
)


FIXED = Fixed(Gaussian())
"""A gaussian matrix for each port."""


def ternary_dfa(*, threshold: float = 0.1, feedback: Feedback = FIXED) -> Direct:
    """Direct feedback alignment with a ternary error.

    Args:
        threshold: theta, 0 to 1.
        feedback: how the error is projected to a port.
    """
    return Direct(paper=PAPER, signal=Ternarised(LossGradient(), threshold), feedback=feedback)


def as_published(*, threshold: float = 0.1, feedback: Feedback = FIXED) -> Direct:
    """The same update (deviation 1).

    Args:
        threshold: theta, 0 to 1.
        feedback: how the error is projected to a port.
    """
    return ternary_dfa(threshold=threshold, feedback=feedback)
