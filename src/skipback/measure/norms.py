"""Norm ratio: is the teaching at each port as large as the exact gradient there?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.alignment import NORM_FLOOR, Verdict, alignment


@dataclass(frozen=True, kw_only=True)
class NormRatio:
    """What was measured at one port.

    Attributes:
        port: the block's name.
        ratio: teaching_norm / gradient_norm: what a learning rate is multiplied with at this port; 0 where invalid.
        teaching_norm: mean over samples of |teaching_n|.
        gradient_norm: mean over samples of |dL/dh_n|.
        verdict: invalid where the exact gradient vanishes, else valid.
    """

    port: str
    ratio: float
    teaching_norm: float
    gradient_norm: float
    verdict: Verdict


def norm_ratio(learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None) -> list[NormRatio]:
    """Compare the norms of teaching and exact gradient at every port. Nothing changes.

    Methods that send nothing to the ports give an empty list: `gradient_alignment` has the ratio at each parameter.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: the target.
        loss: loss(output, target).
        ids: for delayed signals.
    """
    ports = alignment(learner, x, t, loss, ids=ids)
    return [_ratio(a.port, a.teaching_norm, a.gradient_norm) for a in ports]


def _ratio(port: str, teaching: float, gradient: float) -> NormRatio:
    valid = gradient > NORM_FLOOR
    return NormRatio(
        port=port,
        ratio=teaching / gradient if valid else 0.0,
        teaching_norm=teaching,
        gradient_norm=gradient,
        verdict=Verdict.VALID if valid else Verdict.INVALID,
    )
