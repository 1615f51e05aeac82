"""Results files: one table as JSON, with the runs behind it. `results/reproduce` in the repository holds some."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skipback.lab.errors import LabError
from skipback.lab.papers import Row, Study, Table
from skipback.lab.records import atomic_write, read_json, to_json
from skipback.lab.reproduce.lines import Line, Outcome, of_gap, of_row

FORMAT = 1
"""Of the files. A file of another one is refused."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The runs of a row.

    Attributes:
        records: one for each seed.
        epochs: that they were to train.
    """

    records: Sequence[Outcome]
    epochs: int


def name(study: Study, table: Table) -> str:
    """Of the file of a table."""
    return f"{study.key}-{table.name}.json"


def lines(table: Table, ran: Mapping[str, Ran]) -> list[Line]:
    """All lines of a table: its rows, and the gaps that they close."""
    found = []
    for row in table.rows:
        own = ran.get(row.label, Ran(records=(), epochs=_published(row)))
        found += of_row(row, own.records, trained=own.epochs if own.epochs < _published(row) else None)
    gaps = [of_gap(gap, found) for gap in table.gaps]
    wanted = {row.label for row in table.rows}
    return [
        *found,
        *(line for line, gap in zip(gaps, table.gaps, strict=True) if {gap.of, gap.floor, gap.ceiling} <= wanted),
    ]


def _published(row: Row) -> int:
    return int(row.recipe.get("epochs", 0))


def command(row: Row) -> str:
    """What a person would type for one run of a row."""
    if row.typed:
        return row.typed
    words = ["skipback", row.verb, str(row.recipe["dataset"])]
    for key, value in row.recipe.items():
        flag = f"--{key.replace('_', '-')}"
        if key == "dataset" or value is False:
            continue
        words += [flag] if value is True else [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def document(
    study: Study, table: Table, ran: Mapping[str, Ran], *, typed: str, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """A table with its runs, as the file has it.

    Args:
        study: the paper.
        table: of it.
        ran: by label.
        typed: the command.
        environment: of the process that writes it; each run has its own.
    """
    found = lines(table, ran)
    rows = [_row(row, ran[row.label], found) for row in table.rows if row.label in ran]
    return {
        "format": FORMAT,
        "paper": study.key,
        "table": table.name,
        "title": table.title,
        "command": typed,
        "commit": environment.get("commit"),
        "environment": dict(environment),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": sum(run.get("seconds") or 0.0 for row in rows for run in row["runs"].values()),
        "rows": rows,
        "gaps": [_line(line) for line in found if line.percent],
    }


def _row(row: Row, ran: Ran, found: Sequence[Line]) -> dict[str, Any]:
    return {
        "name": row.label,
        "method": row.recipe.get("method"),
        "command": command(row),
        "recipe": dict(row.recipe),
        "epochs": ran.epochs,
        "runs": {str(record.seed): _run(record) for record in ran.records},
        "lines": [_line(line) for line in found if line.label == row.label and not line.percent],
    }


def _run(record: Outcome) -> dict[str, Any]:
    values = [{"score": score, "at": at, "value": value} for (score, at), value in record.values.items()]
    return {**record.about, "values": values}


def _line(line: Line) -> dict[str, Any]:
    e = line.expected
    paper = {key: value for key, value in asdict(e).items() if key not in ("score", "at")}
    return {
        "what": line.what,
        "score": "gap closed" if line.percent else e.score.name,
        "unit": "%" if line.percent else e.score.unit,
        "at": e.at if line.trained is None else line.trained,
        "paper": paper,
        "ours": {str(seed): value for seed, value in line.values.items()},
        "mean": line.mean,
        "std": line.std,
        "n": len(line.values),
        "difference": line.difference,
        "allowed": line.allowed,
        "verdict": str(line.verdict),
        **({"ended": dict(line.ended)} if line.ended else {}),
    }


def read(path: Path) -> dict[str, Any]:
    """Read a results file.

    Raises:
        LabError: it is missing, damaged, no results file, or of another version.
    """
    found = read_json(path)
    version = found.get("format")
    if version != FORMAT:
        which = "no results file of `skipback reproduce`" if version is None else f"of format {version!r}"
        raise LabError(f"{path} is {which}, and this version reads format {FORMAT}: make it again with --record")
    if missing := [key for key in ("paper", "table", "rows") if key not in found]:
        raise LabError(f"{path} is damaged: it has no {missing[0]!r}; make it again with --record")
    return found


def kept(path: Path, table: Table) -> dict[str, Ran]:
    """The runs of a results file, by label; those of rows whose recipe has changed since are left out.

    Raises:
        LabError: as `read`.
    """
    if not path.exists():
        return {}
    recipes = {row.label: dict(row.recipe) for row in table.rows}
    try:
        return {
            row["name"]: Ran(
                records=[_record(int(seed), run) for seed, run in row["runs"].items()],
                epochs=row["epochs"],
            )
            for row in read(path)["rows"]
            if row["recipe"] == recipes.get(row["name"])
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, LabError):
            raise
        raise LabError(f"{path} is damaged ({error!r}): make it again with --record") from None


def _record(seed: int, run: Mapping[str, Any]) -> Outcome:
    values = {(value["score"], value["at"]): value["value"] for value in run["values"]}
    return Outcome(seed=seed, values=values, about={key: value for key, value in run.items() if key != "values"})


def renewed(path: Path, study: Study, table: Table) -> dict[str, Any]:
    """A results file with its runs beside what the paper's file says now: values, sources and verdicts.

    Raises:
        LabError: as `read`.
    """
    before = read(path)
    now = document(study, table, kept(path, table), typed=before["command"], environment=before["environment"])
    return {**now, "written": before["written"]}


def merged(old: Mapping[str, Ran], new: Mapping[str, Ran]) -> dict[str, Ran]:
    """Of each row the runs that trained longer; of runs as long, both, and of a seed the newer one."""
    found = dict(old)
    for label, ran in new.items():
        before = old.get(label)
        if before is None or before.epochs < ran.epochs:
            found[label] = ran
        elif before.epochs == ran.epochs:
            by_seed = {record.seed: record for record in (*before.records, *ran.records)}
            found[label] = Ran(records=[by_seed[seed] for seed in sorted(by_seed)], epochs=ran.epochs)
    return found


def write(
    folder: Path, study: Study, table: Table, ran: Mapping[str, Ran], *, typed: str, environment: Mapping[str, Any]
) -> Path:
    """Write a table to a folder of results; runs that its file holds already are kept.

    Raises:
        LabError: the file there is of another version, or the folder cannot be written.
    """
    path = folder / name(study, table)
    both = merged(kept(path, table), ran)
    atomic_write(path, to_json(document(study, table, both, typed=typed, environment=environment)))
    return path
