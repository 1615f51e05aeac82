"""Two steps of a recipe on a few random rows of its data set's shape: everything but the data and the time is real.

No file is needed, and none is written. Batches are small, and whitening, which takes a minute to fit, is left out.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from skipback.core.records import SkipbackWarning
from skipback.lab import choices, data, inputs, notebook
from skipback.lab.config import Run
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.data.prepare import prepared
from skipback.lab.errors import LabError, about
from skipback.lab.linear import trace
from skipback.lab.losses import task_of
from skipback.lab.notebook import Notebook
from skipback.lab.papers.base import Row
from skipback.lab.reproduce.jobs import Job
from skipback.lab.stacking.layer import Readout
from skipback.lab.stacking.learners import Learners
from skipback.lab.stacking.settings import Stack
from skipback.lab.trainer import Trainer

BATCH, STEPS = 2, 2


def try_out(job: Job) -> None:
    """Train a recipe for two steps and score it.

    Raises:
        LabError: it does not train, or what its row compares is not measured.
    """
    where = f"{job.study.key} {job.table.name}, row {job.row.label!r}"
    with about(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipbackWarning)  # of the paper's own choices, which a real run tells
        row = _tried(job.run)
    loss = float(row["train_loss"])
    if not math.isfinite(loss):
        raise LabError(f"{where}: the loss is {loss} after {STEPS} steps")
    if missing := unmeasured(job.row, row):
        raise LabError(f"{where}: a run does not measure {', '.join(missing)}")


def _tried(asked: Run | Stack | Notebook) -> dict[str, Any]:
    if isinstance(asked, Run):
        return _trained(asked)
    if isinstance(asked, Stack):
        return _stacked(asked)
    lines = notebook.rows(trace(most=STEPS))
    return {key: value for line in lines for key, value in line.items()}


def _trained(asked: Run) -> dict[str, Any]:
    run = small(asked)
    task = task_of(run.loss or "ce", data.card(run.dataset).tasks)
    trainer = Trainer(run, inputs.of_rows(run, stand_in(run.dataset, task, STEPS * run.batch_size)))
    loss = trainer.epoch()
    return {**trainer.scores(), **trainer.row(1, loss)}


def _stacked(asked: Stack) -> dict[str, Any]:
    few = {"learners": 2, "width": 8, "batch_size": BATCH, "epochs": 1, "layer_epochs": 1, "device": "cpu"}
    options = asked.model_copy(update=few)
    raw = stand_in(options.dataset, Task.CLASSIFICATION, STEPS * BATCH)
    rows = prepared(raw, choices.preparation(options.prepare, epsilon=0.1))
    learners = Learners(options, rows.train, rows.outputs)
    with tempfile.TemporaryDirectory() as folder:
        learners.fit(Path(folder) / "learners.safetensors", lambda line: None)
    features = learners.features(rows.train.x), learners.features(rows.test.x)
    return Readout(options, features, (rows.train.t, rows.test.t), rows.outputs).epoch()


def unmeasured(row: Row, metrics: dict[str, object]) -> Sequence[str]:
    """The scores of a row that its metrics do not have."""
    return [e.score.name for e in row.expected if e.score.of(metrics) is None]


def small(run: Run) -> Run:
    """The same run, with small batches and without what takes long to fit."""
    whitened = run.prepare is not None and "zca" in run.prepare
    changes = {"batch_size": min(run.batch_size, BATCH), "epochs": 1, "device": "cpu", "limit": None}
    known = {key: value for key, value in changes.items() if key in Run.model_fields}
    plain = {"prepare": "scale", "zca_epsilon": Run.model_fields["zca_epsilon"].default} if whitened else {}
    return run.model_copy(update={**known, **plain, "loss": run.loss or "ce"})


def stand_in(name: str, task: Task, rows: int) -> Dataset:
    """Random rows of the shape and kind of a data set, as its official files have them: pixels, or numbers.

    Args:
        name: of the data set.
        task: classification or regression.
        rows: of each split.
    """
    card, random = data.card(name), torch.Generator().manual_seed(0)
    if task not in (Task.CLASSIFICATION, Task.REGRESSION):
        raise LabError(f"{name!r} is not rows: it cannot be tried out")
    outputs = card.outputs[task]

    def split() -> Split:
        if len(card.shape) == 3:
            x = torch.randint(256, (rows, *card.shape), generator=random).to(torch.uint8)
        else:
            x = torch.randn(rows, *card.shape, generator=random)
        if task is Task.CLASSIFICATION:
            return Split(x=x, t=torch.randint(outputs, (rows,), generator=random))
        return Split(x=x, t=torch.randn(rows, outputs, generator=random))

    return Dataset(name=name, task=task, outputs=outputs, train=split(), test=split())
