"""Direct random target projection: the target itself is sent, before the output is known.

    teaching_l = -t B_l / N          with t (N, C), one-hot for classes

For a one-hot target the sign of the error y - t is known without y: negative at the true class. That sign, fixed, is
the signal, so a block can learn as soon as its own output is there: no backward lock and no update lock.

Paper: Frenkel, Lefebvre, Bol, "Learning Without Feedback", Frontiers in Neuroscience 15, 2021, arXiv 1909.01311.
Defaults: feedback U(-sqrt(6/D), sqrt(6/D)), Kaiming uniform of the published code.

Deviations of the library's convention from the published code:
1. Sign. The published code sends +t and so absorbs the sign in B, which is the same in distribution only if the draw is
   symmetric. Here the signal has the sign of dL/dy, so that any draw may be used.
2. Batch scaling. Published: a sum over the batch. Here: divided by N. `as_published` sends +t summed.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback, Fixed
from skipback.core.method import Direct
from skipback.draws import KaimingUniform
from skipback.papers import FRENKEL_2021
from skipback.signals import Scaled, Target

PAPER = FRENKEL_2021


def drtp(*, feedback: Feedback = Fixed(KaimingUniform(a=0.0))) -> Direct:
    """Direct random target projection. Pass the target along: `learner(x, target=t)`.

    Args:
        feedback: how the target is projected to a port.
    """
    return Direct(paper=PAPER, signal=Scaled(Target(), factor=-1.0, mean=True), feedback=feedback)


def as_published(*, feedback: Feedback = Fixed(KaimingUniform(a=0.0))) -> Direct:
    """The published update: +t, summed over the batch (deviations 1 and 2).

    Args:
        feedback: how the target is projected to a port.
    """
    return Direct(paper=PAPER, signal=Target(), feedback=feedback)
