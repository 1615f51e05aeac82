"""Shallow learning: only the head learns, hidden blocks stay at their random start. The floor of every experiment.

    teaching_l = 0 for every port;  the head gets dL/dy

A method that does not beat this floor has taught its hidden blocks nothing of use.

Paper: the baseline "shallow" of Frenkel, Lefebvre, Bol 2021, and "LLO" (last layer only) of the F3 code.
Deviations: none. Hidden parameters get no gradient at all (`None`), so weight decay does not move them either.
"""

from __future__ import annotations

from skipback.core.method import HeadOnly
from skipback.papers import FRENKEL_2021

PAPER = FRENKEL_2021


def shallow() -> HeadOnly:
    """Only the head learns."""
    return HeadOnly(paper=PAPER)


def as_published() -> HeadOnly:
    """The `llo` mode of the F3 code: the same."""
    return shallow()
