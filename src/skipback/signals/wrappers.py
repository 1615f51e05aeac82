"""Wrappers: signals made of another signal. They take any, so they combine freely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from skipback.core.records import Needs, SignalInputs
from skipback.core.signals import Signal
from skipback.kinds import must_be
from skipback.memory import Memory
from skipback.signals.errors import is_distribution


@dataclass(frozen=True)
class Wrapper(Signal):
    """A signal made of another one: what it does not say otherwise is that of the inner signal."""

    signal: Signal

    def __post_init__(self) -> None:
        must_be("signal", self.signal, Signal, "a Signal, as LossGradient()")

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


@dataclass(frozen=True)
class Ternarised(Wrapper):
    """sign(s_c) where |s_c| exceeds `threshold` times the sample's largest entry, else 0: three levels, for optics.

    Such hardware is that of Launay et al. 2020, arXiv 2012.06373; the rule relative to the largest entry is ours, as it
    does not depend on the scaling of the loss.
    """

    threshold: float = 0.1
    scales: ClassVar[bool] = False
    means: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        must_be("threshold", self.threshold, (int, float), "a number")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"the threshold is a share of the largest entry, 0 to 1, got {self.threshold}")

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        s = self.signal(step)
        return s.sign() * (s.abs() > self.threshold * s.abs().amax(1, keepdim=True))


@dataclass(frozen=True)
class Masked(Wrapper):
    """t * signal: only the entry of the true class is sent (F3's "one-hot" variants). For classes only."""

    one_signed: ClassVar[bool] = True

    @property
    @override
    def needs(self) -> Needs:
        return self.signal.needs | Needs.TARGET

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.target is not None
        return step.target * self.signal(step)

    @override
    def advice(self, target: Tensor) -> Iterator[str]:
        yield from self.signal.advice(target)
        if not is_distribution(target):
            yield (
                "a masked (one-hot) signal multiplies by the target, which here is no one-hot class: in a regression "
                "the signal would be target times error"
            )
