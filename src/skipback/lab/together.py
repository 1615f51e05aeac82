"""Several seeds of one run as one batched net: the same folders as single runs leave, in less time.

Each member has its own data order, checkpoint, rows and summary. Its numbers are those of its single run, but for the
rounding of batched products; its `train_seconds` are its share of the time that all took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skipback.engine.many.many import Many
from skipback.lab import checkpoint, machine
from skipback.lab.config import Run, usual
from skipback.lab.counting import hits
from skipback.lab.data import Dataset
from skipback.lab.data.pipeline import Feeds
from skipback.lab.errors import LabError
from skipback.lab.records import Folder, to_json
from skipback.lab.stepping import untold
from skipback.lab.train import SAVE_EVERY, Progress, save, summary_of
from skipback.lab.trainer import Trainer


class Member:
    """One of the runs.

    Args:
        run: a complete configuration.
        data: its inputs.
        folder: where it is kept, claimed.
        progress: is called with each row of metrics.
    """

    def __init__(self, run: Run, data: Dataset | Feeds, folder: Folder, progress: Progress) -> None:
        self.folder, self.progress = folder, progress
        self.trainer = Trainer(run, data)
        if folder.checkpoint.exists():
            self.trainer.restore(checkpoint.load(folder.checkpoint))
        self.random = torch.get_rng_state()

    @property
    def epoch(self) -> int:
        """The one that comes next."""
        return self.trainer.next

    @contextmanager
    def own_random_state(self) -> Iterator[None]:
        """Inside, random numbers are those of its single run."""
        torch.set_rng_state(self.random)
        yield
        self.random = torch.get_rng_state()

    def score(self, train_loss: float | None) -> None:
        """Add a row of metrics, if it is time for one."""
        with self.own_random_state():
            scored = self.trainer.record(train_loss)
        if scored:
            self.progress(self.trainer.rows[-1])

    def save(self) -> None:
        """Write checkpoint and rows."""
        with self.own_random_state():
            save(self.trainer, self.folder)

    def catch_up(self, epoch: int) -> None:
        """Train alone until all are as far: an interruption between two checkpoints leaves some behind."""
        while self.epoch < epoch:
            with self.own_random_state():
                loss = self.trainer.epoch() if self.epoch else None
            self.score(loss)
            self.save()


def train_together(
    runs: Sequence[Run],
    data: Callable[[Run], Dataset | Feeds],
    folders: Sequence[Folder],
    *,
    command: str,
    progress: Sequence[Progress],
) -> list[dict[str, Any]]:
    """Train runs that differ in their seed, each in its folder, from where they stand. Returns their summaries.

    Args:
        runs: complete configurations.
        data: the inputs of a run.
        folders: of the runs; a finished run is not trained again.
        command: recorded in `env.json`.
        progress: of each run, called with each of its rows of metrics.

    Raises:
        LabError: a folder cannot be used, or the method or the network has no batched form.
    """
    with ExitStack() as claims:
        for run, folder in zip(runs, folders, strict=True):
            claims.enter_context(folder.claimed(run.model_dump(mode="json"), usual()))
        machine.reset_peak()
        members = [
            Member(run, data(run), folder, show)
            for run, folder, show in zip(runs, folders, progress, strict=True)
            if folder.summary is None
        ]
        if members:
            _train(members, command)
        return [folder.summary or {} for folder in folders]


def _train(members: Sequence[Member], command: str) -> None:
    most = max(member.epoch for member in members)
    for member in members:
        member.catch_up(most)
        member.folder.write("env.json", to_json(machine.describe(member.trainer.device, command)))
    _epochs(members)
    for member in members:
        with member.own_random_state():
            member.folder.write("summary.json", to_json(summary_of(member.trainer)))


def _epochs(members: Sequence[Member]) -> None:
    try:
        many = Many([member.trainer.learner for member in members])
    except ValueError as error:
        raise LabError(f"--together: {error}") from None
    last, saved = members[0].trainer.run.epochs, time.monotonic()
    for epoch in range(members[0].epoch, last + 1):
        losses = _epoch(many, members) if epoch else [None] * len(members)
        for member, loss in zip(members, losses, strict=True):
            member.score(loss)
        if epoch == last or time.monotonic() - saved > SAVE_EVERY:
            for member in members:
                member.save()
            saved = time.monotonic()


def _epoch(many: Many, members: Sequence[Member]) -> list[float]:
    """Train all for one epoch. Returns their mean training losses."""
    trainers = [member.trainer for member in members]
    for trainer in trainers:
        trainer.open_epoch()
    updates = [trainer.update for trainer in trainers]
    right = torch.zeros(len(members), dtype=torch.int64, device=trainers[0].device)
    counts = None if trainers[0].counted is None else partial(_count, right)
    schedules = [trainer.schedule for trainer in trainers if trainer.schedule is not None]
    reduced = untold(trainers[0].reduced, trainers[0].learner.record)
    loss = reduced.loss if reduced.summed else reduced.mean  # which has a batched form
    total, samples, start = torch.zeros(len(members), device=trainers[0].device), 0, time.perf_counter()
    epochs = [trainer.feed.epoch(trainer.run.batch_size, trainer.shuffle) for trainer in trainers]
    for batches in zip(*epochs, strict=True):
        x, t = torch.stack([batch.x for batch in batches]), torch.stack([batch.t for batch in batches])
        known = [batch.ids for batch in batches if batch.ids is not None]
        ids = torch.stack(known) if known else None
        losses = many.step(x, t, loss=loss, update=updates, ids=ids, watch=counts)
        for schedule in schedules:
            schedule.updated()
        total += reduced.reported(losses, batches[0].t) * len(batches[0])
        samples += len(batches[0])
    means: list[float] = (total / samples).tolist()  # this also waits for the device, so the clock below is honest
    share = (time.perf_counter() - start) / len(members)
    for trainer, own in zip(trainers, right, strict=True):
        if trainer.counted is not None:
            trainer.counted.take(own, samples)
        trainer.close_epoch(share)
    return means


def _count(right: Tensor, y: Tensor, t: Tensor) -> None:
    """Count the right rows of each member (N,), of outputs (N, B, C)."""
    right.add_(hits(y, t).sum(1))
