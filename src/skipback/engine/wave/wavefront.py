"""The wavefront schedule: at tick k, layer l computes minibatch k - l.

An early signal is known when its minibatch enters, and every update is local. So minibatch i meets each layer with the
updates of minibatches 0 .. i - 1, as in the plain order: the numbers are those of `learner.step`.

    tick k     first block <- minibatch k     layer l of the stack <- k - l     head <- k - L - 1

A delayed signal (F3) reads the memory rows that the last visit of its samples wrote. If one of the samples is still in
flight, or the minibatch has another size, the minibatch waits until the wave has drained, L + 1 ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from skipback.core.records import BatchContext, Loss
from skipback.engine.wave.counts import shared_step_counts
from skipback.engine.wave.deferred import DeferredUpdate
from skipback.engine.wave.parts import WaveParts, parts
from skipback.engine.wave.stack import LayerStack
from skipback.engine.wave.visits import Visits
from skipback.learner import Learner
from skipback.step.batch_signal import BatchSignal, early_signal
from skipback.step.errors import error
from skipback.update import Update, check_one_by_one

WaveBatch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]
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
        TypeError: the update is none.
        ValueError: the method or the network has another form.
        RuntimeError: several processes train, or the method was taken off.
    """
    parts(learner, update, now=False)
    return Wavefront(learner, update)


class Wavefront:
    """Trains a stack of dense layers, each on another minibatch at a time; made by `wavefront`.

    Attributes:
        learner: the learner that it trains.
        update: steps the weights.
    """

    def __init__(self, learner: Learner, update: Update) -> None:
        self.learner, self.update = learner, update

    def epoch(self, batches: Iterable[WaveBatch], *, loss: Loss) -> Tensor:
        """Train on all minibatches. When it returns, every minibatch has passed every layer.

        Settings of the update (a learning rate's schedule) may change between epochs, not within one. If a minibatch is
        refused, the minibatches in flight are completed; if the loss fails, they are lost.

        Args:
            batches: (x, t, ids) of each minibatch; (x, t) if the signal needs no ids.
            loss: loss(output, target), as in `learner.step`.

        Returns:
            The loss of each minibatch, before its update (minibatches,).

        Raises:
            ValueError: the network is in eval mode, or has changed its form; the input of a known id has changed.
            IndexError: an id lies outside of the memory.
            RuntimeError: inside autocast or inference mode, several processes train, or the method was taken off.
        """
        found = parts(self.learner, self.update, now=True)
        self.update.bind(self.learner)
        check_one_by_one(self.update, "a wavefront")
        wave = _Wave(found, self.update, loss)
        with torch.no_grad(), wave.bound():
            try:
                for batch in batches:
                    wave.push(*batch)
            finally:  # complete the minibatches in flight, also if the next one is refused or cannot be read
                wave.drain()
        return torch.stack(wave.losses) if wave.losses else torch.empty(0)


class _Wave:
    """One epoch in progress.

    Attributes:
        low: the next layer of the stack for the newest minibatch in flight; L is the head.
        h: activations of the minibatches in flight, the newest first (minibatches, N, D).
        signals: their signals, in the same order (minibatches, N, C).
        sent: the same with targets and ids, the oldest first.
    """

    def __init__(self, parts: WaveParts, update: Update, loss: Loss) -> None:
        self.direct, self.first, self.head, self.loss = parts.direct, parts.first, parts.head, loss
        trained = [p for rule in (parts.first, *parts.stack, parts.head) for p in rule.parameters]
        self.counts = shared_step_counts(update, trained)
        self.update = DeferredUpdate(self.counts or update)
        feedback = parts.direct.feedback
        self.stack = LayerStack(parts.stack, torch.stack([feedback[block] for block in parts.blocks[1:]]))
        self.low = 0
        self.h: Tensor | None = None
        self.signals: Tensor | None = None
        self.sent: deque[BatchSignal] = deque()
        self.visits = None if parts.direct.memory is None else Visits(parts.direct.memory)
        self.losses: list[Tensor] = []

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Context in which the weights of the stack, and all step counts, are one tensor each."""
        with self.stack.bound(), nullcontext() if self.counts is None else self.counts.bound():
            yield

    def push(self, x: Tensor, t: Tensor, ids: Tensor | None = None) -> None:
        """Start one more minibatch, and advance all others by one layer."""
        context = BatchContext(t, ids)
        if self.h is not None and self.h.shape[1] != x.shape[0]:
            self.drain()
        if self.visits is not None and ids is not None and self.visits.record(ids, within=len(self.sent)):
            self.drain()
        self.direct.check_inputs(x, context)
        signal = early_signal(self.direct, context)
        self.sent.append(signal)
        self._tick((x, signal))

    def drain(self) -> None:
        """Advance until no minibatch is in flight."""
        while self.sent:
            self._tick(None)

    def _tick(self, entering: tuple[Tensor, BatchSignal] | None) -> None:
        """Advance every minibatch in flight by one layer, deepest layer first.

        Each layer consumes what the one before it produced at the previous tick.
        """
        try:
            h, signals = self._behind()
            self.low, self.h, self.signals = self.low + 1, h, signals
            if entering is not None:
                self._enter(*entering)
            self.update.flush()
        except BaseException:
            self.sent.clear()  # the minibatches in flight are lost: a later drain must not advance them
            raise

    def _enter(self, x: Tensor, signal: BatchSignal) -> None:
        """Run, teach and update the first block on a minibatch, which becomes the newest one in flight."""
        y = self.first.run(x)
        self.first.learn(signal.teaching(0, y), self.update, may_overwrite=True)
        self.low = 0
        self.h, self.signals = _before(y, self.h), _before(signal.signal, self.signals)

    def _behind(self) -> tuple[Tensor | None, Tensor | None]:
        """Run head and stack. Returns the outputs of the layers, and the signals of their minibatches."""
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
        """Finish the oldest minibatch: loss, memory, and the head's update by its exact gradient."""
        sent = self.sent.popleft()
        assert sent.context.target is not None
        y = self.head.run(h)
        value, e = error(self.loss, y, sent.context.target, 1.0)
        self.direct.remember(y, sent.context, sent.target)
        self.head.learn(e, self.update)
        self.losses.append(value)


def _before(newest: Tensor, rest: Tensor | None) -> Tensor:
    """Put one tensor in front of a stack of tensors."""
    return newest.unsqueeze(0) if rest is None else torch.cat([newest.unsqueeze(0), rest])
