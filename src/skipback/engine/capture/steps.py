"""Steps: an epoch of training steps on data that live on the device, each step without Python.

    places <- 0 .. N-1
    each step    ids = order[places];  step(x[ids], t[ids], ids);  total += N loss;  places += N

The step advances its own `places`, so replaying one recording again and again is an epoch: index, forward, teaching,
update, F3's memory read and written. The numbers are those of `learner.step`, batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from skipback.core.records import Loss, Watch
from skipback.engine.capture.baked import baked
from skipback.engine.capture.checks import check_order
from skipback.engine.capture.guard import Guard
from skipback.engine.capture.recorder import Recorder, Thunk
from skipback.learner import Learner
from skipback.step.fit import check, missing
from skipback.step.traits import Traits
from skipback.update import Update

BatchTransform = Callable[[Tensor], Tensor]
"""From the rows of a batch to the network's input."""

WARM_UP = 3
"""Steps that run one by one before a recording, to initialise tensors such as the state of the optimizer."""


class Captured:
    """Trains on data of the device by whole epochs, by a recorded step where possible; made by `captured`.

    Attributes:
        learner: the learner that it trains.
        recorder: captures the steps; `None` if they run one by one.
        why: the reason why steps run one by one; `None` if they are captured.
    """

    def __init__(
        self,
        learner: Learner,
        x: Tensor,
        t: Tensor,
        *,
        batch: int,
        loss: Loss,
        update: Update,
        transform: BatchTransform | None,
        recorder: Recorder | None,
        refuse: bool,
        watch: Watch | None = None,
    ) -> None:
        self.learner, self.loss, self.update, self.recorder = learner, loss, update, recorder
        self.x, self.t, self.batch, self.transform, self.refuse = x, t, batch, transform, refuse
        self.watch = watch
        self.why = None if recorder is not None else f"the data lie on {x.device}, and only CUDA captures"
        self.order = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.places = torch.zeros(batch, dtype=torch.int64, device=x.device)
        kind = torch.promote_types(next(learner.net.parameters()).dtype, torch.float32)
        self.total = torch.zeros((), dtype=kind, device=x.device)
        self._made_of: object = None
        self._left = WARM_UP
        self._replay: Thunk | None = None

    def epoch(self, order: Tensor) -> Tensor:
        """Train on these samples, batch by batch; the last batch may be smaller, and then runs by itself.

        The host waits for the device only to check an `order` on the device, and to read the returned loss.

        Args:
            order: ids (K,), 1 <= K <= M, int64; `torch.randperm(M)` is an epoch, a slice of it a part of one.

        Returns:
            The mean loss of the samples, each before its update; on the device, ().

        Raises:
            ValueError: the order is no vector of ids of this data set, the network is in eval mode, or the host takes
                part in the step and that is refused (at the last step of the warm-up, which is complete).
        """
        check("step", self.learner, now=True)
        check_order(order, len(self.x))
        order = order.to(self.x.device)
        self.total.zero_()
        with nullcontext() if self.recorder is None else self._without_syncs():
            rest = order if self.recorder is None else self._full_batches(order)
            for ids in rest.split(self.batch) if len(rest) else ():
                self._step(ids)
        return self.total / len(order)

    def check(self) -> None:
        """Refuse a step that cannot be captured, unless there is no recorder; finds the blocks if they are not known.

        Raises:
            ValueError: the step cannot be captured.
        """
        if self.recorder is None:
            return
        if self.learner.route is None:
            self.learner.discover(self._inputs(self.order[: min(2, self.batch)]))
        why = missing("captured", Traits(self.learner, self.update), now=True)
        if why is not None:
            self._give_up(f"{why}; or train by learner.step")

    def _give_up(self, why: str) -> None:
        """Raise, or run all further steps one by one."""
        if self.refuse:
            raise ValueError(f"this step cannot be captured: {why}")
        self.why, self.recorder, self._replay = why, None, None

    def _full_batches(self, order: Tensor) -> Tensor:
        """Train on all full batches. Returns the ids that are left for steps one by one."""
        full = len(order) // self.batch
        self._ready()
        self.order[: len(order)].copy_(order)
        torch.arange(self.batch, out=self.places)
        for k in range(full):
            if self.recorder is not None and self._replay is None and self._left == 0:
                self._record(self.recorder)
            if self.recorder is None:
                return order[k * self.batch :]
            if self._replay is None:
                self._warm(self.recorder)
            else:
                self._replay()
        return order[full * self.batch :]

    def _ready(self) -> None:
        """Discard the recording if the state that it depends on has changed."""
        memory = self.learner.memory
        if memory is not None and not memory.all_seen:
            memory.all_seen = bool(memory.seen.all())  # once an epoch: a recorded step cannot wait for the device
        now = self._now()
        if now != self._made_of:
            self.check()
            self._made_of, self._left, self._replay = now, WARM_UP, None

    def _warm(self, recorder: Recorder) -> None:
        """Run one step without a recording; the last of the warm-up runs under the `Guard`."""
        self._left -= 1
        if self._left:
            recorder.warm(self._advance)
            return
        with Guard(self.x.device) as guard:
            recorder.warm(self._advance)
        if guard.found:
            self._made_of = None  # the next epoch checks again
            self._give_up(guard.said)

    def _record(self, recorder: Recorder) -> None:
        """Record one step. Recording runs no kernel, so no weight changes."""
        before = self._now()
        try:
            self._replay = recorder.record(self._advance)
        except RuntimeError as error:
            self._give_up(f"the device did not record it ({error})")
            return
        if self._now() != before:
            raise RuntimeError(
                "the step made new state while it was recorded, which each replay would make again: an optimizer must "
                f"have all of its state after {WARM_UP} steps"
            )
        self._made_of = before

    def _now(self) -> object:
        return baked(self.learner, self.update.bind(self.learner.parameters()))

    def _advance(self) -> None:
        """The recorded call: one step on the samples at `places`, then advance `places` by one batch."""
        self._step(self.order.index_select(0, self.places))
        self.places.add_(self.batch)

    def _step(self, ids: Tensor) -> None:
        t = self.t.index_select(0, ids)
        how: Any = {"loss": self.loss, "update": self.update, "watch": self.watch}
        value = self.learner.step(self._inputs(ids), t, ids=ids, **how)
        self.total.add_(value * len(ids))

    def _inputs(self, ids: Tensor) -> Tensor:
        rows = self.x.index_select(0, ids)
        return rows if self.transform is None else self.transform(rows)

    @contextmanager
    def _without_syncs(self) -> Iterator[None]:
        """Context in which the memory waits for nothing: `complete` was checked, and each id is one row of x."""
        memory = self.learner.memory
        if memory is None:
            yield
            return
        left, memory.may_sync, memory.input_checks_left = memory.input_checks_left, False, 0
        try:
            yield
        finally:
            memory.may_sync, memory.input_checks_left = True, left
