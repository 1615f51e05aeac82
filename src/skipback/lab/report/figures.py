"""The figures of a section: learning curves, final results, costs, and the alignment where it was measured.

The same runs give the same bytes. Import this module only when a report is written: matplotlib is slow to load.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from skipback.lab.report.alignment import alignment
from skipback.lab.report.arms import Section
from skipback.lab.report.looks import GREY, INK, WIDTH, LineStyle, short
from skipback.lab.report.metric import amounts
from skipback.lab.report.scales import Point, curve, far, spread, view, window
from skipback.lab.report.stats import MeanEstimate, estimate

STYLE = Path(__file__).with_name("figures.mplstyle")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawn figure, as SVG for the page and as PNG for slides."""

    name: str
    svg: bytes
    png: bytes
    width: int  # CSS pixels
    height: int


def draw(section: Section, look: Mapping[str, LineStyle]) -> list[Picture]:
    """Every figure for which the section has data."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc at home changes nothing
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE, use_default_template=False))
        figures = {
            "curves": learning_curves(section, look),
            "training": learning_curves(section, look, training=True),
            "final": final_results(section, look),
            "speed": costs(section, look, key="samples_per_second", label="training samples per second"),
            "memory": costs(section, look, key="peak_memory_mib", label="peak memory (MiB)"),
            "alignment": alignment(section),
        }
        return [_picture(name, figure) for name, figure in figures.items() if figure]


def _picture(name: str, figure: Figure) -> Picture:
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(name=name, svg=svg.getvalue(), png=png.getvalue(), width=width, height=height)


def _curves(section: Section, *, training: bool = False) -> dict[str, list[Point]]:
    """The learning curve of every arm that has one, best result first."""
    of, series = section.metric.trained if training else attrgetter(section.metric.key), {}
    for arm in section.ranked:
        series[arm.label] = [{e.epoch: of(e) for e in run.evaluations} for run in arm.runs]
    return {label: points for label, runs in series.items() if (points := curve(runs))}


def learning_curves(section: Section, look: Mapping[str, LineStyle], *, training: bool = False) -> Figure | None:
    """Result against epoch: the mean of the seeds, their range as a band, and the name at the end of each line."""
    curves = _curves(section, training=training)
    metric = replace(section.metric, split="training") if training else section.metric
    if not curves:
        return None
    outside = far(curves, metric.sign)
    names = {label: short(label) for label in curves}
    line = 1 + max(name.count("\n") for name in names.values())
    figure = Figure((WIDTH, height := max(4.2, 0.27 * line * len(curves))), layout="constrained")
    axes = figure.subplots()
    for label, points in reversed(curves.items()):  # the best on top
        _curve(axes, points, look[label])
    last = max(points[-1].epoch for points in curves.values())
    near = [points for label, points in curves.items() if label not in outside]
    axes.set(xlabel="epoch", ylabel=metric.axis, xlim=(0, 1.015 * max(last, 1)), ylim=window(near, metric.sign))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    arrow = "↑" if metric.lower_is_better else "↓"
    names |= {label: f"{names[label]} {arrow} {metric.text(curves[label][-1].mean)}" for label in outside}
    ends = [(names[label], points[-1], look[label]) for label, points in curves.items()]
    _name_ends(axes, ends, gap=0.24 * line / height)
    return figure


def _curve(axes: Axes, points: Sequence[Point], look: LineStyle) -> None:
    epochs, means = [point.epoch for point in points], [point.mean for point in points]
    band = [point.low for point in points], [point.high for point in points]
    axes.fill_between(epochs, *band, color=look["color"], alpha=0.12, linewidth=0)
    axes.plot(epochs, means, **look, markevery=max(1, len(points) // 10), mec="white", mew=0.5)


def _name_ends(axes: Axes, ends: Iterable[tuple[str, Point, LineStyle]], gap: float) -> None:
    """Write each name beside the end of its line, apart from its neighbours, with a thin leader to a line in view."""
    low, high = axes.get_ylim()
    upwards = sorted(ends, key=lambda end: end[1].mean)
    heights = [(point.mean - low) / (high - low) for _, point, _ in upwards]
    for (name, point, look), height, place in zip(upwards, heights, spread(heights, gap=gap), strict=True):
        leader = {"arrowstyle": "-", "lw": 0.8, "relpos": (0, 0.5), "shrinkB": 0, "color": look["color"]}
        axes.annotate(
            name, (point.epoch, point.mean), (1.035, place), "data", "axes fraction",
            arrowprops=leader if 0 <= height <= 1 else None, annotation_clip=False,
            color=[0.65 * part for part in to_rgb(look["color"])], va="center",  # dark enough to read on white
        )  # fmt: skip


def final_results(section: Section, look: Mapping[str, LineStyle]) -> Figure | None:
    """A row for each arm: the mean with its interval, the seeds below it, backprop and the floor as lines."""
    metric, outside = section.metric, far(_curves(section), section.metric.sign)
    rows = {arm.label: list(finals.values()) for arm in section.ranked if (finals := arm.finals(metric))}
    if not rows:
        return None
    figure = Figure((WIDTH, 1.1 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    near = [values for label, values in rows.items() if label not in outside]
    axes.set_xlim(limits := view(near or list(rows.values())))
    for row, (label, values) in enumerate(rows.items()):
        edge = None if label not in outside else limits[metric.lower_is_better]
        found = _result(axes, row, values, look=look[label], edge=edge)
        text = metric.text(found.mean, found.half) if found.half else f"{metric.text(found.mean)} (no interval)"
        axes.text(1.02, row, text, va="center_baseline", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(rows)), map(short, rows))
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=metric.axis)
    axes.tick_params(axis="y", length=0, pad=13)
    axes.grid(axis="x")
    _references(axes, section)
    return figure


def _result(axes: Axes, row: int, values: Sequence[float], *, look: LineStyle, edge: float | None) -> MeanEstimate:
    """One arm: mean, interval, seeds (equal ones stacked); or a sign that it lies beyond the `edge`."""
    found = estimate(values)
    if edge is not None:
        sign = "<" if edge == min(axes.get_xlim()) else ">"
        axes.plot(edge, row, marker=sign, clip_on=False, markersize=9, color=look["color"])
        return found
    if found.half:
        ends = (found.mean - found.half, found.mean + found.half)
        axes.plot(ends, (row, row), color=look["color"], lw=2.4, solid_capstyle="butt", marker="|", markersize=9)
    if found.n > 1:
        heights = [row + 0.27 + 0.1 * values[:index].count(value) for index, value in enumerate(values)]
        axes.plot(values, heights, "o", color=look["color"], alpha=0.55, markersize=3, mew=0)
    axes.plot(found.mean, row, **look, markersize=8, mec="white", mew=0.5)
    return found


def _references(axes: Axes, section: Section) -> None:
    """Backprop and the floor as lines from top to bottom, their names above, away from each other."""
    low, high = axes.get_xlim()
    lines = [(arm, fmean(arm.finals(section.metric).values())) for arm in (section.backprop, section.floor) if arm]
    seen = sorted(((mean, arm) for arm, mean in lines if low <= mean <= high), key=lambda pair: pair[0])
    for (mean, arm), side in zip(seen, ("right", "left") if len(seen) == 2 else ("center",), strict=False):
        axes.axvline(mean, color=GREY if arm.floor else INK, linestyle=":" if arm.floor else "-", lw=1, zorder=1)
        name = f" floor: {arm.label} " if arm.floor else f" {arm.label} "
        axes.text(mean, 1.01, name, ha=side, va="bottom", transform=axes.get_xaxis_transform(), color=GREY, fontsize=9)


def costs(section: Section, look: Mapping[str, LineStyle], *, key: str, label: str) -> Figure | None:
    """Bars from zero in the order of the results, with the value and its ratio to backprop."""
    rows = {arm.label: value for arm in section.ranked if (value := arm.mean(key)) is not None}
    if not rows:
        return None
    reference, line = section.backprop.label if section.backprop else "", 1 + any("\n" in short(name) for name in rows)
    figure = Figure((4.2, 0.8 + (0.24 + 0.08 * line) * len(rows)), layout="constrained")
    axes = figure.subplots()
    for row, ((name, value), text) in enumerate(zip(rows.items(), amounts(list(rows.values())), strict=True)):
        axes.barh(row, value, height=0.66, color=look[name]["color"])
        ratio = f"   {value / rows[reference]:.2f} ×" if rows.get(reference) and name != reference else ""
        axes.annotate(f" {text}{ratio}", (value, row), va="center_baseline", fontsize=9)
    axes.set_yticks(range(len(rows)), map(short, rows))
    axes.set(xlim=(0, (1 + 0.45 * line) * max(rows.values()) or 1), ylim=(len(rows) - 0.4, -0.6), xlabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.tick_params(axis="y", length=0)
    return figure
