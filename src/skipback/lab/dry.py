"""A dry run: one step on one batch, nothing written, so that a recipe can be tried in seconds."""

from __future__ import annotations

import math
from typing import Any

from skipback.lab.config import Run
from skipback.lab.data import Dataset
from skipback.lab.data.pipeline import Feeds
from skipback.lab.errors import LabError, about
from skipback.lab.trainer import Trainer


def dry_run(run: Run, data: Dataset | Feeds) -> dict[str, Any]:
    """Build a run, make one step of it, and measure its alignment. Returns what it found.

    Args:
        run: a complete configuration.
        data: its inputs.

    Raises:
        LabError: it does not fit, or its loss is not finite.
    """
    trainer = Trainer(run, data)
    with about(f"method {run.method!r}"):
        trainer.open_epoch()
        batch = next(iter(trainer.feed.epoch(run.batch_size, trainer.shuffle)))
        loss = trainer.step(batch).item()
        ports = trainer.measure()
    if not math.isfinite(loss):
        raise LabError(f"{run.name}: the loss of the first batch is {loss}")
    return {
        "method": run.method,
        "seed": run.seed,
        "loss": loss,
        "samples": len(batch),
        "training_rows": len(trainer.feed),
        "parameters": sum(p.numel() for p in trainer.learner.net.parameters()),
        "ports": len(ports),
        "device": str(trainer.device),
    }


def described(found: dict[str, Any]) -> str:
    """One line."""
    return (
        f"dry run: one step on {found['samples']} of {found['training_rows']:,} rows, loss {found['loss']:.4f}; "
        f"{found['parameters']:,} parameters, {found['ports']} taught ports, on {found['device']}; nothing was written"
    )
