"""`history.csv`: one row for each evaluation of a run, with every setting as a column."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from skipback.lab.config import Run


def table(run: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of metrics as CSV: scores, then the cosine at each port, then the settings."""
    settings = run.model_dump(mode="json")
    found = [{**_scores(row), **settings} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in found for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and words as they are; of the alignment its cosines."""
    plain = {key: value for key, value in row.items() if key != "alignment"}
    cosines = {f"cosine_{port['port']}": port["cosine"] for port in row.get("alignment", [])}
    return {**plain, **cosines}
