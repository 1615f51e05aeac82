"""Low-dimensional feedback: the error is compressed to r numbers, along directions that are learned with the feedback.

    teaching_l = (e P_l^T) Q_l                          e = dL/dy (N, C), P_l (r, C), Q_l (r, D_l)
    dQ_l       = (e P_l^T)^T h_l + decay Q_l            h_l the port (N, D_l): Kolen-Pollack through P
    dP_l       = -(Y^T e - Y^T Y P_l), Y = e P_l^T      Oja's rule: the rows of P span the leading directions of e

Both are descended by any optimizer. B_l = P_l^T Q_l has a rank of r at most; the paper finds that r of about the number
of classes is enough, so it pays for large outputs.

Paper: Hanut, Kadmon, "Training Large Neural Networks With Low-Dimensional Error Feedback", 2025, arXiv 2502.20580.
Defaults: r = 10 (no more than C or D_l); rows of P orthonormal; Q = 0, and decay 1e-6, as for DKP: our choice.

Deviations from the paper:
1. Route. Its main form is layerwise, with P tracking the error of the next layer; here the direct one, which the paper
   has too. Its equations could not be read: these are the layerwise ones with e for the next layer's error.
2. Each port has a P of its own. All see the same error, so they span the same directions, and none waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Generator, Tensor
from typing_extensions import override

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, Lesson, Sees, correlation, projected
from skipback.core.method import Direct, Paper
from skipback.draws import Draw, Orthogonal, Zeros
from skipback.signals import LossGradient, Signal

PAPER = Paper(
    title="Training Large Neural Networks With Low-Dimensional Error Feedback",
    authors="Maher Hanut, Jonathan Kadmon",
    year=2025,
    venue="arXiv",
    url="https://arxiv.org/abs/2502.20580",
)


@dataclass(frozen=True, kw_only=True)
class Subspace(Feedback):
    """B = P^T Q: P learns the leading directions of the signal, Q their correlation with the activity.

    Attributes:
        rank: r; no more than C or D are used.
        draw: how Q starts.
        decay: pull of Q towards 0.
    """

    rank: int = 10
    draw: Draw = field(default_factory=Zeros)
    decay: float = 1e-6
    learns = True
    homogeneous = True
    sees = Sees.ACTIVITY

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank must be 1 or more, got {self.rank}")

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        return [self._factors(port, generator) for port in ports]

    def _factors(self, port: PortSpec, generator: Generator) -> FeedbackTensors:
        r = min(self.rank, port.outputs, port.size)
        P, Q = Orthogonal()(r, port.outputs, generator), self.draw(r, port.size, generator)
        return P.to(port.device, port.dtype), Q.reshape(r, *port.shape).to(port.device, port.dtype)

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        P, Q = parts
        return projected(lesson.signal.to(P.dtype) @ P.T, Q)

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        P, Q = parts
        e = lesson.signal.to(P.dtype)
        Y = e @ P.T
        return Y.T @ (Y @ P - e), correlation(Y, lesson, Q) + self.decay * Q


def ldfa(*, feedback: Feedback = Subspace(), signal: Signal = LossGradient()) -> Direct:
    """Low-dimensional feedback. It learns, so `attach` needs `example=`.

    Args:
        feedback: its rank, how it starts and decays.
        signal: what is sent, and learned from.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published() -> Direct:
    """The same update: nothing else is known of the published direct form."""
    return ldfa()
