"""Normalised DFA: each sample's teaching has the norm of its error, so feedback says nothing but a direction.

    m_l        = e B_l                      e = dL/dy (N, C), B_l (C, D_l) with columns of norm 1, never changed
    teaching_l = m_l |e_n| / |m_{l,n}|      sample by sample

Learning rates then mean the same at narrow and wide ports.

Paper: none; the rule is `NormalizedDfaCreditRule` of AiDotNet (2026). It names Launay et al. 2020, whose code has only
a constant factor (see `tiny_dfa`). It is not "nDFA", which conditions on second moments.
Defaults: gaussian columns of norm 1, as there.

Deviations from that code:
1. A teaching that vanishes (below 1e-12 there) stays 0 here too, with the smallest positive number for a floor.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback
from skipback.core.method import Direct, Paper
from skipback.signals import LossGradient
from skipback.structures import Normalised, UnitColumns

PAPER = Paper(
    title="NormalizedDfaCreditRule",
    authors="AiDotNet",
    year=2026,
    venue="software",
    url="https://github.com/ooples/AiDotNet",
)

UNIT = Normalised(UnitColumns())
"""The feedback of AiDotNet."""


def normalised_dfa(*, feedback: Feedback = UNIT) -> Direct:
    """Normalised direct feedback alignment.

    Args:
        feedback: how the error is projected to a port; `Normalised(...)` of any other.
    """
    return Direct(paper=PAPER, signal=LossGradient(), feedback=feedback)


def as_published(*, feedback: Feedback = UNIT) -> Direct:
    """The same update.

    Args:
        feedback: how the error is projected to a port.
    """
    return normalised_dfa(feedback=feedback)
