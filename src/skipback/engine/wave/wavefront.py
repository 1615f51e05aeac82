"""The wavefront schedule: at tick k, layer l works on minibatch k - l.

An early signal is known when its minibatch enters, and every update is local. So minibatch i finds each layer changed
by the minibatches before i and by no other, which is the plain order: the numbers are those of `learner.step`.

    tick k     first block <- minibatch k     layer l of the stack <- k - l     head <- k - L - 1

A delayed signal (F3) reads what its samples left at their last visit. If one of them is still on its way, or a
minibatch has another size, it waits until the wave has run out, L + 1 ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from skipback.engine.learner import Learner
from skipback.engine.star import Given
from skipback.engine.step.checks import check_mode
from skipback.engine.step.errors import error
from skipback.engine.wave.counts import counted
from skipback.engine.wave.gathered import Gathered
from skipback.engine.wave.parts import Parts, check_cast, parts
from skipback.engine.wave.stack import Stack
from skipback.engine.wave.visits import Visits
from skipback.feedback import projected
from skipback.types import Loss
from skipback.update import Update, check_one_by_one

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]
"""Input, target, and ids for delayed signals."""


def wavefront(learner: Learner, *, update: Update) -> Wavefront:
    """Train a deep, narrow stack of dense layers with all layers at once.

        wave = skipback.wavefront(learner, update=skipback.update.adam())
        losses = wave.epoch(batches, loss=F.cross_entropy)

    Args:
        learner: of an early signal (DRTP, F3), on a plain `nn.Sequential`: a dense block, dense layers of one width
            with one activation, a dense head.
        update: as in `learner.step`; both may take turns on one learner, with the same update.

    Raises:
        ValueError: the method or the network has another form.
        RuntimeError: several processes train.
    """
    parts(learner)
    return Wavefront(learner, update)


class Wavefront:
    """See `wavefront`.

    Attributes:
        learner: what it trains.
        update: what changes the weights.
    """

    def __init__(self, learner: Learner, update: Update) -> None:
        self.learner, self.update = learner, update

    def epoch(self, batches: Iterable[Batch], *, loss: Loss) -> Tensor:
        """Train on all minibatches. When it returns, all have been through all layers.

        Settings of the update (a learning rate's schedule) may change between epochs, not within one. If a minibatch is
        refused, those before it are finished; if the loss fails, those that are on their way are lost.

        Args:
            batches: (x, t, ids) of each minibatch; (x, t) if the signal needs no ids.
            loss: loss(output, target), as in `learner.step`.

        Returns:
            The loss of each minibatch, before its update (minibatches,).

        Raises:
            ValueError: the network is in eval mode, or has changed its form; the input of a known id has changed.
            IndexError: an id lies outside of the memory.
            RuntimeError: inside autocast or inference mode, or several processes train.
        """
        if not self.learner.net.training:
            raise ValueError("a wavefront trains: call train() first")
        check_mode()
        self.update.bind(self.learner)
        check_one_by_one(self.update, "a wavefront")
        wave = _Wave(parts(self.learner), self.update, loss)
        with torch.no_grad(), wave.bound():
            try:
                for batch in batches:
                    wave.push(*batch)
            finally:  # a minibatch that is refused, or cannot be read, does not stop those before it half way
                wave.drain()
        return torch.stack(wave.losses) if wave.losses else torch.empty(0)


class _Wave:
    """One epoch in progress.

    Attributes:
        low: the layer of the stack that the newest minibatch on its way comes to next; L is the head.
        h: what it comes with, and behind it the older ones (minibatches, N, D).
        signals: of the same (minibatches, N, C).
        given: targets and ids of the same, and the targets as matrices, the oldest first.
    """

    def __init__(self, parts: Parts, update: Update, loss: Loss) -> None:
        self.star, self.first, self.head, self.loss = parts.star, parts.first, parts.head, loss
        trained = [p for rule in (parts.first, *parts.stack, parts.head) for p in rule.parameters]
        self.counted = counted(update, trained)
        self.update = Gathered(self.counted or update)
        feedback = [parts.star.feedback[block].detach() for block in parts.blocks]
        self.B, self.stack = feedback[0], Stack(parts.stack, torch.stack(feedback[1:]))
        check_cast(self.B.device)
        self.low = 0
        self.h: Tensor | None = None
        self.signals: Tensor | None = None
        self.given: deque[tuple[Given, Tensor]] = deque()
        self.visits = None if parts.star.memory is None else Visits(parts.star.memory)
        self.losses: list[Tensor] = []

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Inside, weights and counts lie in one tensor each."""
        with self.stack.bound(), nullcontext() if self.counted is None else self.counted.bound():
            yield

    def push(self, x: Tensor, t: Tensor, ids: Tensor | None = None) -> None:
        """Let one more minibatch in, and move all others on by one layer."""
        given = Given(t, ids)
        if self.h is not None and self.h.shape[1] != x.shape[0]:
            self.drain()
        if self.visits is not None and ids is not None and self.visits.meet(ids, within=len(self.given)):
            self.drain()
        self.star.check_views(x, given)
        signal, target = self.star.early(given)
        self.given.append((given, target))
        self._tick((x, signal))

    def drain(self) -> None:
        """Move on until no minibatch is on its way."""
        while self.given:
            self._tick(None)

    def _tick(self, entering: tuple[Tensor, Tensor] | None) -> None:
        """All parts work once: those behind first, as they take what those before left at the last tick."""
        try:
            h, signals = self._behind()
            self.low, self.h, self.signals = self.low + 1, h, signals
            if entering is not None:
                self._enter(*entering)
            self.update.flush()
        except BaseException:
            self.given.clear()  # what is on its way is lost, and must not move on
            raise

    def _enter(self, x: Tensor, signal: Tensor) -> None:
        """The first block works on a minibatch, which then is the newest one on its way."""
        y = self.first.run(x)
        self.first.learn(projected(signal, self.B), self.update, own=True)
        self.low = 0
        self.h, self.signals = _before(y, self.h), _before(signal, self.signals)

    def _behind(self) -> tuple[Tensor | None, Tensor | None]:
        """The head and the stack work. Returns what leaves the layers, and the signals that go along."""
        h, signals = self.h, self.signals
        if h is None or signals is None:
            return None, None
        count = h.shape[0]  # not len(), which torch answers in Python
        if self.low + count > self.stack.depth:
            self._finish(h[-1])
            h, signals, count = h[:-1], signals[:-1], count - 1
        if count == 0:
            return None, None
        return self.stack.work(self.low, h, signals, self.update), signals

    def _finish(self, h: Tensor) -> None:
        """The head works on the oldest minibatch: loss, memory, exact gradient."""
        given, target = self.given.popleft()
        assert given.target is not None
        y = self.head.run(h)
        value, e = error(self.loss, y, given.target, 1.0)
        self.star.remember(y, given, target)
        self.head.learn(e, self.update)
        self.losses.append(value)


def _before(newest: Tensor, rest: Tensor | None) -> Tensor:
    """One more in front of a stack."""
    return newest.unsqueeze(0) if rest is None else torch.cat([newest.unsqueeze(0), rest])
