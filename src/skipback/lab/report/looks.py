"""How methods look: each keeps one colour, marker and line style, so that all print in black and white."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any

from skipback.lab.report.arms import BACKPROP, FLOOR, Arm

INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#e4e4e4"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # its yellow is too pale for lines
MARKERS = "s^DvP<>p"
DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (7, 1.5, 1.5, 1.5)), (0, (3, 1)))
WIDTH = 7.4  # inches

LineStyle = Mapping[str, Any]  # the color, marker and linestyle of a line


def looks(arms: Iterable[Arm]) -> dict[str, LineStyle]:
    """The look of every arm by its label: backprop black, floors grey and dotted, the others in order of name."""
    found: dict[str, LineStyle] = {}
    seen: Counter[str] = Counter()
    for arm in sorted(arms, key=lambda arm: arm.label):  # not of appearance: the same runs look the same in any order
        kind = arm.method if arm.method in (BACKPROP, FLOOR) else "taught"
        if arm.label not in found:
            index = seen[kind]
            color = {BACKPROP: INK, FLOOR: GREY}.get(kind, OKABE_ITO[index % len(OKABE_ITO)])
            marker = {BACKPROP: "o", FLOOR: "X"}.get(kind, MARKERS[index % len(MARKERS)])
            dash = DASHES[(index + 2 * arm.floor) % len(DASHES)]
            found[arm.label] = {"color": color, "marker": marker, "linestyle": dash}
            seen[kind] += 1
    return found


def short(label: str) -> str:
    """At most two lines; the table has the whole label."""
    return "\n".join(wrap(label, 26, max_lines=2, placeholder=" …"))
