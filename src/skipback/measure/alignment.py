"""Alignment: how close is the teaching at each port to the exact gradient there?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from skipback.blocks.contexts import untouched
from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.aside import prepare
from skipback.measure.null import rotation_band

NORM_FLOOR = 1e-12
"""Below this norm per sample a direction is rounding noise, and its cosine means nothing."""


class Verdict(StrEnum):
    """Whether a cosine may be read."""

    VALID = "valid"
    SUSPICIOUS = "suspicious"  # inside the null band: chance would do the same
    INVALID = "invalid"  # one of the two vectors vanishes


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What was measured at one port.

    Attributes:
        port: the block's name.
        cosine: mean over samples of cos(teaching_n, dL/dh_n); 0 where invalid.
        degrees: the angle of that mean cosine.
        cosine_std: unbiased standard deviation over samples of the same cosines; 0 for fewer than two.
        batch_cosine: cosine of the means over the batch, cos(mean_n teaching_n, mean_n dL/dh_n): noisier than `cosine`,
            and 0 where invalid.
        null_band: two standard deviations of `cosine` if the same teachings were all turned by one random rotation of
            the D units (as other draws of a gaussian feedback would), 2 / sqrt(D r); 0 where invalid. r counts the
            directions that teachings and gradients share: 1 / mean over n, m of cos(teaching_n, teaching_m)
            cos(dL/dh_n, dL/dh_m), at most N and, under cross-entropy, about C - 1.
        gradient_norm: mean over samples of |dL/dh_n|.
        teaching_norm: mean over samples of |teaching_n|.
        verdict: whether the cosine may be read.
    """

    port: str
    cosine: float
    degrees: float
    cosine_std: float
    batch_cosine: float
    null_band: float
    gradient_norm: float
    teaching_norm: float
    verdict: Verdict


def alignment(
    learner: Learner,
    x: Any,
    t: Tensor,
    loss: Loss,
    *,
    ids: Tensor | None = None,
) -> list[Alignment]:
    """Measure the alignment at every port, on one graph: same weights, same mode, same dropout masks.

    Where ports and output share the positions of a sequence, each position is a sample.

    Nothing changes: not the memory, the batch-norm statistics, the random state or `.grad`.

    Args:
        learner: with a direct method. Other routes have no ports that are taught, and give an empty list.
        x: the input, or a tuple of inputs.
        t: the target.
        loss: loss(output, target).
        ids: for delayed signals.

    Raises:
        ValueError: the signal is a delayed one, and `ids` is missing.
    """
    inputs = prepare(learner, x, ids)
    if learner.direct is None:
        return []
    with torch.enable_grad():
        teach = learner.teaching_probe(*inputs)
    with untouched(learner.net), torch.enable_grad():
        outputs, ports = learner.observe(*inputs)
        e, gradients = outputs.error(loss(outputs.taken, t), ports)
    teachings, specs = teach(learner.signal_inputs(e, outputs.y, t, ids), e.shape), learner.direct.ports
    return [
        _compare(port, specs[port].of_port(teachings[port]), specs[port].of_port(gradient))
        for port, gradient in gradients.items()
    ]


def _compare(port: str, teaching: Tensor, gradient: Tensor) -> Alignment:
    a, b = teaching.flatten(1).double(), gradient.flatten(1).double()
    a_norm, b_norm = a.norm(dim=1), b.norm(dim=1)
    kept = (a_norm > NORM_FLOOR) & (b_norm > NORM_FLOOR)
    one_a, one_b = a[kept] / a_norm[kept, None], b[kept] / b_norm[kept, None]
    cosines = (one_a * one_b).sum(1)
    cosine = float(cosines.mean()) if kept.any() else 0.0
    band = rotation_band(one_a / len(one_a), one_b) if kept.any() else 0.0
    verdict = Verdict.VALID if abs(cosine) > band else Verdict.SUSPICIOUS
    return Alignment(
        port=port,
        cosine=cosine,
        degrees=degrees(cosine),
        cosine_std=float(cosines.std()) if len(cosines) > 1 else 0.0,
        batch_cosine=_of_means(a, b),
        null_band=band,
        gradient_norm=float(b_norm.mean()),
        teaching_norm=float(a_norm.mean()),
        verdict=verdict if kept.any() else Verdict.INVALID,
    )


def _of_means(a: Tensor, b: Tensor) -> float:
    """The cosine of the means over the batch."""
    a, b = a.mean(0), b.mean(0)
    valid = min(float(a.norm()), float(b.norm())) > NORM_FLOOR
    return float(a @ b / (a.norm() * b.norm())) if valid else 0.0


def degrees(cosine: float) -> float:
    """The angle of a cosine, which rounding may have carried beyond 1."""
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
