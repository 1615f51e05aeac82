"""Signals: WHAT is sent to every port, a matrix (N, C).

A signal is a frozen record, called on `SignalInputs`. It has the sign and the batch scaling of dL/dy for the loss that
the user passed; a paper that differs says so through `Scaled` in its own file. These two are the pure cases; all
others, and wrappers that take any signal, are in `skipback.signals`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from skipback.core.records import Needs, SignalInputs
from skipback.memory import Memory


class Signal(ABC):
    """What is sent to every port. Subclasses are final, frozen records.

    Laws that every signal obeys, checked by `skipback.testing.check_signal`: it reads the fields of a step that its
    `needs` name, and no other; what it sends is (N, C), of the dtype of what it reads; row n depends on sample n and on
    N alone; c times the gradient gives c times the signal if `scales`, and else the same signal, which the engine then
    scales like the loss; it has a memory if, and only if, it needs ids; nothing that is passed in is written, nothing
    is drawn from a global random state, and nothing is stored from call to call.
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
