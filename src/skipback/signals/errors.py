"""Errors of the output, which also are what a delayed signal remembers; and the links between output and prediction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from skipback.core.records import Needs, SignalInputs
from skipback.core.signals import Signal
from skipback.kinds import must_call

Link = Callable[[Tensor], Tensor]
"""What turns the network's output into the prediction that the loss compares with the target."""


def identity(y: Tensor) -> Tensor:
    """The link of a regression under MSE: the output is the prediction."""
    return y


def softmax(y: Tensor) -> Tensor:
    """The link of cross-entropy: class probabilities."""
    return torch.softmax(y, dim=1)


sigmoid: Link = torch.sigmoid
"""The link of binary cross-entropy on logits."""


@dataclass(frozen=True)
class Zero(Signal):
    """0: nothing is taught below the head. Gives the gradients of `shallow`, as zeros."""

    needs: ClassVar[Needs] = Needs.GRADIENT

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.gradient is not None
        return torch.zeros_like(step.gradient)


class OfOutput(Signal):
    """A function of output (N, C) and target (N, C) alone, so that a delayed signal can store it."""

    needs: ClassVar[Needs] = Needs.TARGET | Needs.OUTPUT

    @abstractmethod
    def record(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the signal (N, C) of an output and a target."""

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.output is not None
        assert step.target is not None
        return self.record(step.output, step.target)


@dataclass(frozen=True)
class OutputError(OfOutput):
    """link(y) - t, per sample: dL/dy without the batch scaling, for softmax + CE, sigmoid + BCE or identity + MSE/2.

    Called on (output, target) through `record`, it is also what a delayed signal stores (F3's "error").
    """

    link: Link = softmax

    def __post_init__(self) -> None:
        must_call("link", self.link, "a function of the output, as signals.softmax")

    @override
    def record(self, output: Tensor, target: Tensor) -> Tensor:
        """Return link(y) - t."""
        return self.link(output) - target

    @override
    def advice(self, target: Tensor) -> Iterator[str]:
        return link_advice(self.link, target)


def link_advice(link: object, target: Tensor) -> Iterator[str]:
    """What to say of a softmax whose targets (N, C) are no class probabilities."""
    if not any(part is softmax for part in _inside(link)):
        return
    if target.shape[1] == 1:
        yield "softmax over one output is always 1, so this error is constant: use link=identity (MSE) or sigmoid (BCE)"
    elif not is_distribution(target):
        yield "the targets are not class probabilities, but the error uses softmax: use link=identity (MSE) or sigmoid"


def _inside(part: object) -> Iterator[object]:
    """A record, and all that its fields hold: a link may be made of others."""
    yield part
    for each in part if isinstance(part, tuple) else ():
        yield from _inside(each)
    for field in fields(part) if is_dataclass(part) and not isinstance(part, type) else ():
        yield from _inside(getattr(part, field.name))


def is_distribution(target: Tensor) -> bool:
    """Whether each row (N, C) holds class probabilities; a row of zeros is one that is not taught."""
    total = target.sum(1)
    one = torch.isclose(total, torch.ones_like(total), atol=1e-3)
    return bool((target >= 0).all()) and bool((one | (total == 0)).all())


@dataclass(frozen=True)
class OutputGradient(OfOutput):
    """dL/dz at z = link(y), for an explicit loss(z, t): what F3's "loss" variants store.

    With `per_sample` the gradient is multiplied by the batch size N, so a mean loss gives rows that do not depend on
    the batch in which a sample happened to be.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    link: Link = identity
    per_sample: bool = True

    def __post_init__(self) -> None:
        must_call("loss", self.loss, "a function of prediction and target")
        must_call("link", self.link, "a function of the output, as signals.softmax")

    @override
    def record(self, output: Tensor, target: Tensor) -> Tensor:
        """Return dL/dz, times N if `per_sample`."""
        gradient: Tensor = torch.func.grad(lambda z: self.loss(z, target))(self.link(output.detach()))
        return gradient * len(output) if self.per_sample else gradient

    @override
    def advice(self, target: Tensor) -> Iterator[str]:
        yield from link_advice((self.link, self.loss), target)
