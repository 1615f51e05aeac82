"""Feedback: the rule, and its tensors, that turn a signal (R, C) into teaching for the rows of one port (R, *P).

Fixed feedback is drawn once. Learned feedback is a parameter: `learner.parameters()` has it, the same backward that
teaches the blocks gives it a gradient (from its `Lesson`), and any optimizer steps it. Decay and Jacobians do not grow
with the loss: under accumulation or a GradScaler, say `learner(x, scale=...)`. Other structures than a matrix for each
port are in `structures.py`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from skipback.blocks import Layout
from skipback.blocks.specs import PortSpec
from skipback.draws import Draw, Uniform
from skipback.kinds import must_call
from skipback.streams import Stream

FeedbackTensors = tuple[Tensor, ...]
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
        signal: what was sent, (R, C); for `gradient` as if the loss was not scaled.
        activity: h, the rows of the port (R, *P), detached.
        jacobian: an estimate of the mean over rows of dy/dh, (C, *P), from random directional derivatives.
        relayed: the tangents of this port (C, R, *P) in the C directions B_1[c] at the first port.
    """

    port: PortSpec
    signal: Tensor
    activity: Tensor | None = None
    jacobian: Tensor | None = None
    relayed: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ForwardPasses:
    """What feedback needs to run the network in forward mode before a training pass (see `skipback.forward`).

    Attributes:
        net: the network.
        layout: where its ports are, and which outputs teach.
        args: positional inputs of this pass.
        kwargs: named inputs.
        ports: by block, what its feedback must fit.
        parts: by block, the tensors of its feedback.
        stream: of random directions, for feedback that sees a Jacobian.
    """

    net: nn.Module
    layout: Layout
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ports: Mapping[str, PortSpec]
    parts: Mapping[str, FeedbackTensors]
    stream: Stream | None


class Feedback(ABC):
    """How a signal reaches the ports. The tensors live in the learner; the record only knows what to do with them.

    Laws that every feedback obeys, checked by `skipback.testing.check_feedback`: row r of the teaching depends on row r
    of the lesson alone; tensors come from the generator alone, of the port's dtype and device, so that equal seeds give
    equal bits; nothing that is passed in is written; `project` and `gradient` store nothing from call to call; `matrix`
    is (C, *P); and where `homogeneous` is true, c > 0 times the signal gives c times the teaching. Where it is not, the
    signal is projected as if the loss was not scaled, and the teaching scaled after it.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        owner = [next(k for k, c in enumerate(cls.__mro__) if name in vars(c)) for name in ("project", "homogeneous")]
        if owner[0] < owner[1]:
            cls.homogeneous = False  # type: ignore[assignment,method-assign]  # what was true of another `project`

    @property
    def learns(self) -> bool:
        """Whether its tensors are parameters, which the optimizer must know."""
        return False

    @property
    def homogeneous(self) -> bool:
        """Whether project(c * signal) = c * project(signal) for c > 0. To be said again by whoever says `project`."""
        return False

    @property
    def shares_positions(self) -> bool:
        """Whether all positions (N, T, D) or places (N, D, *S) of a port are taught by one (C, D), at any size."""
        return False

    @property
    def sees(self) -> Sees:
        """What it looks at beside the signal."""
        return Sees.NOTHING

    def forward_mode(self, passes: ForwardPasses) -> Mapping[str, Tensor]:
        """Return the `jacobian` or `relayed` of each block's lesson. For feedback that sees one of them."""
        raise NotImplementedError(f"{type(self).__name__} sees no forward mode")

    @abstractmethod
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        """Return the tensors of each port."""

    @abstractmethod
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        """Return the teaching (R, *P) of one port."""

    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        """Return what the optimizer descends, for each of the parts. Learned feedback only."""
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        """Return B (C, *P), the matrix that it acts as. For a look: it may be far larger than what is stored."""
        eye = torch.eye(port.outputs, dtype=port.dtype, device=parts[0].device)  # they may have moved since the start
        return self.project(Lesson(port=port, signal=eye), parts)


def drawn(draw: Draw, port: PortSpec, generator: Generator) -> Tensor:
    """A tensor (C, *P) filled by a draw, in the port's dtype and on its device."""
    flat = draw(port.outputs, port.size, generator)
    return flat.reshape(port.outputs, *port.shape).to(port.device, port.dtype)


def projected(signal: Tensor, B: Tensor) -> Tensor:
    """Signal @ B: (R, C) and (C, *P) give (R, *P)."""
    flat = signal.to(B.dtype) @ B.flatten(1)
    return flat if B.dim() == 2 else flat.reshape(signal.shape[0], *B.shape[1:])


def correlation(signal: Tensor, lesson: Lesson, like: Tensor) -> Tensor:
    """signal^T h: (R, C) and the activity (R, *P) give (C, *P), of the shape and dtype of `like`."""
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

    def __post_init__(self) -> None:
        must_call("draw", self.draw, "a draw, as Uniform()")

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        return [(drawn(self.draw, port, generator),) for port in ports]

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        B = parts[0]
        signal = lesson.signal if lesson.signal.dtype == B.dtype else lesson.signal.to(B.dtype)
        return signal @ B if B.dim() == 2 else projected(signal, B)

    @override
    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        return parts[0]


@dataclass(frozen=True)
class Fixed(Matrix):
    """Fixed feedback: teaching = signal @ B, with B (C, D) filled once by a draw and never changed."""
