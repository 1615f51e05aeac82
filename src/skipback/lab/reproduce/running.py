"""Training the jobs that are left, and writing the tables of what is there."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from skipback.lab import machine, notebook
from skipback.lab.config import Run
from skipback.lab.errors import LabError
from skipback.lab.papers import Row, Study, Table
from skipback.lab.records import BusyError, Folder, atomic_write
from skipback.lab.reproduce import formats, results
from skipback.lab.reproduce.jobs import Job
from skipback.lab.reproduce.lines import record
from skipback.lab.session import Session
from skipback.lab.stacking import run as stacking


class Reproduction(Session):
    """A session whose runs are told on stderr: stdout is for the table."""

    @override
    def _finished(self, run: Run, folder: Folder, summary: dict[str, Any], before: bool) -> None:
        if not before and not self.console.is_terminal:
            print(f"{folder.path}: done", file=sys.stderr, flush=True)  # noqa: T201


def train(jobs: Sequence[Job], *, command: str) -> list[str]:
    """Train what is not done. A run that another process trains is skipped, and looked at again at the end.

    Returns:
        Why runs could not be trained: one sentence each.
    """
    failed: list[str] = []
    busy = list(_pass(jobs, command, failed))
    list(_pass(busy, command, failed))
    return failed


def _pass(jobs: Sequence[Job], command: str, failed: list[str]) -> Iterator[Job]:
    """Go through the jobs once, and give back those that another process holds."""
    left = [job for job in jobs if job.folder.summary is None]
    for _, group in groupby(left, key=lambda job: (job.study.key, job.table.name)):  # each holds its own data
        session = Reproduction(Path(), as_json=False, command=command)
        for job in group:
            try:
                _one(session, job)
            except BusyError:
                yield job
            except LabError as error:
                failed.append(f"{job.place}: {error}")


def _one(session: Reproduction, job: Job) -> None:
    if isinstance(job.run, Run):
        session.train([job.run], folders=[job.folder])
        return
    if isinstance(job.run, notebook.Notebook):
        notebook.run(job.run, job.folder, command=session.command)
    else:
        stacking.run(job.run, job.folder, command=session.command, progress=lambda line: None)
    print(f"{job.place}: done", file=sys.stderr, flush=True)  # noqa: T201


def ran(rows: Sequence[Row], jobs: Sequence[Job]) -> dict[str, results.Ran]:
    """What the folders of the jobs hold, by row."""
    found = {}
    for row in rows:
        own = [job for job in jobs if job.row is row]
        records = [kept for job in own if (kept := record(job)) is not None]
        if records:
            found[row.label] = results.Ran(records=records, epochs=own[0].epochs)
    return found


def write(
    study: Study,
    table: Table,
    rows: Sequence[Row],
    jobs: Sequence[Job],
    *,
    out: Path,
    record: Path | None,
    command: str,
    as_json: bool,
) -> str:
    """Write a table in every format beside its runs, and its figures. Returns it as text, or as one line of JSON.

    Args:
        study: the paper.
        table: of it.
        rows: of the table: the others are left out.
        jobs: of the rows.
        out: folder of all runs.
        record: a folder of results files, which keep what they hold already; `None`: none is written.
        command: what was typed.
        as_json: return JSON.
    """
    from skipback.lab.reproduce import figures

    part = dataclasses.replace(table, rows=tuple(rows))
    found = ran(rows, jobs)
    lines = results.lines(part, found)
    folder = out / study.key
    for suffix, form in formats.FILES.items():
        atomic_write(folder / f"{table.name}.{suffix}", form(study, part, lines))
    environment = machine.describe(torch.device("cpu"), command)
    document = results.document(study, part, found, typed=command, environment=environment)
    atomic_write(folder / f"{table.name}.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    figures.draw(part, jobs, folder)
    if record is not None:
        results.write(record, study, table, found, typed=command, environment=environment)
    return json.dumps(document, ensure_ascii=False) if as_json else formats.text(study, part, lines)
