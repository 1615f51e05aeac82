"""The figures of a paper, from the runs of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from skipback.lab.papers import Row, Table
from skipback.lab.papers.base import Figure
from skipback.lab.records import read_jsonl
from skipback.lab.report.figures import STYLE
from skipback.lab.report.looks import DASHES, INK, MARKERS, OKABE_ITO, WIDTH
from skipback.lab.reproduce.jobs import Job

Curves = Mapping[str, Sequence[Mapping[int, float]]]
"""By the label of a row, one curve for each seed: epoch to score."""


def draw(table: Table, jobs: Sequence[Job], folder: Path) -> list[Path]:
    """Draw the figures of a table for which there is something to draw. Returns their files."""
    found = []
    for figure in table.figures:
        curves = {
            row.label: _curves(figure, row, jobs) for row in table.rows if row.label in figure.rows or not figure.rows
        }
        curves = {label: runs for label, runs in curves.items() if runs}
        if curves:
            found.append(folder / f"{table.name}-{figure.name}.png")
            _save(figure, table, curves, found[-1])
    return found


def _curves(figure: Figure, row: Row, jobs: Sequence[Job]) -> list[dict[int, float]]:
    paths = [job.place / "metrics.jsonl" for job in jobs if job.row is row]
    runs = [{m["epoch"]: figure.score.of(m) for m in read_jsonl(path)} for path in paths if path.exists()]
    return [curve for run in runs if (curve := {k: v for k, v in run.items() if v is not None and v == v})]


def _save(figure: Figure, table: Table, curves: Curves, path: Path) -> None:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE, use_default_template=False))
        canvas = Canvas((WIDTH, 4.2), layout="constrained")
        axes = canvas.subplots()
        (_by_epoch if figure.x is None else _by_setting)(axes, figure, table, curves)
        unit = f" ({figure.score.unit})" if figure.score.unit else ""
        axes.set(ylabel=f"{figure.score.name}{unit}", title=figure.title)
        if figure.log:  # plain numbers: the style of our figures has no formulas
            way, axis = ("y", axes.yaxis) if figure.x is None else ("x", axes.xaxis)
            axes.set(**{f"{way}scale": "log"})
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=200, metadata={"Software": None})


def _by_epoch(axes: Axes, figure: Figure, table: Table, curves: Curves) -> None:
    """The mean of the seeds; what was published as crosses."""
    for k, (label, runs) in enumerate(curves.items()):
        epochs = sorted(set.intersection(*(set(run) for run in runs)))
        color = OKABE_ITO[k % len(OKABE_ITO)]
        axes.plot(
            epochs,
            [fmean(run[e] for run in runs) for e in epochs],
            color=color,
            linestyle=DASHES[k % len(DASHES)],
            label=label,
        )
        known = {e.at: e.value for e in table.row(label).expected if e.score == figure.score and e.value is not None}
        axes.plot(
            [at for at in known if at is not None], [v for at, v in known.items() if at is not None], "x", color=color
        )
    axes.set(xlabel="epoch")


def _by_setting(axes: Axes, figure: Figure, table: Table, curves: Curves) -> None:
    """The last score of each row against a setting, one line for each value of another one; published: hollow."""
    lines: dict[object, list[tuple[float, float, float | None]]] = {}
    for label, runs in curves.items():
        row = table.row(label)
        known = next((e.value for e in row.expected if e.score == figure.score and e.at is None), None)
        point = float(row.recipe[figure.x or ""]), fmean(run[max(run)] for run in runs), known
        lines.setdefault(row.recipe.get(figure.line or "") or "standard", []).append(point)
    for k, (name, points) in enumerate(lines.items()):
        color, marker = OKABE_ITO[k % len(OKABE_ITO)], MARKERS[k % len(MARKERS)]
        x, y, _ = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        axes.plot(x, y, color=color, marker=marker, label=f"{name}, ours")
        there = [(x, published) for x, _, published in sorted(points, key=lambda p: p[0]) if published is not None]
        if there:
            axes.plot(
                *zip(*there, strict=True),
                color=color,
                marker=marker,
                markerfacecolor="none",
                linestyle="",
                markeredgecolor=INK,
                label=f"{name}, published",
            )
    axes.set(xlabel=figure.x)
