"""The audit of methods on a data set: what `skipback audit` prints, `skipback list` and the README."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

from skipback.advice import SkipbackWarning
from skipback.lab import data, inputs
from skipback.lab.config import Run
from skipback.lab.data.pipeline_rows import Batch
from skipback.lab.trainer import Trainer
from skipback.measure.audit import BlockAudit, audit
from skipback.measure.words import COLUMNS

STEPS = 5
"""Training steps before the audit: learned feedback starts at zero, and teaches nothing before the first one."""


def of_run(run: Run, steps: int = STEPS) -> list[BlockAudit]:
    """Audit the method of a run, on its network and the first batch of its data set, after a few training steps.

    The steps are of other batches, so a delayed signal is audited on samples that it has not seen (but for a graph,
    which is one batch).

    Raises:
        LabError: the configuration does not fit.
    """
    card = data.card(run.dataset)
    loss = run.loss or ("mse" if card.tasks[0] is data.Task.REGRESSION else "ce")
    run = run.model_copy(update={"loss": loss})
    trainer = Trainer(run, inputs.inputs(run))
    first, *others = itertools.islice(trainer.feed.ordered(run.batch_size), steps + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipbackWarning)  # of what will not learn: training says so
        for k in range(steps):
            _step(trainer, others[k % len(others)] if others else first)
    return audit(trainer.learner, first.inputs, first.t, trainer.loss.of_output, first.ids)


def _step(trainer: Trainer, batch: Batch) -> None:
    y = trainer.learner.train()(*batch.inputs, target=batch.t, ids=batch.ids)
    trainer.loss.of_output(y, batch.t).backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def overall(records: Sequence[BlockAudit]) -> dict[str, bool | None]:
    """One answer for all hidden blocks: whether it is so in any (moves, exact: in all); `None` if there is none."""
    found: dict[str, bool | None] = {}
    for key in COLUMNS:
        answers = [a for record in records[1:] if (a := getattr(record, key)) is not None]
        found[key] = (all if key in ("moves", "exact") else any)(answers) if answers else None
    return found


def of_hidden(method: str, **settings: Any) -> dict[str, bool | None]:
    """The answers for the hidden blocks of a small network on digits, trained by a method.

    Args:
        method: its name.
        settings: of `config.Run`; 2 hidden layers of 32 units on the CPU unless they say otherwise.
    """
    return overall(of_run(Run(**{"depth": 2, "width": 32, "device": "cpu", **settings, "method": method})))
