"""The summary that `attach` shows: a table of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skipback.blocks import Layout


def summary(layout: Layout, describe: Callable[[str], str], frozen: Sequence[str]) -> str:
    """Name, shape of the port, shape of the feedback and number of parameters of each block.

    Args:
        layout: the blocks.
        describe: from a block to what is said of its feedback.
        frozen: names of parameters that are not taught.
    """
    rows = [("block", "port", "feedback", "parameters", "")]
    behind = {cut.block for cut in layout.cuts if not cut.before and not layout.named}
    for segment in layout.segments:
        head = segment is layout.segments[-1]
        taught = "exact gradient" if head else describe(segment.block)
        note = "cut at its own output: an activation after it is not its own" if segment.block in behind else ""
        count = sum(p.numel() for p in segment.parameters)
        rows.append((segment.block, _shape(segment.shape[1:]), taught, f"{count:,}", "" if head else note))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(layout.outputs) > 1:
        lines.append(f"outputs that teach: {', '.join(layout.outputs)}")
    return "\n".join([*lines, *([f"not taught: {', '.join(frozen)}"] if frozen else [])])


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "1"
