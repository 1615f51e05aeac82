"""What a figure shows: learning curves over the seeds, the range of an axis, the places of names beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from skipback.lab.report.stats import estimate


@dataclass(frozen=True, slots=True)
class Point:
    """One epoch of a learning curve: mean and range over the seeds."""

    epoch: int
    mean: float
    low: float
    high: float


def curve(seeds: Sequence[Mapping[int, float | None]]) -> list[Point]:
    """The learning curve over seeds, each given as value by epoch, as far as all of them have finite values."""
    whole = sorted(set.intersection(*(set(seed) for seed in seeds)))
    found = [(epoch, [math.nan if (value := seed[epoch]) is None else value for seed in seeds]) for epoch in whole]
    return [Point(e, fmean(values), min(values), max(values)) for e, values in found if all(map(math.isfinite, values))]


def far(curves: Mapping[str, Sequence[Point]], sign: int) -> set[str]:
    """Curves that, to scale, would squash the rest; the best is never one of them.

    Where something was learned: those that came less than a third as far as the best from epoch 0 on. Where nothing
    was: those that fell below the start by more than its size, as a loss does that diverges.
    """
    starts = [sign * points[0].mean for points in curves.values() if points[0].epoch == 0]
    ends = {label: sign * points[-1].mean for label, points in curves.items()}
    if not starts:
        return set()
    start, best = min(starts), max(ends, key=lambda label: ends[label])
    gain = ends[best] - start
    least = gain / 3 if gain > 0 else -abs(start)
    return {label for label, end in ends.items() if label != best and end - start < least}


def window(curves: Iterable[Sequence[Point]], sign: int) -> tuple[float, float]:
    """The range of y: the results and the way there, without the first tenth of the training and its steep rise."""
    all_points = [point for points in curves for point in points]
    last = max(point.epoch for point in all_points)
    ends = [sign * edge for points in curves for edge in (points[-1].low, points[-1].high)]
    late = [sign * point.mean for point in all_points if 10 * point.epoch >= last]
    rise = max(ends) - min(sign * point.mean for point in all_points)
    depth = max(1.5 * (max(ends) - min(ends)), 0.08 * rise)
    bottom = min(*ends, max(min(late), max(ends) - depth))
    top = max(sign * edge for point in all_points for edge in (point.low, point.high))
    pad = 0.05 * (top - bottom) or 0.01 * abs(top) or 1.0
    low, high = sorted((sign * (bottom - pad), sign * (top + pad)))
    return low, high


def view(rows: Iterable[Sequence[float]]) -> tuple[float, float]:
    """All seeds, and their intervals as far as these do not take over: two seeds can give an interval of any width."""
    seeds = [value for values in rows for value in values]
    sides = [(e.mean - (e.half or 0), e.mean + (e.half or 0)) for e in map(estimate, rows)]
    span = max(seeds) - min(seeds) or 0.02 * abs(seeds[0]) or 1.0
    low = max(min(side[0] for side in sides), min(seeds) - span)
    high = min(max(side[1] for side in sides), max(seeds) + span)
    return min(low, min(seeds)) - 0.05 * span, max(high, max(seeds)) + 0.05 * span


def spread(places: Sequence[float], *, gap: float) -> list[float]:
    """Move sorted places within 0..1 as little as possible so that neighbours are `gap` apart: isotonic regression."""
    groups: list[list[float]] = []
    for index, place in enumerate(places):
        groups.append([place - index * gap])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    room = max(0.0, 1 - gap * (len(places) - 1))
    level = [min(room, max(0.0, fmean(group))) for group in groups for _ in group]
    return [value + index * gap for index, value in enumerate(level)]
