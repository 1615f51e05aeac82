"""What a few seeds allow one to say: mean, spread, 95 % intervals by Student's t, and differences between methods.

An interval needs at least two values that are not all the same: with one seed, or without any spread, `half` is None
and the page says so in words. There is no zero-width interval here, and no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from skipback.lab.report.student import t_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanEstimate:
    """A mean over seeds; its 95 % interval is mean ± half."""

    mean: float
    n: int
    sd: float | None = None  # sample standard deviation, divisor n - 1
    half: float | None = None


class Pairing(StrEnum):
    """How the interval of a difference was found."""

    PAIRED = "paired"
    WELCH = "Welch"
    NONE = "no interval"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean of one method minus mean of another, with its 95 % interval where the seeds allow one."""

    mean: float
    pairing: Pairing
    n: int  # pairs, or the smaller of the two groups
    half: float | None = None

    @property
    def sign(self) -> int | None:
        """1 or -1: the whole interval lies above or below zero. 0: it holds zero. None: there is no interval."""
        if self.half is None:
            return None
        return (self.mean > self.half) - (self.mean < -self.half)


def estimate(values: Sequence[float]) -> MeanEstimate:
    """Mean ± t(0.975, n - 1) s / √n of at least one value."""
    n, mean = len(values), fmean(values)
    sd = _sd(values)
    half = t_quantile(0.975, n - 1) * sd / math.sqrt(n) if sd else None
    return MeanEstimate(mean=mean, n=n, sd=sd, half=half)


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Ours minus theirs, both by seed: paired over the seeds they share when these are at least two, else Welch."""
    common = sorted(ours.keys() & theirs.keys())
    if len(common) >= 2 or ours.keys() == theirs.keys():
        paired = estimate([ours[seed] - theirs[seed] for seed in common])
        pairing = Pairing.NONE if paired.half is None else Pairing.PAIRED
        return Difference(mean=paired.mean, half=paired.half, n=paired.n, pairing=pairing)
    return _welch(estimate(list(ours.values())), estimate(list(theirs.values())))


def _welch(a: MeanEstimate, b: MeanEstimate) -> Difference:
    """Welch's interval for two independent groups, with the Welch-Satterthwaite degrees of freedom."""
    mean, n = a.mean - b.mean, min(a.n, b.n)
    if a.sd is None or b.sd is None or a.sd == b.sd == 0:
        return Difference(mean=mean, n=n, pairing=Pairing.NONE)
    va, vb = a.sd**2 / a.n, b.sd**2 / b.n
    df = (va + vb) ** 2 / (va**2 / (a.n - 1) + vb**2 / (b.n - 1))
    half = t_quantile(0.975, df) * math.sqrt(va + vb)
    return Difference(mean=mean, half=half, n=n, pairing=Pairing.WELCH)


def _sd(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    same = math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12)  # but for rounding: no spread
    return 0.0 if same else stdev(values)
