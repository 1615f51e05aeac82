"""The training loop: one run, from a configuration to a finished folder. Read it from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from skipback.lab import checkpoint, history, machine
from skipback.lab.config import Run, usual
from skipback.lab.data import Dataset
from skipback.lab.data.pipeline import Feeds
from skipback.lab.errors import about
from skipback.lab.records import Folder, to_json, to_jsonl
from skipback.lab.states import state_of
from skipback.lab.trainer import Trainer
from skipback.methods import TABLE as TITLES

SAVE_EVERY = 2.0
"""Seconds between checkpoints: what a crash may cost."""

Progress = Callable[[dict[str, Any]], None]
"""Is called with each row of metrics."""


def train(run: Run, data: Dataset | Feeds, folder: Folder, *, command: str, progress: Progress) -> dict[str, Any]:
    """Train one run in its folder, from where it stands. Returns its summary.

    Args:
        run: a complete configuration.
        data: its inputs.
        folder: where the run is kept; a finished run is not trained again.
        command: recorded in `env.json`.
        progress: is called with each row of metrics.

    Raises:
        LabError: the folder cannot be used, or the configuration does not fit.
    """
    with folder.claimed(run.model_dump(mode="json"), usual()):
        if (done := folder.summary) is not None:
            return done
        machine.reset_peak()
        trainer = Trainer(run, data)
        if folder.checkpoint.exists():
            trainer.restore(checkpoint.load(folder.checkpoint))
        folder.write("env.json", to_json(machine.describe(trainer.device, command)))
        _epochs(trainer, folder, progress)
        summary = summary_of(trainer)
        folder.write("summary.json", to_json(summary))
        return summary


def _epochs(trainer: Trainer, folder: Folder, progress: Progress) -> None:
    saved = time.monotonic()
    while not trainer.ended:
        with about(f"method {trainer.run.method!r}"):  # some refuse a net only when they see it train
            scored = trainer.advance()
        if scored:
            progress(trainer.rows[-1])
        if trainer.ended or time.monotonic() - saved > SAVE_EVERY:
            save(trainer, folder)
            saved = time.monotonic()


def save(trainer: Trainer, folder: Folder) -> None:
    """Write where a run stands."""
    checkpoint.write(folder.checkpoint, trainer.state())
    folder.write("metrics.jsonl", to_jsonl(trainer.rows))
    folder.write("history.csv", history.table(trainer.run, trainer.rows))
    if trainer.looks is not None:
        folder.write("alignment.jsonl", to_jsonl(trainer.looks.records))


def summary_of(trainer: Trainer) -> dict[str, Any]:
    """What `summary.json` holds."""
    run, last = trainer.run, trainer.rows[-1]
    kept = {key: value for key, value in last.items() if key not in ("epoch", "alignment", "moved")}
    return {
        "method": run.method,
        "method_title": TITLES[run.method],
        "dataset": run.dataset,
        "net": run.net,
        "seed": run.seed,
        "epochs": run.epochs,
        "epochs_reached": last["epoch"],
        "state": state_of(trainer.rows, stopped=trainer.over is not None),
        **({} if trainer.over is None else {"stopped_by": trainer.over}),
        **({} if trainer.start is None else {"start": trainer.start}),
        **trainer.scores(),
        **kept,  # as in the last row: its mean squared error is summed in another order
        "backprop_share": trainer.backprop_share,
        "peak_memory_mib": machine.peak_mib(trainer.device),
    }
