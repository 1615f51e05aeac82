"""Signals: WHAT is sent to every port, a matrix (N, C).

A signal is a frozen record, called on `SignalInputs`. It has the sign and the batch scaling of dL/dy for the loss that
the user passed; a paper that differs says so through `Scaled` in its own file. Wrappers (`Scaled`, `Signed`) take any
signal, so they combine freely. Signals that read a memory of earlier visits are in `delayed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from skipback.core.records import Needs, SignalInputs
from skipback.memory import Memory

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


class Signal(ABC):
    """What is sent to every port. Subclasses are final, frozen records.

    A law that every signal obeys: row n of the result depends on row n of the inputs alone, and where `scales` is true,
    c times the gradient gives c times the signal. `skipback.testing.check_signal` checks it.
    """

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the signal looks at; it is early if that is neither the output nor the gradient."""

    @property
    def one_signed(self) -> bool:
        """Whether the entries all have one sign (targets do): feedback columns then need both signs."""
        return False

    @property
    def scales(self) -> bool:
        """Whether it grows with what the loss is multiplied with, as a gradient does (and a sign, or a target, not)."""
        return False

    @property
    def means(self) -> bool:
        """Whether it is divided by the number of rows, as the gradient of a mean loss is."""
        return False

    @abstractmethod
    def __call__(self, step: SignalInputs) -> Tensor:
        """Return the signal (N, C) for one step."""

    def memory(self, outputs: int) -> Memory | None:
        """Return the per-sample memory that the signal reads, if it has one."""
        return None

    def advice(self, target: Tensor) -> Iterator[str]:
        """Sentences about targets (N, C) with which this signal runs, but is not what was meant."""
        yield from ()


@dataclass(frozen=True)
class LossGradient(Signal):
    """e = dL/dy: the error of direct feedback alignment, exact for any loss."""

    needs: ClassVar[Needs] = Needs.GRADIENT
    scales: ClassVar[bool] = True

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.gradient is not None
        return step.gradient


@dataclass(frozen=True)
class Target(Signal):
    """t, the target itself: one-hot for classes (the signal of DRTP)."""

    needs: ClassVar[Needs] = Needs.TARGET
    one_signed: ClassVar[bool] = True

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.target is not None
        return step.target


@dataclass(frozen=True)
class Zero(Signal):
    """0: nothing is taught below the head. Gives the gradients of `shallow`, as zeros."""

    needs: ClassVar[Needs] = Needs.GRADIENT

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.gradient is not None
        return torch.zeros_like(step.gradient)


@dataclass(frozen=True)
class OutputError(Signal):
    """link(y) - t, per sample: dL/dy without the batch scaling, for softmax + CE, sigmoid + BCE or identity + MSE/2.

    Called on (output, target) through `record`, it is also what a delayed signal stores (F3's "error").
    """

    link: Link = softmax
    needs: ClassVar[Needs] = Needs.TARGET | Needs.OUTPUT

    def record(self, output: Tensor, target: Tensor) -> Tensor:
        """Return link(y) - t."""
        return self.link(output) - target

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.output is not None
        assert step.target is not None
        return self.record(step.output, step.target)

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
class Wrapper(Signal):
    """A signal made of another one: what it does not say otherwise is that of the inner signal."""

    signal: Signal

    @property
    @override
    def needs(self) -> Needs:
        return self.signal.needs

    @property
    @override
    def one_signed(self) -> bool:
        return self.signal.one_signed

    @property
    @override
    def scales(self) -> bool:
        return self.signal.scales

    @property
    @override
    def means(self) -> bool:
        return self.signal.means

    @override
    def memory(self, outputs: int) -> Memory | None:
        return self.signal.memory(outputs)

    @override
    def advice(self, target: Tensor) -> Iterator[str]:
        return self.signal.advice(target)


@dataclass(frozen=True)
class Scaled(Wrapper):
    """factor * signal, divided by the batch size N if `mean`: the sign and sum-or-mean quirks of a paper, as data."""

    factor: float = 1.0
    mean: bool = False

    @property
    @override
    def means(self) -> bool:
        return self.mean or self.signal.means

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        inner = self.signal(step)
        return inner * (self.factor / len(inner) if self.mean else self.factor)


@dataclass(frozen=True)
class Signed(Wrapper):
    """sign(signal): one bit per output (sDFA). A sign does not see what the loss is multiplied with."""

    scales: ClassVar[bool] = False
    means: ClassVar[bool] = False

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        return self.signal(step).sign()
