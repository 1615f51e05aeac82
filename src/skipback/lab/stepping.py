"""How a run trains on one batch: by the learner's step, and what some papers do before it.

Each way is a small object around another one: caps on the norms of the weights, then an adversarial batch, then the
step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from skipback.adversaries import adversarial
from skipback.core.method import Method
from skipback.core.records import Loss, Watch
from skipback.lab.config import Run
from skipback.lab.data.pipeline_rows import Batch
from skipback.lab.errors import LabError
from skipback.learner import Learner
from skipback.update import Update


class Step(Protocol):
    """Trains on one batch."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """Train. Returns the mean loss, before the update."""


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """How the loss of a batch is reduced: its mean, or its sum over batch and outputs.

    Attributes:
        mean: the mean loss(output, target).
        terms: from targets to the count K of what is averaged.
        told: whether the sum is a mean whose factor K is told to the method, which an early signal and feedback that
            learns need; else the loss itself is the sum, as for published updates that sum anyway.
        summed: whether it is a sum at all.
    """

    mean: Loss
    terms: Callable[[Tensor], int]
    summed: bool = False
    told: bool = True

    def loss(self, y: Tensor, t: Tensor) -> Tensor:
        """What is differentiated, but for `scale`."""
        value = self.mean(y, t)
        return value * self.terms(t) if self.summed and not self.told else value

    def scale(self, t: Tensor) -> float:
        """What it is multiplied with, and the method is told."""
        return float(self.terms(t)) if self.summed and self.told else 1.0

    def whole(self, y: Tensor, t: Tensor) -> Tensor:
        """The mean or the sum, all of it."""
        return self.loss(y, t) * self.scale(t)

    def reported(self, value: Tensor, t: Tensor) -> Tensor:
        """The mean, of a value of `loss`."""
        return value / self.terms(t) if self.summed and not self.told else value


def told(method: Method, *, published: bool) -> bool:
    """Whether a factor of the loss is told to a method.

    A published signal that is made of outputs and targets (softmax(y) - t of each sample) is a sum over the batch
    already, and a factor would sum it twice.
    """
    return not published or method.base.sees_scale


def untold(reduced: Reduced, method: Method) -> Reduced:
    """The same loss where no factor can be told to a method.

    Raises:
        LabError: the method needs to be told.
    """
    if reduced.summed and reduced.told and not method.base.sees_scale:
        raise LabError(
            "--reduction sum: not with --together for a signal that is known before the loss, which must be told of it"
        )
    return dataclasses.replace(reduced, told=False)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """`learner.step`."""

    learner: Learner
    update: Update
    reduced: Reduced
    watch: Watch | None
    how: dict[str, Any]

    def __call__(self, batch: Batch) -> Tensor:
        """Make the step."""
        t, reduced = batch.t, self.reduced
        loss = reduced.loss if reduced.summed else reduced.mean  # which has a closed form
        scale, rest = reduced.scale(t), {"ids": batch.ids, "watch": self.watch, **self.how}
        value = self.learner.step(batch.inputs, t, loss=loss, update=self.update, scale=scale, **rest)
        return reduced.reported(value, t)


@dataclass(frozen=True, kw_only=True)
class Adding:
    """A step by `backward` that adds to the gradients that are there, updates by the sum, and clears them."""

    learner: Learner
    update: Update
    reduced: Reduced
    watch: Watch | None

    def __call__(self, batch: Batch) -> Tensor:
        """Make the step."""
        learner, reduced, t = self.learner, self.reduced, batch.t
        self.update.bind(learner)
        scale = reduced.scale(t)
        y = learner(*batch.inputs, target=t, ids=batch.ids, scale=scale)
        value = reduced.loss(y, t)
        (value * scale).backward()
        with torch.no_grad():
            if self.watch is not None:
                self.watch(y, t)
            parameters = tuple(learner.parameters())
            self.update.apply(parameters, [p.grad for p in parameters])
            self.update.finish()
        learner.zero_grad()
        return reduced.reported(value.detach(), t)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Another step, on inputs that were moved to where the loss grows.

    Attributes:
        clean: looks at the outputs of the clean batch.
        keep: whether the gradients of the clean batch are kept.
    """

    inner: Step
    learner: Learner
    reduced: Reduced
    clean: Watch | None
    eps: float
    keep: bool

    def __call__(self, batch: Batch) -> Tensor:
        """Move the inputs, and make the step."""

        def loss(y: Tensor, t: Tensor) -> Tensor:
            if self.clean is not None:
                with torch.no_grad():
                    self.clean(y, t)
            return self.reduced.whole(y, t)

        x = adversarial(self.learner, batch.x, batch.t, loss, self.eps, keep_gradients=self.keep)
        return self.inner(dataclasses.replace(batch, x=x))


@dataclass(frozen=True, kw_only=True)
class Capped:
    """Another step, after the norms of the weights were capped (Hinton 2012; dpnn's `maxParamNorm`, before each step).

    Attributes:
        out: of the weights into each unit (the rows of a matrix).
        into: of the weights out of each unit or channel below (its columns).
    """

    inner: Step
    learner: Learner
    out: float | None
    into: float | None

    @torch.no_grad()
    def cap(self) -> None:
        """Shrink what is longer."""
        for p in self.learner.net.parameters():
            for dim, limit in ((0, self.out), (1, self.into)):
                if p.dim() > 1 and limit is not None:
                    p.renorm_(2, dim, limit)

    def __call__(self, batch: Batch) -> Tensor:
        """Cap, and make the step."""
        self.cap()
        return self.inner(batch)


def step_of(
    run: Run,
    learner: Learner,
    update: Update,
    reduced: Reduced,
    *,
    watch: Watch | None,
    clean: Watch | None,
    **how: Any,
) -> Step:
    """The step of a run.

    Args:
        run: a complete configuration.
        learner: what is trained.
        update: what changes it.
        reduced: the loss.
        watch: counts, on what is trained.
        clean: counts, on the batch as it was before it was made adversarial.
        how: of `learner.step`: its precision, whether it compiles.
    """
    step: Step = Plain(learner=learner, update=update, reduced=reduced, watch=watch, how=how)
    if run.keep_clean_gradients:
        step = Adding(learner=learner, update=update, reduced=reduced, watch=watch)
    if run.adversarial is not None:
        keep, eps = run.keep_clean_gradients, run.adversarial
        step = Adversarial(inner=step, learner=learner, reduced=reduced, clean=clean, eps=eps, keep=keep)
    if run.max_in_norm is not None or run.max_out_norm is not None:
        step = Capped(inner=step, learner=learner, out=run.max_out_norm, into=run.max_in_norm)
    return step
