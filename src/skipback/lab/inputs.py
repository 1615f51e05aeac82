"""What a run trains on and is scored on: its data set, prepared, augmented and split as it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from skipback.lab import choices, data, feeding
from skipback.lab.choices import Augmentation
from skipback.lab.config import OPTIONS, Run
from skipback.lab.data import Card, DataError, Dataset, Task, splits
from skipback.lab.data.pipeline import Feeds, feeds
from skipback.lab.data.prepare import Preparation, channel, prepared
from skipback.lab.errors import LabError
from skipback.lab.losses import task_of


def inputs(run: Run) -> Dataset | Feeds:
    """The rows of a run. Whatever is fitted is fitted on the rows that train.

    Args:
        run: with its loss, which chooses the task.

    Raises:
        LabError: the data set cannot be prepared, augmented or split so, or its files are missing or damaged.
    """
    card, task = data.card(run.dataset), _task(run)
    _check(run, card, task)
    asked = next((option for option in (*OPTIONS, "limit") if getattr(run, option)), None)
    if (special := feeding.special(run)) is not None:
        if asked is not None:
            raise LabError(f"--{asked} {getattr(run, asked)}: net {run.net!r} takes the codes of a table: leave it out")
        return special
    return of_rows(run, data.raw(run.dataset, task=task))


def of_rows(run: Run, rows: Dataset) -> Dataset | Feeds:
    """Rows as the official files have them, split, prepared and augmented as a run says.

    Raises:
        LabError: they cannot be.
    """
    rows = _limited(run, _split(run, rows))
    if run.prepare is None and run.augment is None:
        return data.standard(run.dataset, rows)
    return _feeds(run, rows)


def key(run: Run) -> Hashable:
    """Runs with equal keys have equal inputs."""
    held = (run.validation, run.held_out, run.split_seed, run.distinct)
    prepared = (run.prepare, run.zca_epsilon, run.augment, run.limit)
    return run.dataset, _task(run), run.net, run.context, *prepared, *held


def _task(run: Run) -> Task:
    return task_of(run.loss or "ce", data.card(run.dataset).tasks)


def _split(run: Run, rows: Dataset) -> Dataset:
    if run.validation is None:
        return rows
    by = choices.splitter(run.validation, held=run.held_out, seed=run.split_seed, distinct=run.distinct)
    with _naming(f"--validation {run.validation}"):
        return splits.hold_out(rows, by)


def _limited(run: Run, rows: Dataset) -> Dataset:
    """The first training rows alone; what is fitted is fitted on them."""
    if run.limit is None:
        return rows
    if run.limit > len(rows.train.x):
        raise LabError(f"--limit {run.limit}: {run.dataset!r} trains on {len(rows.train.x)} rows here")
    few = dataclasses.replace(rows.train, x=rows.train.x[: run.limit], t=rows.train.t[: run.limit])
    return dataclasses.replace(rows, train=few)


def _feeds(run: Run, rows: Dataset) -> Feeds:
    preparation = _preparation(run)
    # where there are several targets the task is made up, and defined in the units that it has
    scaled = rows.task is Task.REGRESSION and rows.outputs == 1
    with _naming(f"--prepare {run.prepare}"):
        if run.augment is None:
            return feeds(rows, preparation, scale_targets=scaled)
        chosen = choices.augmentation(run.augment)
        if chosen.prepared:
            return feeds(prepared(rows, preparation), augment=chosen.augment, plain=chosen.plain)
        return feeds(rows, preparation, augment=chosen.augment, plain=chosen.plain)


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    """Say which flag the rows do not fit."""
    try:
        yield
    except DataError as error:
        raise LabError(f"{flag}: {error}") from None


def _preparation(run: Run) -> Preparation:
    """As asked; images that are only augmented are standardised as usual."""
    return channel(ddof=0) if run.prepare is None else choices.preparation(run.prepare, epsilon=run.zca_epsilon)


def _check(run: Run, card: Card, task: Task) -> None:
    """Refuse what does not fit the kind of the data set, before it is read.

    Raises:
        LabError: names the flag and what would be right.
    """
    for option in (*OPTIONS, "limit"):
        if getattr(run, option) and task not in (Task.CLASSIFICATION, Task.REGRESSION):
            kind = "text" if task is Task.LANGUAGE else "graph"
            raise LabError(f"--{option} {getattr(run, option)}: {run.dataset!r} is a {kind}, not rows: leave it out")
    if run.validation == "stratified" and task is Task.REGRESSION:
        raise LabError(f"--validation stratified keeps the shares of classes, and {run.dataset!r} has values: random")
    images = len(card.shape) == 3
    kinds = {choices.PREPARATIONS[name] for name in run.prepare.split("+")} if run.prepare else set()
    if (other := "tables" if images else "images") in kinds:
        fit = [
            name for name, kind in choices.PREPARATIONS.items() if kind in ("rows", "images" if images else "tables")
        ]
        raise LabError(
            f"--prepare {run.prepare} is for {other}, and an input of {run.dataset!r} has "
            f"shape {card.shape}: choose one of {', '.join(fit)}"
        )
    if run.augment is not None:
        _check_images(run, card, choices.augmentation(run.augment))


def _check_images(run: Run, card: Card, chosen: Augmentation) -> None:
    if len(card.shape) != 3:
        raise LabError(f"--augment {run.augment} is for images, and an input of {run.dataset!r} has shape {card.shape}")
    if min(card.shape[1:]) < chosen.least:
        side = f"{card.shape[1]} x {card.shape[2]}"
        raise LabError(
            f"--augment {run.augment} needs images of {chosen.least} x {chosen.least} or more, and those of "
            f"{run.dataset!r} are {side}"
        )
