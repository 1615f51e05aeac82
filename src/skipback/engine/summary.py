"""The summary that `attach` shows: a table of the blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skipback.blocks import Layout


def summary(layout: Layout, feedback: Mapping[str, Sequence[int]], none: str, frozen: Sequence[str]) -> str:
    """Name, shape of the port, shape of the feedback and number of parameters of each block.

    Args:
        layout: the blocks.
        feedback: the shape of the matrix of each block that has one.
        none: what to say of a block that has none.
        frozen: names of parameters that are not taught.
    """
    rows = [("block", "port", "feedback", "parameters")]
    for segment in layout.segments:
        shape, head = feedback.get(segment.block), segment is layout.segments[-1]
        taught = "exact gradient" if head else none if shape is None else _shape(shape)
        count = sum(p.numel() for p in segment.parameters)
        rows.append((segment.block, _shape(segment.shape[1:]), taught, f"{count:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *([f"not taught: {', '.join(frozen)}"] if frozen else [])])


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "1"
