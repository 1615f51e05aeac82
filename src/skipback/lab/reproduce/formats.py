"""A table for a terminal, for Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from skipback.lab.listing import table as aligned
from skipback.lab.papers import Study, Table
from skipback.lab.reproduce.lines import Agreement, Line, shown

HEAD = ("row", "score", "paper", "ours, mean ± std (n)", "difference", "verdict")
MARK = {True: "?", False: ""}
NOTE = "? from memory, not verified. 2 std: of the difference of two means, more where few runs tell them (Student).\n"


def cells(lines: Sequence[Line]) -> list[list[str]]:
    """The lines as text; the label of a row only in its first."""
    found, before = [], None
    for line in lines:
        found.append(
            [
                "" if line.label == before else line.label,
                line.what,
                paper(line),
                ours(line),
                difference(line),
                verdict(line),
            ]
        )
        before = line.label
    return found


def paper(line: Line) -> str:
    """`1.60 ± 0.06 (5)?`; a dash where nothing is known."""
    e = line.expected
    if e.value is None:
        return e.note if e.unverified and e.note else "–"
    spread = "" if e.std is None else f" ± {e.std:.{line.places}f}"
    runs = f" ({e.n})" if e.n > 1 else ""
    return f"{_number(e.value, line.places)}{spread}{runs}{MARK[e.unverified]}"


def ours(line: Line) -> str:
    """`98.31 ± 0.05 (3)`; a dash before anything was run."""
    if line.mean is None:
        return "–"
    spread = "" if line.std is None else f" ± {line.std:.{line.places}f}"
    return f"{_number(line.mean, line.places)}{spread} ({len(line.values)})"


def difference(line: Line) -> str:
    """With its sign; a dash where one side is missing."""
    if line.difference is None:
        return "–"
    sign = "+" if round(line.difference, line.places) > 0 else ""
    return sign + _number(line.difference, line.places)


def _number(value: float, places: int) -> str:
    """With a real minus sign, and no minus before 0.00."""
    return f"{value:z.{places}f}".replace("-", "−")


def verdict(line: Line) -> str:
    """In words; with it how many runs have no value, or ended in a state that is no result."""
    lost = line.reached - len(line.values)
    found = f"{line.verdict} in {lost} of {line.reached}" if line.verdict is Agreement.NOT_FINITE else str(line.verdict)
    return "; ".join([found, *(f"{state}: {count}" for state, count in line.ended.items())])


def text(study: Study, table: Table, lines: Sequence[Line]) -> str:
    """Aligned columns."""
    return aligned(title(study, table), list(HEAD), cells(shown(table, lines))) + f"  {NOTE}"


def title(study: Study, table: Table) -> str:
    """Of a table."""
    return f"{study.key} {table.name}: {table.title}"


def markdown(study: Study, table: Table, lines: Sequence[Line]) -> str:
    """With the deviations that are about this table."""
    rows = [list(HEAD), ["---"] * len(HEAD), *cells(shown(table, lines))]
    body = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    told = [f"{d.number}. {d.text}" for d in study.deviations if not d.tables or table.name in d.tables]
    return f"**{title(study, table)}**\n\n{body}\n\n{NOTE}\nDeviations:\n" + "\n".join(told) + "\n"


SPECIAL = {"\\": r"\textbackslash{}", "±": r"$\pm$", "−": "$-$", "–": "--", "ø": r"{\o}", "²": "$^2$"}
SPECIAL |= {mark: f"\\{mark}" for mark in "&%$#_{}"}


def latex(study: Study, table: Table, lines: Sequence[Line]) -> str:
    """A tabular for the package booktabs."""
    body = "\n".join(f"{' & '.join(map(_tex, row))} \\\\" for row in cells(shown(table, lines)))
    head = f"{' & '.join(map(_tex, HEAD))} \\\\"
    parts = ["\\begin{tabular}{llrrrl}", "\\toprule", head, "\\midrule", body, "\\bottomrule", "\\end{tabular}"]
    return "\n".join([f"% {title(study, table)}", *parts, ""])


def _tex(cell: str) -> str:
    return "".join(SPECIAL.get(mark, mark) for mark in cell)


COLUMNS = (
    *("paper", "table", "row", "score", "epoch", "unit", "published", "published_std", "published_n", "unverified"),
    *("source", "note", "mean", "std", "n", "difference", "allowed", "verdict", "values"),
)


def comma_separated(study: Study, table: Table, lines: Sequence[Line]) -> str:
    """Every line, early epochs too; `values` by seed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        e = line.expected
        writer.writerow({
            "paper": study.key, "table": table.name, "row": line.label, "score": e.score.name,
            "epoch": "" if e.at is None else e.at, "unit": e.score.unit, "published": e.value, "published_std": e.std,
            "published_n": e.n, "unverified": e.unverified, "source": e.source, "note": e.note, "mean": line.mean,
            "std": line.std, "n": len(line.values), "difference": line.difference, "allowed": line.allowed,
            "verdict": line.verdict, "values": " ".join(f"{seed}:{value!r}" for seed, value in line.values.items()),
        })  # fmt: skip
    return text.getvalue()


FILES = {"md": markdown, "tex": latex, "csv": comma_separated}
"""By the suffix of the file."""
