"""Captured epochs: how a run trains whose training rows lie on a GPU as the network takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

import skipback
from skipback.core.records import Loss, Watch
from skipback.engine.capture.recorder import Recorder
from skipback.engine.capture.steps import Captured
from skipback.lab.data.pipeline_rows import Feed, Resident
from skipback.learner import Learner
from skipback.update import Update


def capturing(
    feed: Feed,
    learner: Learner,
    update: Update,
    loss: Loss,
    batch: int,
    *,
    watch: Watch | None = None,
    recorder: Recorder | None = None,
) -> Captured | None:
    """The steps of an epoch, captured if the method allows; `None` where the loop over batches is what there is.

    Args:
        feed: of the training rows.
        learner: on the device of the rows.
        update: what changes the weights.
        loss: loss(output, target).
        batch: N.
        watch: counts, see `learner.step`.
        recorder: `None` takes CUDA graphs, for rows on a GPU.
    """
    if type(feed) is not Resident or feed.augmented:  # other kinds take, or change, their rows on the way
        return None
    if recorder is None and not feed.x.is_cuda:
        return None
    kinds: dict[str, Any] = {"transform": feed.transform, "refuse": False, "recorder": recorder, "watch": watch}
    size = min(batch, len(feed))
    return skipback.captured(learner, feed.x, feed.t, batch=size, loss=loss, update=update, **kinds)


def order_of(feed: Feed, batch: int, generator: Generator) -> Tensor:
    """The ids of an epoch on the CPU, by the same draw as `IndexedRows.epoch`."""
    order = torch.randperm(len(feed), generator=generator)
    dropped = len(feed) % batch if type(feed) is Resident and feed.drop_last else 0
    return order[: len(feed) - dropped]
