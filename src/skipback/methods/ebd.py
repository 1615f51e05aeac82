"""Error broadcast and decorrelation: the feedback is the correlation of activity and error, which learning drives to 0.

    teaching_l = e B_l                  e = dL/dy (N, C)
    dB_l       = B_l - e^T h_l          h_l the port (N, D_l); descended by any optimizer

An estimator with the least mean square error has errors that no function of its input is correlated with; each block
descends half the squared norm of B_l, its own correlation with the error. With plain SGD of rate 1 - lambda on B, B is
the moving average lambda B + (1 - lambda) e^T h of the paper. Its sign is the opposite of DKP's, which looks alike.

Paper: Erdogan, Pehlevan, Erdogan, "Error Broadcast and Decorrelation as a Potential Artificial and Natural Learning
Mechanism", 2025, arXiv 2504.11558 (NeurIPS 2025), in the form with g(h) = h.
Defaults: B from N(0, 0.01^2), as for its conv nets.

Deviations from the paper:
1. Factor. The gradient of the paper has (1 - lambda) in it, and learning rates of some 10,000 that make up for it; here
   the factor is left out, and a learning rate is an ordinary one.
2. Order. There B takes its step before it teaches; here both use the B of the moment.
3. Regularisers. Power, entropy and sparsity of the activities are not part of the rule here; add them to the loss.
4. Batch scaling. With a mean loss e^T h is the mean over the batch, as there; e has the factor 2 of a mean square loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from skipback.core.feedback import Feedback, FeedbackTensors, Lesson, Matrix, Sees, correlation
from skipback.core.method import Direct, Paper
from skipback.draws import Draw, Gaussian
from skipback.signals import LossGradient, Signal

PAPER = Paper(
    title="Error Broadcast and Decorrelation as a Potential Artificial and Natural Learning Mechanism",
    authors="Mete Erdogan, Cengiz Pehlevan, Alper T. Erdogan",
    year=2025,
    venue="arXiv",
    url="https://arxiv.org/abs/2504.11558",
)


@dataclass(frozen=True, kw_only=True)
class ErrorCorrelation(Matrix):
    """B descends B - e^T h, towards the correlation of the error with the activity.

    Attributes:
        draw: how B starts.
    """

    draw: Draw = field(default_factory=lambda: Gaussian(0.01))
    learns = True
    sees = Sees.ACTIVITY

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        (B,) = parts
        return (B - correlation(lesson.signal, lesson, B),)


def ebd(*, feedback: Feedback = ErrorCorrelation(), signal: Signal = LossGradient()) -> Direct:
    """Error broadcast and decorrelation. The feedback learns, so `attach` needs `example=`.

    Args:
        feedback: how it starts.
        signal: what is sent, and learned from.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published() -> Direct:
    """The same update (deviations 1 to 3 lie in the optimizer, the order and the loss)."""
    return ebd()
