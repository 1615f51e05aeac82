"""A session: runs one after the other, with one live line each, and the report at the end."""

from __future__ import annotations

import math
import os
import sys
import warnings
import webbrowser
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from skipback.advice import SkipbackWarning
from skipback.lab import data, inputs
from skipback.lab.bench.plain import check_compiler
from skipback.lab.building import check_changing
from skipback.lab.config import Run
from skipback.lab.data.pipeline import Feeds
from skipback.lab.dry import described, dry_run
from skipback.lab.machine import device
from skipback.lab.records import BusyError, Folder, to_jsonl
from skipback.lab.states import FINISHED
from skipback.lab.together import train_together
from skipback.lab.train import train

SCREENS = ("darwin", "win32")
"""Where there is a screen without a DISPLAY."""


class Session:
    """Trains runs into one folder.

    Args:
        out: the folder; each run has its own inside.
        as_json: print one JSON line per finished run instead of text.
        command: what the person typed, for `env.json` and the report.
    """

    def __init__(self, out: Path, *, as_json: bool, command: str) -> None:
        self.out, self.as_json, self.command = out, as_json, command
        self.console = Console(stderr=True)
        self._data: dict[Hashable, data.Dataset | Feeds] = {}

    def train(self, runs: list[Run], *, together: bool = False, folders: list[Folder] | None = None) -> None:
        """Train the runs in order, or those of one shape as one net. A finished one is not trained again.

        Args:
            runs: what to train.
            together: those of one shape as one net.
            folders: of the runs; `None`: each in one of its own name in `out`.

        Raises:
            LabError: see `skipback.lab.train.train` and `skipback.lab.together.train_together`.
        """
        runs = [self.resolved(run) for run in runs]
        for run in runs:  # before the first of them trains for hours
            check_changing(run)
        folders = folders or [Folder(self.out / run.name) for run in runs]
        done = [folder.summary is not None for folder in folders]
        if any(run.compile and not finished for run, finished in zip(runs, done, strict=True)):
            check_compiler()
        with self._live(runs, folders) as (bar, tasks), self._plain_warnings():
            shows = [partial(_show, bar, task) for task in tasks]
            if together:
                summaries = train_together(runs, self._load, folders, command=self.command, progress=shows)
                for at, summary in enumerate(summaries):
                    self._ended(bar, tasks[at], runs[at], folders[at], summary, done[at])
                return
            for at in _busy_last(len(runs), lambda at: self._one(runs[at], folders[at], shows[at])):
                self._ended(bar, tasks[at], runs[at], folders[at], folders[at].summary or {}, done[at])

    def _one(self, run: Run, folder: Folder, show: Callable[[dict[str, Any]], None]) -> None:
        train(run, self._load(run), folder, command=self.command, progress=show)

    def _ended(
        self, bar: Progress, task: TaskID, run: Run, folder: Folder, summary: dict[str, Any], before: bool
    ) -> None:
        bar.update(task, completed=run.epochs, visible=True, text=_describe(summary))
        self._finished(run, folder, summary, before)

    def dry_run(self, runs: list[Run]) -> None:
        """Make one step of each run, and write nothing.

        Raises:
            LabError: one of them does not fit.
        """
        with self._plain_warnings():
            for run in map(self.resolved, runs):
                check_changing(run)
                found = dry_run(run, self._load(run))
                print(to_jsonl([found]) if self.as_json else f"{run.name}: {described(found)}")  # noqa: T201

    def report(self, folders: list[Path], *, show: bool) -> None:
        """Write the report of some runs, say where it is, and show it if there is a screen."""
        from skipback.lab.report import write

        page = write(folders, self.out, command=self.command)
        self.say(f"report: {page}")
        # without a screen, webbrowser would start a text browser in this terminal
        if show and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in SCREENS):
            webbrowser.open(page.resolve().as_uri())

    def say(self, text: str) -> None:
        """Tell a person; machines read JSON lines only."""
        if not self.as_json:
            print(text)  # noqa: T201

    def resolved(self, run: Run) -> Run:
        """The complete configuration: the loss that fits the data set, and the device that is here."""
        tasks = data.card(run.dataset).tasks
        loss = run.loss or ("mse" if tasks[0] is data.Task.REGRESSION else "ce")
        return run.model_copy(update={"loss": loss, "device": str(device(run.device))})

    def _load(self, run: Run) -> data.Dataset | Feeds:
        key = inputs.key(run)
        if key not in self._data:
            self._data[key] = inputs.inputs(run)
        return self._data[key]

    def _finished(self, run: Run, folder: Folder, summary: dict[str, Any], before: bool) -> None:
        if self.as_json:
            print(to_jsonl([{**summary, "run": str(folder.path)}]), end="", flush=True)  # noqa: T201
        elif not self.console.is_terminal:
            ended = " (was done before)" if before else ""
            print(f"{folder.path.name}: {_describe(summary)}{ended}", flush=True)  # noqa: T201

    @contextmanager
    def _live(self, runs: list[Run], folders: list[Folder]) -> Iterator[tuple[Progress, list[TaskID]]]:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.completed:>3.0f}/{task.total:.0f}  {task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        width = max(len(folder.path.name) for folder in folders)
        tasks = [
            bar.add_task(folder.path.name.ljust(width), total=run.epochs, visible=False, text="")
            for run, folder in zip(runs, folders, strict=True)
        ]
        with bar:
            yield bar, tasks

    @contextmanager
    def _plain_warnings(self) -> Iterator[None]:
        """Show our own warnings as one line each, without the source line that raised them."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", SkipbackWarning)
            shown, said = warnings.showwarning, set[str]()

            def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
                if str(message) in said:  # of another seed, say
                    return
                said.add(str(message))
                if issubclass(category, SkipbackWarning):
                    self.console.print(f"warning: {message}", style="yellow", soft_wrap=True, highlight=False)
                else:
                    shown(message, category, *rest, **more)

            warnings.showwarning = show
            yield


def _busy_last(count: int, train_one: Callable[[int], None]) -> Iterator[int]:
    """Train each of so many, and tell which is done. One that another process holds is tried again at the end.

    Raises:
        BusyError: it is held still.
    """
    held = []
    for at in range(count):
        try:
            train_one(at)
        except BusyError:
            held.append(at)
            continue
        yield at
    for at in held:
        train_one(at)
        yield at


def _show(bar: Progress, task: TaskID, row: dict[str, Any]) -> None:
    bar.update(task, completed=row["epoch"], visible=True, text=_describe(row))


def _describe(row: dict[str, Any]) -> str:
    """Loss, score and speed, as the live line shows them; of a run that is over its state, where it is no result."""
    split = "valid" if "valid_loss" in row and "test_loss" not in row else "test"
    loss = row[f"{split}_loss"] if row.get("train_loss") is None and not row.get("state") else row["train_loss"]
    accuracy, mse = row.get(f"{split}_accuracy_percent"), row.get(f"{split}_mse")
    score = f"{accuracy:6.2f} %" if accuracy is not None else f"{split} MSE {_number(mse)}"
    speed = f"{row['samples_per_second']:>9,.0f} samples/s" if row.get("samples_per_second") else ""
    captured = "  captured" if row.get("steps") == "captured" else ""
    state = f"  {row['state']}" if row.get("state", FINISHED) != FINISHED else ""
    return f"loss {_number(loss)}  {score}  {speed}{captured}{state}"


def _number(value: float | None) -> str:
    """A loss; of one that is not finite, files say nothing."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if abs(value) < 1e7 else f"{value:.3g}"
