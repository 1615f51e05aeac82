"""Feedback: the rule, and its tensors, that turn a signal (N, C) into teaching for one port (N, *P).

Fixed feedback is drawn once. Learned feedback is a parameter: `learner.parameters()` has it, the same backward that
teaches the blocks gives it a gradient (from its `lesson`), and any optimizer steps it. Decay and Jacobians do not grow
with the loss: under accumulation or a GradScaler, say `learner(x, scale=...)`. Other structures than a matrix for each
port are in `structures.py`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from skipback.draws import Draw, Uniform
from skipback.types import PortSpec

Parts = tuple[Tensor, ...]
"""The tensors that one port's feedback is made of. Two ports may hold the same tensor."""


class Sees(enum.Flag):
    """What a feedback looks at beside the signal."""

    NOTHING = 0
    ACTIVITY = enum.auto()
    JACOBIAN = enum.auto()
    RELAY = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a feedback sees of one step at its port. Only the fields that its `sees` names are filled.

    Attributes:
        port: where it teaches.
        signal: what was sent, (N, C); for `gradient` as if the loss was not scaled.
        activity: h, the port (N, *P), detached.
        jacobian: an estimate of the batch mean of dy/dh, (C, *P), from random directional derivatives.
        relayed: the tangents of this port (C, N, *P) in the C directions B_1[c] at the first port.
    """

    port: PortSpec
    signal: Tensor
    activity: Tensor | None = None
    jacobian: Tensor | None = None
    relayed: Tensor | None = None


class Feedback(ABC):
    """How a signal reaches the ports. The tensors live in the learner; the record only knows what to do with them.

    Laws that every feedback obeys, checked by `skipback.testing.check_feedback`: row n of the teaching depends on row n
    of the lesson alone; tensors come from the generator alone, of the port's dtype and device, so that equal seeds give
    equal bits; nothing that is passed in is written; `project` and `gradient` keep nothing from call to call; `matrix`
    is (C, *P); and where `homogeneous` is true, c > 0 times the signal gives c times the teaching. Where it is not, the
    signal is projected as if the loss was not scaled, and the teaching scaled after it.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        owner = [next(k for k, c in enumerate(cls.__mro__) if name in vars(c)) for name in ("project", "homogeneous")]
        if owner[0] < owner[1]:
            cls.homogeneous = False  # type: ignore[assignment,method-assign]  # what was true of another `project`

    @property
    def homogeneous(self) -> bool:
        """Whether project(c * signal) = c * project(signal) for c > 0. To be said again by whoever says `project`."""
        return False

    @property
    def shares_positions(self) -> bool:
        """Whether all positions (N, T, D) or places (N, D, *S) of a port are taught by one (C, D), at any size."""
        return False

    @property
    def learns(self) -> bool:
        """Whether its tensors are parameters, which the optimizer must know."""
        return False

    @property
    def sees(self) -> Sees:
        """What it looks at beside the signal."""
        return Sees.NOTHING

    @property
    def tangents(self) -> int:
        """How many random directions its Jacobian is estimated from, one more forward pass each."""
        return 1

    @abstractmethod
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[Parts]:
        """Return the tensors of each port."""

    @abstractmethod
    def project(self, lesson: Lesson, parts: Parts) -> Tensor:
        """Return the teaching (N, *P) of one port."""

    def gradient(self, lesson: Lesson, parts: Parts) -> Parts:
        """Return what the optimizer descends, for each of the parts. Learned feedback only."""
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def matrix(self, port: PortSpec, parts: Parts) -> Tensor:
        """Return B (C, *P), the matrix that it acts as."""
        eye = torch.eye(port.outputs, dtype=port.dtype, device=parts[0].device)  # they may have moved since the start
        return self.project(Lesson(port=port, signal=eye), parts)


def drawn(draw: Draw, port: PortSpec, generator: Generator) -> Tensor:
    """A tensor (C, *P) filled by a draw, in the port's dtype and on its device."""
    flat = draw(port.outputs, port.size, generator)
    return flat.reshape(port.outputs, *port.shape).to(port.device, port.dtype)


def projected(signal: Tensor, B: Tensor) -> Tensor:
    """Signal @ B: (N, C) and (C, *P) give (N, *P)."""
    flat = signal.to(B.dtype) @ B.flatten(1)
    return flat if B.dim() == 2 else flat.reshape(signal.shape[0], *B.shape[1:])


def correlation(signal: Tensor, lesson: Lesson, like: Tensor) -> Tensor:
    """signal^T h: (N, C) and the activity (N, *P) give (C, *P), of the shape and dtype of `like`."""
    assert lesson.activity is not None
    return (signal.to(like.dtype).T @ lesson.activity.flatten(1).to(like.dtype)).reshape(like.shape)


@dataclass(frozen=True)
class Matrix(Feedback):
    """teaching = signal @ B, with a matrix B (C, *P) of its own for each port.

    Attributes:
        draw: how B starts.
    """

    draw: Draw = field(default_factory=Uniform)
    homogeneous = True

    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[Parts]:
        """See `Feedback`."""
        return [(drawn(self.draw, port, generator),) for port in ports]

    def project(self, lesson: Lesson, parts: Parts) -> Tensor:
        """See `Feedback`."""
        return projected(lesson.signal, parts[0])

    def matrix(self, port: PortSpec, parts: Parts) -> Tensor:
        """See `Feedback`."""
        return parts[0]


@dataclass(frozen=True, kw_only=True)
class FromJacobian(Matrix):
    """A matrix that learns from estimates of the output Jacobian: its page says how.

    Attributes:
        draw: how B starts.
        tangents: random directions per step, one forward-mode pass each.
    """

    tangents: int = 1
    learns = True
    sees = Sees.JACOBIAN

    def __post_init__(self) -> None:
        if self.tangents < 1:
            raise ValueError(f"tangents must be 1 or more, got {self.tangents}")


@dataclass(frozen=True)
class Fixed(Matrix):
    """Fixed feedback: teaching = signal @ B, with B (C, D) filled once by a draw and never changed."""
