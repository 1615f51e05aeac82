"""One run in memory: the network with its method, the optimizer, the data on the device, and how it is scored.

Everything that decides the next step (weights, feedback, memory, optimizer, random states, the rows measured so far) is
in its `state`, so an interrupted run goes on to the same bits.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from skipback.engine.capture.steps import Captured
from skipback.lab import choices, machine, metrics, stopping
from skipback.lab.building import PROBE, Builder, own_seed
from skipback.lab.capturing import capturing, order_of
from skipback.lab.config import Run
from skipback.lab.counting import Counted
from skipback.lab.data import Dataset
from skipback.lab.data.pipeline import Feeds, feeds
from skipback.lab.looking import Looks, measured, probe
from skipback.lab.losses import TaskLoss
from skipback.lab.moving import Movement, warn_unmoved
from skipback.lab.optimizers import schedule_of, update_of
from skipback.lab.scoring import Scorer
from skipback.lab.stepping import Plain, Reduced, Step, step_of, told
from skipback.lab.tasks import RULES, remembers


class Trainer:
    """One run in memory: the network with its method, the optimizer, the data on the device.

    Args:
        run: a complete configuration.
        data: a data set whose inputs are ready, or feeds: with preparation or augmentation, mapped, or of a DataLoader.

    Raises:
        LabError: the network, the method and the data do not fit.
    """

    def __init__(self, run: Run, data: Dataset | Feeds) -> None:
        self.run, self.data = run, data if isinstance(data, Feeds) else feeds(data)
        self.device = machine.device(run.device)
        self.rules = RULES[self.data.task]
        self.loss: TaskLoss = self.rules.loss(run.loss or "ce")
        self.feed = self.data.train.on(self.device, self._targets)
        self.judged = "test" if run.validation is None else "valid"  # held-out rows are not the test split
        splits = {self.judged: self.data.test, **({} if run.validation else {"valid": self.data.valid})}
        scored = {name: feed.on(self.device, self._targets) for name, feed in splits.items() if feed is not None}
        torch.set_num_threads(run.threads)
        arithmetic = choices.precision(run.precision)
        arithmetic.prepare(self.device)
        self.precision = arithmetic.step
        torch.manual_seed(own_seed(run.weight_seed, run))
        parts: dict[str, Any] = {"rules": self.rules, "loss": self.loss, "data": self.data}
        self.learner, self.start = Builder(run=run, feed=self.feed, device=self.device, **parts).build()
        self.movement = Movement(self.learner, self.feed.first(2).inputs)
        stopping.check(run, counted=self.rules.counts)
        self.update = update_of(run, self.learner)
        self.optimizer = self.update.bind(self.learner)
        self.schedule = schedule_of(run, self.update)
        train_eval = {"train_eval": self.feed} if run.score_train else {}
        self.scorer = Scorer(learner=self.learner, splits={**scored, **train_eval}, judged=self.judged, **parts)
        self.probe = probe(run, {"train": self.feed, **scored}, memory=remembers(self.learner.record))
        self.counted, self.clean = (Counted(self.device, self.rules.rows) if self.rules.counts else None for _ in "01")
        self.reduced = Reduced(
            mean=self.loss.of_output,
            terms=self.rules.terms,
            summed=run.reduction == "sum",
            told=told(self.learner.record, published=run.as_published),
        )
        self.step, self.looks = self._step()
        self.steps = self._captured()
        self.shuffle = torch.Generator().manual_seed(own_seed(run.order_seed, run))
        self.next = 0  # epoch
        self.rows: list[dict[str, Any]] = []
        self.errors: list[float] = []
        self.seconds = 0.0

    def _targets(self, t: Tensor) -> Tensor:
        return self.loss.targets(t, self.data.outputs)

    @property
    def ended(self) -> bool:
        """Whether all epochs are trained, or a rule has stopped the run."""
        return self.next > self.run.epochs or self.over is not None

    def advance(self) -> bool:
        """The next epoch; epoch 0 only looks at the start. Returns whether it got a row of metrics."""
        return self.record(self.epoch() if self.next else None)

    def record(self, train_loss: float | None) -> bool:
        """An epoch is done: add its row of metrics, if it is time for one. Returns whether it was."""
        epoch, self.next = self.next, self.next + 1
        due = epoch % self.run.eval_every == 0 or self.ended
        if due:
            self.rows.append(self.row(epoch, train_loss))
        return due

    @property
    def backprop_share(self) -> float:
        """Share of the passes whose gradients are plain backprop's, those of clean batches that are kept among them."""
        share = self.learner.backprop_share
        return (1 + share) / 2 if self.run.keep_clean_gradients else share

    @property
    def over(self) -> str | None:
        """Why training ends before the last epoch; `None` if it does not."""
        return stopping.why(self.run, self.errors)

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """All training inputs and targets, without augmentation."""
        batch = self.feed.first(len(self.feed))
        return batch.x, batch.t

    def _step(self) -> tuple[Step, Looks | None]:
        """How a batch trains, and what looks on at every k-th."""
        run, learner = self.run, self.learner
        how: Any = {"precision": self.precision, "compile": run.compile}
        step = step_of(run, learner, self.update, self.reduced, watch=self.counted, clean=self.clean, **how)
        if run.align_every is None:
            return step, None
        looks = Looks(inner=step, learner=learner, loss=self.loss.of_output, every=run.align_every, batch=self.probe)
        return looks, looks

    def _captured(self) -> Captured | None:
        """The steps of an epoch as a recording; `None` where they need Python between them, or there is no GPU."""
        run, by_update = self.run, self.schedule is not None and self.schedule.every_update
        usual = isinstance(self.step, Plain) and not self.reduced.summed
        if self.precision is not None or run.compile or by_update or not usual:  # what is captured computes as it is
            return None
        return capturing(self.feed, self.learner, self.update, self.loss.of_output, run.batch_size, watch=self.counted)

    def epoch(self) -> float:
        """Train for one epoch. Returns the mean training loss."""
        self.open_epoch()
        start = time.perf_counter()
        if self.steps is not None:
            mean = self.steps.epoch(order_of(self.feed, self.run.batch_size, self.shuffle)).item()
        else:
            mean = self._by_batches()
        self.close_epoch(time.perf_counter() - start)
        return mean

    def open_epoch(self) -> None:
        """Before its first step."""
        self.learner.train()
        for counted in (self.counted, self.clean):
            if counted is not None:
                counted.reset()

    def close_epoch(self, seconds: float) -> None:
        """After its last step, which took so long with all others."""
        self.seconds += seconds
        if self.counted is not None:
            self.errors.append(self.counted.error)
        if self.schedule is not None:
            self.schedule.ended(self.errors)

    def _by_batches(self) -> float:
        step = self.step
        sums: dict[int, Tensor] = {}  # of the batches of each size: to weigh each loss takes as long as to find it
        samples = 0
        for batch in self.feed.epoch(self.run.batch_size, self.shuffle):
            value = step(batch)
            if self.schedule is not None:
                self.schedule.updated()
            size = len(batch)
            sums[size] = sums[size].add_(value) if size in sums else value.clone()
            samples += size
        # .item() also waits for the device, so that the clock is honest
        return sum(size * total.item() for size, total in sums.items()) / samples

    def evaluate(self, scores: dict[str, metrics.Metric] | None = None) -> dict[str, float]:
        """Score the split that judges and what else the run scores, see `Scorer.evaluate`."""
        return self.scorer.evaluate(scores)

    def scores(self) -> dict[str, float]:
        """All scores of the split that judges, for the summary."""
        return self.evaluate(self.rules.every(self.data, self.loss))

    def measure(self) -> list[dict[str, Any]]:
        """The alignment at every port, on the rows that the run says."""
        return measured(self.learner, self.probe, self.loss.of_output)

    def row(self, epoch: int, train_loss: float | None) -> dict[str, Any]:
        """One line of `metrics.jsonl`."""
        done = len(self.feed) * epoch
        return {
            "epoch": epoch,
            "train_loss": train_loss,
            **self._counts(epoch),
            **self._moved(epoch),
            **self.evaluate(),
            "train_seconds": self.seconds,
            "samples_per_second": done / self.seconds if self.seconds else None,
            "alignment": self.measure(),
            **({} if self.steps is None else {"steps": self.steps.why or "captured"}),
        }

    def _counts(self, epoch: int) -> dict[str, float | None]:
        """Of the epoch that was trained; of the start, when nothing was, none."""
        if self.counted is None:
            return {}
        found: dict[str, Counted | None] = {"train_accuracy_percent": self.counted}
        if self.run.adversarial is not None:
            found["train_clean_accuracy_percent"] = self.clean
        return {name: counted.percent if epoch and counted else None for name, counted in found.items()}

    def _moved(self, epoch: int) -> dict[str, bool]:
        """Whether a hidden block has changed since the last row. Says once, and why, if none ever did.

        Feedback that learns from 0 has taught nothing in the first step, so one step is too early to say.
        """
        moved = self.movement.moved()
        if not epoch or moved is None:
            return {}
        steps = -(-len(self.feed) // self.run.batch_size)
        before = self.rows[-1]["epoch"] if self.rows else epoch - 1
        first = before * steps < 2 <= epoch * steps
        if first and not moved and not any(row.get("moved") for row in self.rows):
            warn_unmoved(self.run.method, epoch, self.learner, self.feed.first(PROBE), self.loss.of_output)
        return {"moved": moved}

    # ------------------------------------------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        random = {"torch": torch.get_rng_state(), "shuffle": self.shuffle.get_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "learner": dict(self.learner.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state(),
            "random": random,
            "next": self.next,
            "rows": self.rows,
            "looks": None if self.looks is None else [self.looks.steps, self.looks.records],
            "errors": self.errors,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state. The random states come last, since building the rest has drawn numbers."""
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.restore(state["schedule"])
        self.rows, self.seconds, self.errors = state["rows"], state["seconds"], state.get("errors", [])
        self.next = state.get("next", len(self.rows))  # version 0.1 had a row for each epoch
        if self.looks is not None:
            self.looks.steps, self.looks.records = state["looks"]
        self.movement.begin()
        self.shuffle.set_state(state["random"]["shuffle"])
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)
