"""Delayed signals: what the same sample left in a memory at its last visit (F3), and how the memory starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from skipback.core.records import Needs, SignalInputs
from skipback.core.signals import Signal
from skipback.kinds import must_be
from skipback.memory import Initial, Memory, Record
from skipback.signals.errors import OutputError, OutputGradient


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
        must_be("memory", self.samples, int, "the number of training samples, a whole number")
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
