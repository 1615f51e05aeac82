"""How a run ended. What is no result must not look like one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FINISHED, STOPPED, DIVERGED, UNMOVED = "finished", "stopped", "diverged", "nothing moved"
"""All epochs trained; a stop rule ended it; its loss is lost; no weight of a hidden block ever changed."""

LOST = 10.0
"""Times the loss at the start, from which a run has diverged."""


def state_of(rows: Sequence[Mapping[str, Any]], *, stopped: bool = False) -> str:
    """The state of a run that is over.

    Args:
        rows: its rows of metrics, the first of them of the start (epoch 0).
        stopped: whether a stop rule ended it.
    """
    if diverged(rows):
        return DIVERGED
    told = [row["moved"] for row in rows if "moved" in row]
    if told and not any(told):
        return UNMOVED
    return STOPPED if stopped else FINISHED


def diverged(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last losses are not finite, or the one of training exceeds 10 times the loss at the start.

    A loss on other rows than the training rows may grow so by overfitting alone, where the classes are still right.
    """
    if not rows:
        return False
    last, start = rows[-1], _scored(rows[0])
    losses = [*([last["train_loss"]] if last.get("epoch") and "train_loss" in last else []), *_scored(last)]
    if any(loss is None or not math.isfinite(loss) for loss in losses):
        return True
    trained = last.get("train_loss")
    at_start = [loss for loss in start if loss is not None and math.isfinite(loss)]
    return bool(last.get("epoch")) and trained is not None and bool(at_start) and trained > LOST * max(at_start)


def _scored(row: Mapping[str, Any]) -> list[Any]:
    """The losses on the rows that are scored."""
    return [row[key] for key in ("test_loss", "valid_loss") if key in row]
