"""GrAPE: direct feedback whose rows are turned towards the output Jacobian, by the cosine between the two.

    teaching_l = e B^_l                         e = dL/dy (N, C); B^_l[c] = B_l[c] / |B_l[c]|, row by row
    dB_l[c]    = |B_l[c]|/C (cos_c B^_l[c] - E^_l[c])       row c of the gradient of 1 - mean_c cos_c at B^, times |B|
    cos_c      = B^_l[c] . E^_l[c]
    E_l        = mean_n d_n p_{l,n}^T           as in FDFA: estimates mean_n dy_n/dh_l (C, D_l) in forward mode

Only the direction of a row is learned. Where the noise of E is too much, anchor it: the paper adds one
batch of plain backprop per epoch (`anchored(grape(), every=...)`), which does most for deep residual networks.

Paper: Caillon, Fagnou, Delattre, Allauzen, "Scaling Direct Feedback Learning with Jacobian Alignment Guarantees",
ICLR 2026. No code of the authors is known; the equations are those of summaries and of the reviews.
Defaults: B from N(0, 1), one tangent, both our choice: the paper's values could not be found.

Deviations from the paper:
1. Normalisation. There the rows of B are divided by their norms after each step; here teaching uses B^, and the factor
   |B| makes an SGD step turn B^ by just as much.
2. Order. There B takes its step before it teaches; here both use the B of the moment, so teaching lags by one step.
3. Tangents. There the smaller of weight and activity space is perturbed; here always activities.
4. The columns of the paper's B (units x outputs) are taken to be our rows, one for each output.
5. One pass with noise at all ports serves all of them, as in FDFA.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, Lesson, projected
from skipback.core.method import Direct, Paper
from skipback.draws import Draw, Gaussian
from skipback.forward.jacobian import FromJacobian
from skipback.signals import LossGradient, Signal

PAPER = Paper(
    title="Scaling Direct Feedback Learning with Jacobian Alignment Guarantees",
    authors="Paul Caillon, Erwan Fagnou, Blaise Delattre, Alexandre Allauzen",
    year=2026,
    venue="ICLR",
    url="https://openreview.net/forum?id=kasbbmwk3s",
)


@dataclass(frozen=True, kw_only=True)
class AlignedRows(FromJacobian):
    """The rows of B, brought to length 1, teach; B descends 1 - mean_c cos(B[c], E[c]).

    Attributes:
        draw: how B starts.
        tangents: random directions per step, one forward-mode pass each.
    """

    draw: Draw = field(default_factory=lambda: Gaussian(1.0))
    homogeneous = True

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        return projected(lesson.signal, self.matrix(lesson.port, parts))

    @override
    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        return unit(parts[0].flatten(1)).reshape(parts[0].shape)

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        assert lesson.jacobian is not None
        B = parts[0].flatten(1)
        b, E = unit(B), unit(lesson.jacobian.flatten(1).to(B.dtype))
        cosine = (b * E).sum(1, keepdim=True)
        descent = _norm(B) / len(B) * (cosine * b - E)
        return (descent.reshape(parts[0].shape),)


def unit(rows: Tensor) -> Tensor:
    """The rows of a matrix, each divided by its norm; a row of zeros stays."""
    return rows / _norm(rows)


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = rows.norm(dim=1, keepdim=True)
    return norm.clamp_min(torch.finfo(rows.dtype).tiny)


def grape(*, feedback: Feedback = AlignedRows(), signal: Signal = LossGradient()) -> Direct:
    """Gradient-aligned projected error. The feedback learns, so `attach` needs `example=`.

    Args:
        feedback: how it starts, and from how many tangents it learns.
        signal: what is sent.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published() -> Direct:
    """The same update: nothing else is known of the published one."""
    return grape()
