"""The figure of a bench: how many times as fast as plain backprop, and memory against depth."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from skipback.lab.report.figures import STYLE
from skipback.lab.report.looks import DASHES, GREY, INK, MARKERS, OKABE_ITO, LineStyle

SHOWN = {"adam": "Adam", "sgd": "SGD"}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
WIDTH = 9.0
"""Inches."""


def draw(result: dict[str, Any]) -> bytes:
    """The PNG of a bench's result."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE, use_default_template=False))
        names, memory = _names(result["speed"]), result["memory"] and result["memory"]["mib"]
        heights = [1.3 + 0.2 * len(names), *([max(3.6, 0.5 + 0.21 * len(memory))] if memory else [])]
        figure = Figure((WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        _speeds(parts[0], result["speed"], names)
        if memory:
            _memory(parts[1], result["memory"])
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        return png.getvalue()


def _names(speed: dict[str, Any]) -> list[str]:
    """Every variant of any shape, in the order in which they were measured."""
    timed = [of[opt] for of in speed.values() for opt in SHOWN if opt in of]
    return list(dict.fromkeys(name for of in timed for name in of["variants"]))


def _speeds(part: SubFigure, speed: dict[str, Any], names: list[str]) -> None:
    """One panel for each optimizer, one row for each variant, one mark for each shape."""
    panels = [opt for opt in SHOWN if any(opt in of for of in speed.values())]
    axes = part.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, opt in zip(axes, panels, strict=True):
        for i, (shape, of) in enumerate(speed.items()):
            found = of.get(opt, {}).get("variants", {})
            rows = [k for k, name in enumerate(names) if name in found]
            x = [found[names[k]]["times_as_fast"] for k in rows]
            look = {"marker": MARKERS[i % len(MARKERS)], "color": OKABE_ITO[i % len(OKABE_ITO)]}
            axis.plot(x, rows, linestyle="", alpha=0.85, label=f"{shape}: {of['line']}", **look)
        _finish(axis, names)
        axis.set_title(SHOWN[opt])
    part.supxlabel("times as fast as plain backprop (right of the line: faster)", fontsize=10, color=INK)
    part.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8.5)


def _finish(axis: Axes, names: list[str]) -> None:
    axis.axvline(1, color=INK, linewidth=1)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)


def _memory(part: SubFigure, memory: dict[str, Any]) -> None:
    axis: Axes = part.subplots()
    look = looks(list(memory["mib"]))
    for way, mib in memory["mib"].items():
        axis.plot([int(depth) for depth in mib], list(mib.values()), label=way, **look[way])
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    depths = sorted({int(depth) for mib in memory["mib"].values() for depth in mib})
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
    axis.set_title("peak memory of a step, beyond the weights")
    axis.set_xlabel(f"hidden layers (width {memory['width']}, batch {memory['batch']})")
    axis.set_ylabel("MiB")
    part.legend(loc="outside right center", fontsize=8.5)


def looks(ways: list[str]) -> dict[str, LineStyle]:
    """Backprop is black, its variants grey, the methods in colours: each with a marker and a line of its own."""
    found: dict[str, LineStyle] = {}
    methods = [way for way in ways if not way.startswith("backprop")]
    for i, way in enumerate(ways):
        k = methods.index(way) if way in methods else 0
        color = OKABE_ITO[k % len(OKABE_ITO)] if way in methods else INK if way == "backprop" else GREY
        marker = MARKERS[k % len(MARKERS)] if way in methods else "oX*d"[i % 4]
        found[way] = {"color": color, "marker": marker, "linestyle": DASHES[(k if way in methods else i) % len(DASHES)]}
    if "backprop" in found:  # a ring, which shows around the mark of a method that needs as much
        found["backprop"] = {**found["backprop"], "markersize": 10, "markerfacecolor": "none"}
    return found
