"""Forward direct feedback alignment: feedback that learns the mean output Jacobian, in forward mode.

    teaching_l = e B_l                         e = dL/dy (N, C)
    dB_l       = B_l - E_l                     descended by any optimizer
    E_l        = mean_n d_n p_{l,n}^T          estimates mean_n dy_n/dh_l (C, D_l)
    d_n        = sum_l J_{l,n} p_{l,n}         p ~ N(0, 1), fresh per sample, unit, port and step

One forward-mode pass serves all ports. With plain SGD of rate a on B it is a moving average, B <- (1 - a) B + a E. The
only bias against backprop is that the mean Jacobian stands for the sample's own.

Paper: Bacho, Chu, "Low-Variance Forward Gradients using Direct Feedback Alignment and Momentum", Neural Networks 169,
2024, arXiv 2212.07282.
Defaults: B starts at 0, one tangent.

Deviations from the published code:
1. Passes. There one dual forward pass serves training too, and reverse mode records its tangents (twice the memory);
   here a second pass, not recorded, with the same dropout masks.
2. Optimizer of B. The paper's momentum is Adam in the code; here it is whatever steps `learner.parameters()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from skipback.core.feedback import Feedback, FeedbackTensors, Lesson
from skipback.core.method import Direct, Paper
from skipback.draws import Draw, Zeros
from skipback.forward.jacobian import FromJacobian
from skipback.signals import LossGradient, Signal

PAPER = Paper(
    title="Low-Variance Forward Gradients using Direct Feedback Alignment and Momentum",
    authors="Florian Bacho, Dominique Chu",
    year=2024,
    venue="Neural Networks 169",
    url="https://arxiv.org/abs/2212.07282",
)


@dataclass(frozen=True, kw_only=True)
class MeanJacobian(FromJacobian):
    """B descends B - E, towards the mean output Jacobian at its port.

    Attributes:
        draw: how B starts.
        tangents: random directions per step, one forward-mode pass each.
    """

    draw: Draw = field(default_factory=Zeros)

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        assert lesson.jacobian is not None
        (B,) = parts
        return (B - lesson.jacobian.to(B.dtype),)


def fdfa(*, feedback: Feedback = MeanJacobian(), signal: Signal = LossGradient()) -> Direct:
    """Forward direct feedback alignment. The feedback learns, so `attach` needs `example=`.

    Args:
        feedback: how it starts, and from how many tangents it learns.
        signal: what is sent.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published() -> Direct:
    """The `FDFA` mode of the published code: the same update, stepped by Adam there."""
    return fdfa()
