"""Two steps of a recipe on a few random rows of its data set's shape: everything but the data and the time is real.

No file is needed, and none is written. Batches are small, and whitening, which takes a minute to fit, is left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch

from skipback.core.records import SkipbackWarning
from skipback.lab import data, inputs
from skipback.lab.config import Run
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.errors import LabError, about
from skipback.lab.losses import task_of
from skipback.lab.papers.base import Row
from skipback.lab.reproduce.jobs import Job
from skipback.lab.trainer import Trainer

BATCH, STEPS = 4, 2


def try_out(job: Job) -> None:
    """Train a recipe for two steps and score it.

    Raises:
        LabError: it does not train, or what its row compares is not measured.
    """
    where = f"{job.study.key} {job.table.name}, row {job.row.label!r}"
    with about(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipbackWarning)  # of the paper's own choices, which a real run tells
        run = small(job.run)
        trainer = Trainer(run, inputs.of_rows(run, stand_in(run)))
        loss = trainer.epoch()
        row = {**trainer.scores(), **trainer.row(1, loss)}
    if not math.isfinite(loss):
        raise LabError(f"{where}: the loss is {loss} after {STEPS} steps")
    if missing := unmeasured(job.row, row):
        raise LabError(f"{where}: a run does not measure {', '.join(missing)}")


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


def stand_in(run: Run) -> Dataset:
    """Random rows of the shape and kind of a data set, as its official files have them: pixels, or numbers."""
    card, random = data.card(run.dataset), torch.Generator().manual_seed(0)
    task = task_of(run.loss or "ce", card.tasks)
    outputs, rows = card.outputs[task], STEPS * run.batch_size
    if task not in (Task.CLASSIFICATION, Task.REGRESSION):
        raise LabError(f"{run.dataset!r} is not rows: it cannot be tried out")

    def split() -> Split:
        images = len(card.shape) == 3
        x = (
            torch.randint(256, (rows, *card.shape), generator=random)
            if images
            else torch.randn(rows, *card.shape, generator=random)
        )
        t = (
            torch.randint(outputs, (rows,), generator=random)
            if task is Task.CLASSIFICATION
            else torch.randn(rows, outputs, generator=random)
        )
        return Split(x=x.to(torch.uint8) if images else x, t=t)

    return Dataset(name=run.dataset, task=task, outputs=outputs, train=split(), test=split())
