"""The verb `reproduce`: which tables and rows, training them, and saying what came out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import BaseModel, Field

from skipback.lab import choices, papers, spellings, workers
from skipback.lab.errors import LabError, unknown
from skipback.lab.papers import Row, Study, Table

if TYPE_CHECKING:
    from skipback.lab.reproduce.jobs import Changes, Job

Chosen = list[tuple[Study, Table, list[Row]]]


class Reproduce(BaseModel):
    """Train the rows of a paper's tables as published, and set what comes out beside what was published.

    Without PAPER: the papers and their tables. The same command goes on after an interruption; a run that is done is
    never trained again, and several processes of the same command share its runs.
    """

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[PAPER [TABLE]]")] = Field(
        (), description="of `skipback reproduce` without more"
    )
    rows: str | None = Field(None, description='labels or parts of them, with * and ?; several: "BP;DFA*"')
    seeds: int | None = Field(None, ge=1, description="runs of each row (default: as published)")
    epochs: int | None = Field(None, ge=1, description="stop each run after so many: shorter than published")
    list: bool = Field(False, description="every row and where it stands, without training")
    smoke: bool = Field(False, description="2 steps of every recipe on random rows: no data needed, nothing kept")
    jobs: int = Field(1, ge=1, le=256, description="processes that share the runs")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of each run (default 1)")
    device: str | None = Field(None, description="auto, cpu, cuda (default: auto)")
    anyway: bool = Field(False, description="also rows that need a GPU, without one")
    out: Path = Field(Path("runs/reproduce"), description="folder for the runs and the tables")
    record: Path | None = Field(None, description="also write each table to this folder of results files")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="JSON lines, and nothing else")


def run(options: Reproduce, argv: Sequence[str], command: str) -> None:
    """Do what was asked.

    Raises:
        LabError: there is no such paper, table or row; nothing of it can be trained here; or a run failed.
    """
    chosen = choose(options)
    if options.smoke:
        return _smoke(options, chosen)
    if options.list:
        return _list(options, chosen)
    if not options.what:
        return _overview(options)
    return _train(options, chosen, argv, command)


def choose(options: Reproduce) -> Chosen:
    """The tables that were asked for, with their rows.

    Raises:
        LabError: there is no such paper, table or row.
    """
    from skipback.lab.reproduce.jobs import matching

    if len(options.what) > 2:
        raise LabError(f"reproduce takes a paper and a table of it, and got {len(options.what)} names")
    studies = [papers.study(options.what[0])] if options.what else papers.studies()
    if len(options.what) == 2:
        table = papers.table(studies[0], options.what[1])
        return [(studies[0], table, matching(table, options.rows))]
    found: Chosen = []
    for study in studies:
        for table in study.tables:
            try:
                found.append((study, table, matching(table, options.rows)))
            except LabError:
                continue
    if not found:
        labels = dict.fromkeys(row.label for study in studies for table in study.tables for row in table.rows)
        raise LabError(unknown("row", options.rows or "", [*labels]))
    return found


def _overview(options: Reproduce) -> None:
    from skipback.lab.listing import table as aligned

    found = [(study, [_counted(options, study, table) for table in study.tables]) for study in papers.studies()]
    if options.as_json:
        for study, tables in found:
            _say(json.dumps({"paper": study.key, "title": study.paper.title, "tables": tables}))
        return
    for study, tables in found:
        cells = [[str(of[key]) for key in ("table", "rows", "done", "seeds", "title")] for of in tables]
        _say(aligned(f"{study.key}: {study.paper.title}", ["table", "rows", "done", "seeds", "what"], cells))
    _say("one table:     skipback reproduce PAPER TABLE\nits rows:      skipback reproduce PAPER TABLE --list")


def _counted(options: Reproduce, study: Study, table: Table) -> dict[str, Any]:
    from skipback.lab.reproduce.jobs import state

    states = [state(_jobs(options, study, table, [row]), "") for row in table.rows]
    sizes = {"rows": len(table.rows), "done": states.count("done"), "seeds": options.seeds or table.seeds}
    return {"table": table.name, **sizes, "title": table.title}


def _changes(options: Reproduce) -> Changes:
    from skipback.lab.reproduce.jobs import Changes

    device = options.device and spellings.check("device", options.device, list(choices.DEVICES))
    return Changes(epochs=options.epochs, threads=options.threads, device=device)


def _jobs(options: Reproduce, study: Study, table: Table, rows: Sequence[Row]) -> Sequence[Job]:
    from skipback.lab.reproduce.jobs import expand

    return expand(study, table, rows, seeds=options.seeds, out=options.out, changes=_changes(options))


@cache
def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _hindrance(options: Reproduce, row: Row) -> str:
    from skipback.lab.reproduce.jobs import hindrance

    return hindrance(row, gpu=lambda: options.anyway or _gpu())


def _list(options: Reproduce, chosen: Chosen) -> None:
    from skipback.lab.listing import table as aligned
    from skipback.lab.reproduce.jobs import state
    from skipback.lab.reproduce.results import command

    for study, table, rows in chosen:
        states = [state(_jobs(options, study, table, [row]), _hindrance(options, row)) for row in rows]
        pairs = list(zip(rows, states, strict=True))
        if options.as_json:
            for row, where in pairs:
                about = {"paper": study.key, "table": table.name, "row": row.label, "state": where}
                _say(json.dumps({**about, "command": command(row)}))
        else:
            cells = [[row.label, where] for row, where in pairs]
            _say(aligned(f"{study.key} {table.name}: {table.title}", ["row", "state"], cells))


def _smoke(options: Reproduce, chosen: Chosen) -> None:
    from skipback.lab.reproduce.smoke import STEPS, try_out

    start, count, failed = time.perf_counter(), 0, []
    for study, table, rows in chosen:
        before = time.perf_counter()
        for job in _jobs(options.model_copy(update={"seeds": 1}), study, table, rows):
            try:
                try_out(job)
            except LabError as error:
                failed.append(str(error))
        count += len(rows)
        about = {"paper": study.key, "table": table.name, "recipes": len(rows)}
        seconds = round(time.perf_counter() - before, 2)
        line = f"{study.key} {table.name}: {len(rows)} recipes, {seconds:.1f} s"
        _say(json.dumps({**about, "seconds": seconds}) if options.as_json else line)
    if failed:
        raise LabError(f"{len(failed)} of {count} recipes do not train: {failed[0]}")
    if not options.as_json:
        _say(f"{count} recipes trained {STEPS} steps each in {time.perf_counter() - start:.0f} s")


def _train(options: Reproduce, chosen: Chosen, argv: Sequence[str], command: str) -> None:
    """Train what can be trained, then write the tables.

    Raises:
        LabError: nothing can be, or some of it failed.
    """
    from skipback.lab.reproduce import results
    from skipback.lab.reproduce.running import train, write

    hindered = {(table.name, row.label): _hindrance(options, row) for _, table, rows in chosen for row in rows}
    able = [
        job
        for study, table, rows in chosen
        for job in _jobs(options, study, table, [row for row in rows if not hindered[table.name, row.label]])
    ]
    for study, table, _ in chosen if options.record else ():
        results.kept(options.record / results.name(study, table), table)  # type: ignore[operator]
    for job in able:
        job.run  # noqa: B018  a recipe that is refused is refused before the first of them trains for hours
    if not able:
        first = next(iter(hindered.items()))
        raise LabError(f"{chosen[0][0].key} {first[0][0]}, row {first[0][1]!r}: {first[1]}")
    if options.jobs > 1 and not workers.is_worker():
        workers.share(argv, options.jobs, total=len(able), done=lambda: sum(j.folder.summary is not None for j in able))
    failed = train(able, command=command)
    if workers.is_worker():
        return
    for study, table, rows in chosen:
        jobs = _jobs(options, study, table, rows)
        _say(
            write(
                study,
                table,
                rows,
                jobs,
                out=options.out,
                record=options.record,
                command=command,
                as_json=options.as_json,
            )
        )
    for label in [f"{name} {label}: {why}" for (name, label), why in hindered.items() if why]:
        print(label, file=sys.stderr)  # noqa: T201
    if failed:
        raise LabError(f"{len(failed)} of {len(able)} runs could not be trained: {failed[0]}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
