"""Gradient alignment: how close is the gradient that a method leaves at each parameter to backprop's?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.alignment import NORM_FLOOR, Verdict, degrees
from skipback.measure.aside import gradients
from skipback.measure.null import sign_band

SAME = 1 - 1e-9
"""Above this cosine, two gradients differ by rounding at most: that is no chance, however few the units (the head)."""


@dataclass(frozen=True, kw_only=True)
class GradientAlignment:
    """What was measured at one parameter. g is the method's gradient, g* backprop's.

    Attributes:
        parameter: its name, as in `net.named_parameters()`.
        cosine: cos(g, g*), both flattened; 0 where invalid.
        degrees: its angle.
        null_band: two standard deviations of `cosine` if each unit (index of the first axis) of g got the sign of a
            coin, as other draws of the feedback would: 2 sqrt(sum_i c_i^2), where c_i is what unit i adds to the
            cosine. Units are few and differ in size, so 2 / sqrt(numel) would be too narrow.
        ratio: |g| / |g*|; 0 where invalid.
        gradient_norm: |g|.
        exact_norm: |g*|.
        verdict: whether the cosine may be read; a gradient that is backprop's to rounding is valid at any band.
    """

    parameter: str
    cosine: float
    degrees: float
    null_band: float
    ratio: float
    gradient_norm: float
    exact_norm: float
    verdict: Verdict


def gradient_alignment(
    learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None
) -> list[GradientAlignment]:
    """Compare a method with backprop at every parameter that backprop reaches. Works for any method.

    Both gradients are of the same weights, mode, inputs and dropout masks. Nothing changes. A parameter that the method
    does not teach has a gradient of zero, and is invalid.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: the target.
        loss: loss(output, target).
        ids: for delayed signals.
    """
    found = gradients(learner, x, t, loss, ids=ids)
    exact = gradients(learner, x, t, loss, ids=ids, exact=True)
    return [_compare(name, found[name], g) for name, g in exact.items() if g is not None]


def _compare(name: str, found: Tensor | None, exact: Tensor) -> GradientAlignment:
    matrix = exact.double().reshape(len(exact) if exact.dim() else 1, -1)
    g = matrix.new_zeros(matrix.shape) if found is None else found.double().reshape(matrix.shape)
    norm, exact_norm = float(g.norm()), float(matrix.norm())
    valid = min(norm, exact_norm) > NORM_FLOOR
    parts = (g * matrix).sum(1) / (norm * exact_norm) if valid else matrix.new_zeros(1)
    cosine, band = float(parts.sum()), sign_band(parts)
    verdict = Verdict.VALID if abs(cosine) > band or cosine > SAME else Verdict.SUSPICIOUS
    return GradientAlignment(
        parameter=name,
        cosine=cosine,
        degrees=degrees(cosine),
        null_band=band,
        ratio=norm / exact_norm if valid else 0.0,
        gradient_norm=norm,
        exact_norm=exact_norm,
        verdict=verdict if valid else Verdict.INVALID,
    )
