"""Signals: WHAT is sent to every port. The pieces of `core.signals`, and those that read more than one visit or class.

`Delayed` sends what the same sample left in a per-sample memory at its last visit (F3); `OutputGradient`, `Masked` and
the initial memories are its options. `Ternarised` has three levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from skipback.core.records import Needs, SignalInputs
from skipback.core.signals import (
    Link,
    LossGradient,
    OutputError,
    Scaled,
    Signal,
    Signed,
    Target,
    Wrapper,
    Zero,
    identity,
    is_distribution,
    link_advice,
    sigmoid,
    softmax,
)
from skipback.memory import Initial, Memory, Record

__all__ = [
    "Delayed",
    "Initial",
    "Link",
    "LossGradient",
    "Masked",
    "OutputError",
    "OutputGradient",
    "Record",
    "Scaled",
    "ScaledTarget",
    "Signal",
    "Signed",
    "Target",
    "Ternarised",
    "Wrapper",
    "Zero",
    "identity",
    "minus_target",
    "sigmoid",
    "softmax",
    "untrained",
    "zeros",
]


@dataclass(frozen=True)
class OutputGradient(Signal):
    """dL/dz at z = link(y), for an explicit loss(z, t): what F3's "loss" variants store.

    With `per_sample` the gradient is multiplied by the batch size N, so a mean loss gives rows that do not depend on
    the batch in which a sample happened to be.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    link: Link = identity
    per_sample: bool = True
    needs: ClassVar[Needs] = Needs.TARGET | Needs.OUTPUT

    def record(self, output: Tensor, target: Tensor) -> Tensor:
        """Return dL/dz, times N if `per_sample`."""
        gradient: Tensor = torch.func.grad(lambda z: self.loss(z, target))(self.link(output.detach()))
        return gradient * len(output) if self.per_sample else gradient

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.output is not None
        assert step.target is not None
        return self.record(step.output, step.target)

    @override
    def advice(self, target: Tensor) -> Iterator[str]:
        yield from link_advice((self.link, self.loss), target)


def untrained(record: Record, target: Tensor) -> Tensor:
    """Initial memory: what an output of zeros would leave. For softmax that is 1/C - t, for identity -t."""
    return record(torch.zeros_like(target), target)


def minus_target(record: Record, target: Tensor) -> Tensor:
    """Initial memory -t: with it the first epoch is DRTP's (the F3 code; its sign is the opposite)."""
    return -target


def zeros(record: Record, target: Tensor) -> Tensor:
    """Initial memory 0: nothing is taught below the head before the second visit."""
    return torch.zeros_like(target)


@dataclass(frozen=True)
class ScaledTarget:
    """Initial memory -s (t - shift): s = 1/500 matches a memory of small gradients, shift = 1/C has both signs."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, record: Record, target: Tensor) -> Tensor:
        """Return the initial rows (N, C)."""
        return -self.scale * (target - self.shift)


@dataclass(frozen=True)
class Delayed(Signal):
    """M[ids]: what the same sample left at its last visit (F3). Early: known before the forward pass.

    Args:
        samples: number of training samples.
        of: the signal whose value is remembered at each visit.
        initial: what stands in before the first visit: `untrained`, `minus_target`, `zeros` or `ScaledTarget`.
        dtype: of the memory.
        device: of the memory; `None` follows the network.
    """

    samples: int
    of: OutputError | OutputGradient = field(default_factory=OutputError)
    initial: Initial = untrained
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"a delayed signal needs the number of training samples (1 or more), got {self.samples}")
        if not isinstance(self.of, OutputError | OutputGradient):
            raise TypeError(
                f"a delayed signal stores an OutputError or an OutputGradient, got {type(self.of).__name__}: wrap the "
                "delayed signal itself, e.g. Scaled(Delayed(samples), factor)"
            )

    needs: ClassVar[Needs] = Needs.TARGET | Needs.IDS

    @property
    @override
    def one_signed(self) -> bool:
        return self.initial is minus_target or (isinstance(self.initial, ScaledTarget) and self.initial.shift == 0)

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.memory is not None
        return step.memory

    @override
    def memory(self, outputs: int) -> Memory:
        return Memory(
            self.samples,
            outputs,
            record=self.of.record,
            initial=self.initial,
            dtype=self.dtype,
            device=self.device,
        )

    @override
    def advice(self, target: Tensor) -> Iterator[str]:
        return self.of.advice(target)


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
