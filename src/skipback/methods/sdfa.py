"""Sign-based direct feedback alignment: only the sign of the output error is sent, one bit per output.

    teaching_l = sign(e) B_l / N          with e = dL/dy (N, C)

Paper: Frenkel, Lefebvre, Bol, "Learning Without Feedback", Frontiers in Neuroscience 15, 2021, arXiv 1909.01311, where
sDFA is the step between DFA and DRTP.
Defaults: feedback U(-sqrt(6/D), sqrt(6/D)), Kaiming uniform of the published code.

Deviations of the library's convention from the published code:
1. Batch scaling. The published signal sign(y - t) is summed over the batch; here it is divided by N, so hidden blocks
   and head see the same batch. `as_published` sends the sum.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback, Fixed
from skipback.core.method import Direct
from skipback.draws import KaimingUniform
from skipback.papers import FRENKEL_2021
from skipback.signals import Link, LossGradient, OutputError, Scaled, Signed, sigmoid

PAPER = FRENKEL_2021


def sdfa(*, feedback: Feedback = Fixed(KaimingUniform(a=0.0))) -> Direct:
    """Sign-based direct feedback alignment, for any loss.

    Args:
        feedback: how the sign is projected to a port.
    """
    return Direct(paper=PAPER, signal=Scaled(Signed(LossGradient()), mean=True), feedback=feedback)


def as_published(*, feedback: Feedback = Fixed(KaimingUniform(a=0.0)), link: Link = sigmoid) -> Direct:
    """The published update: sign(link(y) - t), summed over the batch (deviation 1).

    Args:
        feedback: how the sign is projected to a port.
        link: from the network's output to the prediction: sigmoid for BCE, identity for MSE, softmax for CE.
    """
    return Direct(paper=PAPER, signal=Signed(OutputError(link)), feedback=feedback)
