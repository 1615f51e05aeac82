"""Words: an audit as a table of text."""

from __future__ import annotations

from collections.abc import Sequence

from skipback.measure.audit import BlockAudit

COLUMNS = {
    "moves": "moves",
    "exact": "exact",
    "weight_transport": "weight transport",
    "update_lock": "update lock",
    "forward_lock": "forward lock",
    "target": "target",
    "earlier_visits": "earlier visits",
}
"""The answers of a `BlockAudit`, and what a person reads."""

LEGEND = """\
exact             the update is backprop's, to rounding
weight transport  it is made with the weights of deeper blocks
update lock       it waits for the backward pass of deeper blocks
forward lock      it waits for the output, and so for the forward pass of deeper blocks
target            it uses the target beside the gradient of the loss
earlier visits    it depends on what the same samples left before"""
"""What each column means, in short; `skipback.measure.audit` defines it."""


def word(answer: bool | None) -> str:
    """Yes, no, or "-" where there was nothing to compare."""
    return "-" if answer is None else "yes" if answer else "no"


def table(records: Sequence[BlockAudit]) -> str:
    """An audit as aligned text: one line per block, the head first."""
    rows = [["block", "update norm", *COLUMNS.values()]]
    rows += [
        [record.block, f"{record.update_norm:.3g}", *[word(getattr(record, key)) for key in COLUMNS]]
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
