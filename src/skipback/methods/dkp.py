"""Direct Kolen-Pollack: direct feedback that learns from what it sees at its two ends.

    teaching_l = e B_l                         e = dL/dy (N, C)
    dB_l       = e^T h_l + decay B_l           h_l the port (N, D_l); descended by any optimizer

The head's weight gets the gradient e^T h_{L-1}, so with equal decay B_{L-1} and W_L are pulled to the same value: the
Kolen-Pollack argument. For earlier ports B_l follows the correlation of the error with the activity. Needs the output
and the port's own activity; no weight of another block.

Paper: Webster, Choi, Ahn, "Learning the Connections in Direct Feedback Alignment", 2020, in the form of the FDFA code
(Bacho & Chu 2024).
Defaults: B starts at 0; decay 1e-6, the feedback decay with which the FDFA code was run for the reference numbers.

Deviations from the FDFA code:
1. Decay. There it is the weight decay of a second optimizer; here it is part of the gradient, so one optimizer serves
   all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from skipback.core.feedback import Feedback, FeedbackTensors, Lesson, Matrix, Sees, correlation
from skipback.core.method import Direct, Paper
from skipback.draws import Draw, Zeros
from skipback.kinds import must_be
from skipback.signals import LossGradient, Signal

PAPER = Paper(
    title="Learning the Connections in Direct Feedback Alignment",
    authors="Matthew Bailey Webster, Jonghyun Choi, Changwook Ahn",
    year=2020,
    venue="OpenReview",
    url="https://openreview.net/forum?id=zgGmAx9ZcY",
)


@dataclass(frozen=True, kw_only=True)
class Correlation(Matrix):
    """B descends e^T h + decay B: Kolen-Pollack learning of direct feedback.

    Attributes:
        draw: how B starts.
        decay: pull towards 0.
    """

    draw: Draw = field(default_factory=Zeros)
    decay: float = 1e-6
    learns = True
    sees = Sees.ACTIVITY

    def __post_init__(self) -> None:
        super().__post_init__()
        must_be("decay", self.decay, (int, float), "a number")

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        (B,) = parts
        return (correlation(lesson.signal, lesson, B) + self.decay * B,)


def dkp(*, feedback: Feedback = Correlation(), signal: Signal = LossGradient()) -> Direct:
    """Direct Kolen-Pollack. The feedback learns, so `attach` needs `example=`.

    Args:
        feedback: how it starts and decays.
        signal: what is sent, and learned from.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published(*, decay: float = 0.0) -> Direct:
    """The FDFA code's `DKP` mode: without decay in the gradient (deviation 1).

    Args:
        decay: its `--feedback-decay`.
    """
    return dkp(feedback=Correlation(decay=decay))
