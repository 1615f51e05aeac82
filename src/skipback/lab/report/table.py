"""`table.csv`: what the runs recorded, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from skipback.lab.report.arms import Section, shown
from skipback.lab.report.reading import RecordedRun


def table(runs: Sequence[RecordedRun], parts: Sequence[Section]) -> str:
    """One row for each run with all that it recorded, nothing averaged: the page's means can be found again from it."""
    repeated = {id(run) for section in parts for run in section.repeated}
    rows = []
    for run in runs:
        status = "repeated" if id(run) in repeated else run.state or "unfinished"
        row: dict[str, object] = {"folder": run.path.as_posix(), "status": status}
        row |= run.config.model_dump() | {"epochs_reached": run.epochs_reached}
        rows.append(row | (run.summary.model_dump(exclude_unset=True) if run.summary else {}))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """Numbers and text as they are (csv writes floats in full), nothing for none, all else as JSON."""
    return value if type(value) in (int, float, str) else "" if value is None else shown(value)
