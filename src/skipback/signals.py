"""Signals: WHAT is sent to every port, a matrix (N, C).

A signal is a frozen record, called on a `Step`. It has the sign and the batch scaling of dL/dy for the loss that the
user passed; a paper that differs says so through `Scaled` in its own file. Wrappers (`Scaled`, `Signed`, `Masked`) take
any signal, so they combine freely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from skipback.memory import Initial, Memory, Record
from skipback.types import Needs, Step

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

    Laws that every signal obeys, checked by `skipback.testing.check_signal`: it reads the fields of a step that its
    `needs` name, and no other; what it sends is (N, C), of the dtype of what it reads; row n depends on sample n and on
    N alone; c times the gradient gives c times the signal if `scales`, and else the same signal, which the engine then
    scales like the loss; it has a memory if, and only if, it needs ids; nothing that is passed in is written, nothing
    is drawn from a global random state, and nothing is kept from call to call.
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

    @abstractmethod
    def __call__(self, step: Step) -> Tensor:
        """Return the signal (N, C) for one step."""

    def memory(self, outputs: int) -> Memory | None:
        """Return the per-sample memory that the signal reads, if it has one."""
        return None


@dataclass(frozen=True)
class LossGradient(Signal):
    """e = dL/dy: the error of direct feedback alignment, exact for any loss."""

    needs: ClassVar[Needs] = Needs.GRADIENT
    scales: ClassVar[bool] = True

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        assert step.gradient is not None
        return step.gradient


@dataclass(frozen=True)
class Target(Signal):
    """t, the target itself: one-hot for classes (the signal of DRTP)."""

    needs: ClassVar[Needs] = Needs.TARGET
    one_signed: ClassVar[bool] = True

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        assert step.target is not None
        return step.target


@dataclass(frozen=True)
class Zero(Signal):
    """0: nothing is taught below the head. Gives the gradients of `shallow`, as zeros."""

    needs: ClassVar[Needs] = Needs.GRADIENT

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
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

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        assert step.output is not None
        assert step.target is not None
        return self.record(step.output, step.target)


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

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        assert step.output is not None
        assert step.target is not None
        return self.record(step.output, step.target)


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
    def one_signed(self) -> bool:
        """Whether the first epoch sends bare targets."""
        return self.initial is minus_target or (isinstance(self.initial, ScaledTarget) and self.initial.shift == 0)

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        assert step.memory is not None
        return step.memory

    def memory(self, outputs: int) -> Memory:
        """See `Signal`."""
        return Memory(
            self.samples,
            outputs,
            record=self.of.record,
            initial=self.initial,
            dtype=self.dtype,
            device=self.device,
        )


@dataclass(frozen=True)
class Wrapper(Signal):
    """A signal made of another one: what it does not say otherwise is that of the inner signal."""

    signal: Signal

    @property
    def needs(self) -> Needs:
        """Those of the inner signal."""
        return self.signal.needs

    @property
    def one_signed(self) -> bool:
        """That of the inner signal."""
        return self.signal.one_signed

    @property
    def scales(self) -> bool:
        """That of the inner signal."""
        return self.signal.scales

    def memory(self, outputs: int) -> Memory | None:
        """That of the inner signal."""
        return self.signal.memory(outputs)


@dataclass(frozen=True)
class Scaled(Wrapper):
    """factor * signal, divided by the batch size N if `mean`: the sign and sum-or-mean quirks of a paper, as data."""

    factor: float = 1.0
    mean: bool = False

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        inner = self.signal(step)
        return inner * (self.factor / len(inner) if self.mean else self.factor)


@dataclass(frozen=True)
class Signed(Wrapper):
    """sign(signal): one bit per output (sDFA). A sign does not see what the loss is multiplied with."""

    scales: ClassVar[bool] = False

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        return self.signal(step).sign()


@dataclass(frozen=True)
class Ternarised(Wrapper):
    """sign(s_c) where |s_c| exceeds `threshold` times the sample's largest entry, else 0: three levels, for optics.

    Such hardware is that of Launay et al. 2020, arXiv 2012.06373; the rule relative to the largest entry is ours, as it
    does not depend on the scaling of the loss.
    """

    threshold: float = 0.1
    scales: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"the threshold is a share of the largest entry, 0 to 1, got {self.threshold}")

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        s = self.signal(step)
        return s.sign() * (s.abs() > self.threshold * s.abs().amax(1, keepdim=True))


@dataclass(frozen=True)
class Masked(Wrapper):
    """t * signal: only the entry of the true class is sent (F3's "one-hot" variants). For classes only."""

    one_signed: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """Those of the inner signal, and the target."""
        return self.signal.needs | Needs.TARGET

    def __call__(self, step: Step) -> Tensor:
        """See `Signal`."""
        assert step.target is not None
        return step.target * self.signal(step)
