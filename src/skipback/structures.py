"""Structures: feedback that is stored as something else than one matrix for each port, and wrappers of any feedback.

Each acts as a matrix B (C, D) on the signal; `learner.feedback` shows it. They differ in what they store:

    Fixed        C D_l for each port           Kronecker    C (channels + space) for each port
    Sliced       C D_max for all ports         ConvShaped   C channels k^d for each port
    LowRank      r (C + D_l) for each port     Seeded       one number for each port
    PerPort      what its parts store: a feedback of its own for each port
    PerPosition  C D for each port (N, T, D), whatever T; C channels for (N, channels, ...), whatever the size
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from typing_extensions import override

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, Fixed, ForwardPasses, Lesson, Matrix, Sees, projected
from skipback.core.per_port import PerPort as PerPort
from skipback.draws import Draw, Gaussian, Uniform


def _on(port: PortSpec, part: Tensor) -> Tensor:
    return part.to(port.device, port.dtype)


@dataclass(frozen=True)
class Sliced(Feedback):
    """One matrix R (C, D_max) for all ports: B_l is its first D_l columns, times sqrt(D_max / D_l) if `rescale`.

    Ports of one width have the same feedback. TinyDFA's is `Sliced()`; that of principled DFA, in which every B_l has
    an expected squared norm of 1, is `Sliced(UnitNorm(), rescale=True)`.

    Attributes:
        draw: fills R.
        rescale: gives each B_l the expected norm of R.
    """

    draw: Draw = field(default_factory=Uniform)
    rescale: bool = False
    homogeneous = True

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        widest = {C: max(p.size for p in ports if p.outputs == C) for C in {p.outputs: None for p in ports}}
        shared = {C: _on(ports[0], self.draw(C, width, generator)) for C, width in widest.items()}
        return [(shared[port.outputs],) for port in ports]

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        (R,), port = parts, lesson.port
        scale = math.sqrt(R.shape[1] / port.size) if self.rescale else 1.0
        return projected(lesson.signal * scale, R[:, : port.size].unflatten(1, port.shape))


@dataclass(frozen=True)
class LowRank(Feedback):
    """B = P Q with P (C, r) and Q (r, D): teaching in at most r directions, for large outputs such as vocabularies.

    The entries of B have the variance of `Gaussian()`, 1/D.

    Attributes:
        rank: r; no more than C or D are used.
    """

    rank: int = 10
    homogeneous = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank must be 1 or more, got {self.rank}")

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        return [self._factors(port, generator) for port in ports]

    def _factors(self, port: PortSpec, generator: Generator) -> FeedbackTensors:
        r = min(self.rank, port.outputs, port.size)
        P, Q = Gaussian(r**-0.5)(port.outputs, r, generator), Gaussian()(r, port.size, generator)
        return _on(port, P), _on(port, Q.reshape(r, *port.shape))

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        P, Q = parts
        return projected(lesson.signal.to(P.dtype) @ P, Q)

    @override
    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        return projected(*parts)


@dataclass(frozen=True)
class Kronecker(Feedback):
    """B[c, i, s] = A[c, i] S[c, s]: channels i times places s, for ports (channels, *space). Entries have variance 1/D.

    A port without space has A alone.
    """

    homogeneous = True

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        return [self._factors(port, generator) for port in ports]

    def _factors(self, port: PortSpec, generator: Generator) -> FeedbackTensors:
        channels = port.shape[0]
        A = _on(port, Gaussian()(port.outputs, channels, generator))
        if len(port.shape) == 1:
            return (A,)
        return A, _on(port, Gaussian()(port.outputs, port.size // channels, generator))

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        A, signal = parts[0], lesson.signal.to(parts[0].dtype)
        if len(parts) == 1:
            return projected(signal, A)
        return torch.einsum("nc,ci,cs->nis", signal, A, parts[1]).reshape(-1, *lesson.port.shape)

    @override
    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        B: Tensor = parts[0].unsqueeze(2) * parts[1].unsqueeze(1)
        return B.reshape(-1, *port.shape)


@dataclass(frozen=True)
class ConvShaped(Feedback):
    """The signal at every place, through a random convolution K (C, channels, k, ...), of the shape of a conv kernel.

    All places get the same teaching, but for those within k // 2 of the border. A port without space has a matrix.

    Attributes:
        kernel: k, odd; 1 is one weight for each output and channel.
        draw: fills K as a matrix (C, channels k^d).
    """

    kernel: int = 1
    draw: Draw = field(default_factory=Uniform)
    homogeneous = True

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"the kernel must be odd, 1 or more, got {self.kernel}")

    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        """The kernels.

        Raises:
            ValueError: a port has more than three dimensions of space.
        """
        return [(self._kernel(port, generator),) for port in ports]

    def _kernel(self, port: PortSpec, generator: Generator) -> Tensor:
        if len(port.shape) > 4:
            raise ValueError(f"port {port.name!r} {tuple(port.shape)} has more than three dimensions of space")
        shape = (port.shape[0], *[self.kernel] * (len(port.shape) - 1))
        return _on(port, self.draw(port.outputs, math.prod(shape), generator).reshape(port.outputs, *shape))

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        K, signal = parts[0], lesson.signal.to(parts[0].dtype)
        space = lesson.port.shape[1:]
        if not space:
            return projected(signal, K)
        spread = signal.reshape(*signal.shape, *[1] * len(space)).expand(*signal.shape, *space)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(space) - 1]
        teaching: Tensor = convolve(spread, K.transpose(0, 1), padding=self.kernel // 2)
        return teaching


@dataclass(frozen=True)
class Seeded(Feedback):
    """No storage: B[c, j] ~ U(-1/sqrt(D), 1/sqrt(D)) is a hash of its place and the port's key, made when it is needed.

    The same numbers on every device. B is made and used in pieces of some megabytes, and never as a whole.
    """

    homogeneous = True

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        keys = torch.randint(2**32, (len(ports),), generator=generator)
        return [(key.to(port.device),) for key, port in zip(keys, ports, strict=True)]

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        (key,), port, signal = parts, lesson.port, lesson.signal.to(lesson.port.dtype)
        if port.outputs * port.size <= PIECE:
            return projected(signal, self.matrix(port, parts))
        exact = signal.to(torch.promote_types(signal.dtype, torch.float32))  # half precision would round each sum
        teaching = exact.new_zeros(len(signal), port.size)
        for rows, columns in _pieces(port):
            B = _hashed(key, rows, columns, port)
            teaching[:, columns].addmm_(exact[:, rows], B.to(exact.dtype))
        return teaching.to(port.dtype).reshape(-1, *port.shape)

    @override
    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        B = torch.empty(port.outputs, port.size, dtype=port.dtype, device=parts[0].device)
        for rows, columns in _pieces(port):
            B[rows, columns] = _hashed(parts[0], rows, columns, port)
        return B.reshape(port.outputs, *port.shape)


PIECE = 2**18
"""Entries of a seeded B that exist at once: about ten megabytes, with what the hash needs."""


def _pieces(port: PortSpec) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of B, some at a time."""
    width = min(port.size, PIECE)
    height = PIECE // width
    for column in range(0, port.size, width):
        for row in range(0, port.outputs, height):
            yield slice(row, min(row + height, port.outputs)), slice(column, min(column + width, port.size))


def _hashed(key: Tensor, rows: slice, columns: slice, port: PortSpec) -> Tensor:
    """These entries of B."""
    row = torch.arange(rows.start, rows.stop, device=key.device).unsqueeze(1)
    place = row * port.size + torch.arange(columns.start, columns.stop, device=key.device)
    uniform: Tensor = _mixed(place ^ _mixed(key)).to(torch.float64) * 2**-31 - 1
    bound: float = port.size**-0.5
    return (uniform * bound).to(port.dtype)


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 on 32 bits (Appleby, public domain), in the lower half of 64."""
    mask = 2**32 - 1
    x = (x ^ (x >> 16)) * 0x85EBCA6B & mask
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & mask
    return x ^ (x >> 16)


@dataclass(frozen=True)
class PerPosition(Matrix):
    """One matrix B (C, D) for all positions of a port (N, T, D), or all places of a port (N, D, H, W), of any size.

    For outputs (N, C): each position is taught by its sample's signal. A port (N, D) has an ordinary matrix.

    Attributes:
        draw: fills B.
    """

    shares_positions = True


@dataclass(frozen=True)
class _Wrapper(Feedback):
    """Feedback made of another one: what it does not say otherwise is that of the inner feedback."""

    feedback: Feedback = field(default_factory=Fixed)

    @property
    @override
    def learns(self) -> bool:
        return self.feedback.learns

    @property
    @override
    def homogeneous(self) -> bool:
        return self.feedback.homogeneous

    @property
    @override
    def shares_positions(self) -> bool:
        return self.feedback.shares_positions

    @property
    @override
    def sees(self) -> Sees:
        return self.feedback.sees

    @property
    def tangents(self) -> int:
        """The random directions per step of the inner feedback, where it estimates a Jacobian; else 0."""
        count: int = getattr(self.feedback, "tangents", 0)
        return count

    @override
    def forward_mode(self, passes: ForwardPasses) -> Mapping[str, Tensor]:
        return self.feedback.forward_mode(passes)

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        return self.feedback.init(ports, generator)

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        return self.feedback.gradient(lesson, parts)

    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        """B of the inner feedback, which is linear."""
        return self.feedback.matrix(port, parts)


@dataclass(frozen=True)
class Normalised(_Wrapper):
    """Each sample's teaching gets the norm of its signal: m_n |s_n| / |m_n|. Only the direction is left to B."""

    homogeneous = _Wrapper.homogeneous

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        teaching = self.feedback.project(lesson, parts)
        flat = teaching.flatten(1)
        sent, arrived = (torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (lesson.signal.to(flat), flat))
        # the quotient first: the product of two small numbers is 0 long before they are, in half precision at 1e-4
        scaled: Tensor = flat / arrived.clamp_min(torch.finfo(flat.dtype).tiny) * sent
        return scaled.reshape(teaching.shape)


@dataclass(frozen=True)
class Gated(_Wrapper):
    """Each unit's teaching times g of what the port holds: m_n * g(h_n).

    With a weight layer itself for a block, the port is a_l and g stands where backprop has f' (augmented DFA).

    Attributes:
        gate: g, elementwise.
    """

    gate: Callable[[Tensor], Tensor] = torch.cos
    homogeneous = _Wrapper.homogeneous

    @property
    def sees(self) -> Sees:
        """The port, and what the inner feedback looks at."""
        return self.feedback.sees | Sees.ACTIVITY

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        assert lesson.activity is not None
        teaching = self.feedback.project(lesson, parts)
        gate: Tensor = self.gate(lesson.activity.to(teaching.dtype))
        return teaching * gate


@dataclass(frozen=True)
class UnitColumns(Matrix):
    """A matrix whose columns (what one unit hears of the C outputs) all have norm 1, whatever the draw."""

    draw: Draw = field(default_factory=Gaussian)

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        drawn = super().init(ports, generator)
        return [(B / B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny),) for (B,) in drawn]


def with_draw(feedback: Feedback, draw: Draw) -> Feedback:
    """The same feedback, started by another draw.

    Raises:
        ValueError: it is not filled by a draw.
    """
    if isinstance(feedback, _Wrapper):
        return replace(feedback, feedback=with_draw(feedback.feedback, draw))
    if is_dataclass(feedback) and any(one.name == "draw" for one in fields(feedback)):
        return replace(feedback, draw=draw)
    raise ValueError(f"{type(feedback).__name__} feedback has no choice of draw")
