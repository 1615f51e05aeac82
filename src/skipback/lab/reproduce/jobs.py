"""What is to be trained: rows become runs, one folder for each seed, and where each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skipback.lab import config, data
from skipback.lab.config import Run
from skipback.lab.errors import LabError, unknown
from skipback.lab.notebook import Notebook
from skipback.lab.papers import Row, Study, Table
from skipback.lab.papers.base import GPU
from skipback.lab.records import Folder
from skipback.lab.stacking.settings import Stack

MODELS: dict[str, type[Run | Stack | Notebook]] = {"train": Run, "stack": Stack, "reproduce": Notebook}
"""The configuration of what each verb trains; what none but `reproduce` trains is the linear notebook."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a person changes in the published settings.

    Attributes:
        epochs: stop each run after so many; `None`: as published.
        threads: CPU threads of a run; `None`: one.
        device: to compute on; `None`: where there is one, a GPU.
    """

    epochs: int | None = None
    threads: int | None = None
    device: str | None = None

    def of(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """The settings that replace those of a recipe."""
        asked: dict[str, Any] = {"threads": self.threads, "device": self.device}
        own = {key: value for key, value in asked.items() if value is not None}
        if self.epochs is not None and self.epochs < recipe.get("epochs", 0):
            own["epochs"] = self.epochs
        return own


@dataclass(frozen=True)
class Job:
    """One seed of one row."""

    study: Study
    table: Table
    row: Row
    seed: int
    out: Path
    changes: Changes = Changes()

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe with its changes and its seed."""
        recipe = dict(self.row.recipe)
        return {**recipe, **self.changes.of(recipe), "seed": self.seed}

    @property
    def epochs(self) -> int:
        """That it trains; 0 where its verb has its own."""
        return int(self.settings.get("epochs", 0))

    @property
    def place(self) -> Path:
        """Its folder; a shorter run than published has another one."""
        short = f"-{self.epochs}-epochs" if "epochs" in self.changes.of(dict(self.row.recipe)) else ""
        return self.out / self.study.key / self.table.name / self.row.slug / f"seed{self.seed}{short}"

    @property
    def folder(self) -> Folder:
        """Where it is kept."""
        return Folder(self.place)

    @cached_property
    def run(self) -> Run | Stack | Notebook:
        """The complete configuration, of the row's verb.

        Raises:
            LabError: the recipe has a setting that there is not, or a value that is refused.
        """
        where = f"{self.study.key} {self.table.name}, row {self.row.label!r}"
        try:
            return MODELS[self.row.verb](**self.settings)
        except ValidationError as error:
            raise LabError(f"{where}: {config.explain(error)}") from None
        except LabError as error:
            raise LabError(f"{where}: {error}") from None


def matching(table: Table, pattern: str | None) -> list[Row]:
    """The rows whose label matches: `DFA*`, or part of a label; several patterns are separated by semicolons.

    Raises:
        LabError: no row does; the message has the nearest label.
    """
    if pattern is None:
        return list(table.rows)
    found = {row.label: row for part in pattern.split(";") for row in table.rows if _fits(row.label, part.strip())}
    if not found:
        raise LabError(unknown(f"row of {table.name}", pattern, [row.label for row in table.rows]))
    return [row for row in table.rows if row.label in found]


def _fits(label: str, pattern: str) -> bool:
    if any(mark in pattern for mark in "*?["):
        return fnmatch(label.lower(), pattern.lower())
    return pattern.lower() == label.lower() or (bool(pattern) and pattern.lower() in label.lower())


def expand(
    study: Study, table: Table, rows: Sequence[Row], *, seeds: int | None, out: Path, changes: Changes
) -> list[Job]:
    """One job for each seed of each row: all rows get one seed before any gets two.

    Args:
        study: the paper.
        table: of it.
        rows: of the table.
        seeds: runs of each row; `None`: as published.
        out: folder of all runs.
        changes: of the published settings.
    """
    numbers = range(table.first_seed, table.first_seed + (seeds or table.seeds))
    return [Job(study, table, row, seed, out, changes) for seed in numbers for row in rows]


def hindrance(row: Row, *, gpu: Callable[[], bool]) -> str:
    """Why a row cannot be trained here; empty if it can.

    Args:
        row: of a table.
        gpu: whether there is one.
    """
    if row.unavailable:
        return row.unavailable
    name = row.recipe["dataset"]
    if not data.here(name):
        return f"data missing: skipback data fetch {name}"
    return f"needs {row.needs}" if row.needs == GPU and not gpu() else ""


def state(jobs: Sequence[Job], hindered: str) -> str:
    """Where a row stands: done, n of N seeds, not run, or what hinders it."""
    done = sum(job.folder.summary is not None for job in jobs)
    if done == len(jobs):
        return "done"
    ran = f"{done} of {len(jobs)} seeds" if done else "not run"
    return f"{ran}; {hindered}" if hindered and done else hindered or ran
