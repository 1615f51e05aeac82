"""Where and how often the alignment of a run is measured: on which rows, at each evaluation and at every k-th step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from skipback.core.records import Loss
from skipback.lab.config import Run
from skipback.lab.data.pipeline_rows import Batch, Feed
from skipback.lab.errors import LabError
from skipback.lab.stepping import Step
from skipback.learner import Learner
from skipback.measure.alignment import alignment


def probe(run: Run, feeds: Mapping[str, Feed], *, memory: bool) -> Batch:
    """The rows that the alignment is measured on.

    Args:
        run: a complete configuration.
        feeds: of the splits that there are.
        memory: whether the method stores an error for each training row.

    Raises:
        LabError: there is no such split, or the method has stored nothing for its rows.
    """
    if run.align_on not in feeds:
        raise LabError(f"--align-on {run.align_on}: this run has only {' and '.join(feeds)} rows (see --validation)")
    if memory and run.align_on != "train":
        raise LabError(
            f"--align-on {run.align_on}: method {run.method!r} stores one error per training row, and none of others: "
            "use train"
        )
    return feeds[run.align_on].first(run.align_rows)


def measured(learner: Learner, batch: Batch, loss: Loss) -> list[dict[str, Any]]:
    """The alignment at every port, in eval mode. Changes nothing but the mode."""
    return [dataclasses.asdict(a) for a in alignment(learner.eval(), batch.inputs, batch.t, loss, ids=batch.ids)]


@dataclass(kw_only=True)
class Looks:
    """Another step, before which the alignment is measured at every k-th.

    Attributes:
        inner: makes the step.
        every: k; the first look is before the first step.
        batch: the rows that it is measured on.
        steps: how many were made.
        records: what was found: the steps before it, and the alignment at every port.
        seconds: that looking took.
    """

    inner: Step
    learner: Learner
    loss: Loss
    every: int
    batch: Batch
    steps: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, batch: Batch) -> Tensor:
        """Look, if it is time, and make the step."""
        if self.steps % self.every == 0:
            start = time.perf_counter()
            self.records.append({"step": self.steps, "alignment": measured(self.learner, self.batch, self.loss)})
            self.learner.train()
            self.seconds += time.perf_counter() - start
        self.steps += 1
        return self.inner(batch)
