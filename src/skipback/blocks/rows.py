"""Rows: which rows of a port belong to which rows of the output.

The output is read as a matrix (R, C): a vector (N, C) has one row per sample, a sequence (N, T, V) one per position, an
image (N, C, H, W) one per place. A port is read as rows (R, *P) likewise, so that feedback only ever sees matrices:

    per sample     one row for each sample, whatever the port's shape (also frames (N F, ...) of N samples)
    per position   port (N, T, *P) and output (N, T, V) share the positions T
    per place      port (N, D, *S) and output (N, C, *S'): the errors of the places of S' that one place of S covers
                   are summed, and shared out where S is finer, so the total error stays
    spread         one signal per sample, sent to every position (N, T, D) or place (N, D, *S) of the port
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override


def output_rows(y: Tensor) -> Tensor:
    """The output as a matrix (R, C)."""
    if y.dim() == 2:
        return y
    return (y.movedim(1, -1) if y.dim() > 3 else y).reshape(-1, row_width(y.shape))


def from_rows(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The reverse of `output_rows`: a matrix (R, C) in the shape of the output."""
    if len(shape) <= 3:
        return rows.reshape(tuple(shape))
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def row_width(shape: Sequence[int]) -> int:
    """C, the numbers of an output that make one row: V of a sequence (N, T, V), the channels of an image."""
    return 1 if len(shape) < 2 else shape[-1] if len(shape) <= 3 else shape[1]


@dataclass(frozen=True)
class PortRows:
    """One row for each sample. `batch` is the dimension of the port that counts samples; `frames` rows belong to each.

    Attributes:
        batch: 1 for a time-first port (T, N, D).
        frames: F of a port (N F, *P), whose frames belong to one sample each.
    """

    batch: int = 0
    frames: int = 1

    per_sample: ClassVar[bool] = True
    """Whether a sample is one row."""

    def shape(self, port: Sequence[int]) -> tuple[int, ...]:
        """P, the shape of a row, from the port's own."""
        rest = tuple(port[: self.batch]) + tuple(port[self.batch + 1 :])
        return (self.frames, *rest) if self.frames > 1 else rest

    def outputs(self, output: Sequence[int]) -> int:
        """C, the numbers at the output that teach one row."""
        return math.prod(output[1:])

    def of_port(self, h: Tensor, spec_shape: Sequence[int]) -> Tensor:
        """The port as rows (R, *P)."""
        return (h.movedim(self.batch, 0) if self.batch else h).reshape(-1, *spec_shape)

    def of_signal(self, signal: Tensor, output: Sequence[int], port: Sequence[int]) -> Tensor:
        """The signal (rows of the output, C) as one row (R, C) for each row of the port."""
        if len(output) > 3:
            signal = from_rows(signal, (*output[:1], signal.shape[1], *output[2:]))
        return signal.reshape(output[0], -1)

    def to_port(self, teaching: Tensor, port: Sequence[int]) -> Tensor:
        """The teaching (R, *P) in the shape of the port."""
        if not self.batch:
            return teaching.reshape(tuple(port))
        rest = (*port[: self.batch], *port[self.batch + 1 :])
        return teaching.reshape(-1, *rest).movedim(0, self.batch)

    def fits(self, port: Sequence[int], spec_shape: Sequence[int], output: Sequence[int]) -> bool:
        """Whether a port of this pass still has the rows that its feedback was made for."""
        lead = len(port) > self.batch and port[self.batch] == output[0] * self.frames
        return lead and self.shape(port) == tuple(spec_shape)


PER_SAMPLE = PortRows()


@dataclass(frozen=True)
class PositionRows(PortRows):
    """A row for each position that port (N, T, *P) and output (N, T, V) share."""

    per_sample: ClassVar[bool] = False

    @override
    def shape(self, port: Sequence[int]) -> tuple[int, ...]:
        return tuple(port[2:])

    @override
    def outputs(self, output: Sequence[int]) -> int:
        return output[-1]

    @override
    def of_signal(self, signal: Tensor, output: Sequence[int], port: Sequence[int]) -> Tensor:
        return signal

    @override
    def fits(self, port: Sequence[int], spec_shape: Sequence[int], output: Sequence[int]) -> bool:
        return tuple(port[:2]) == tuple(output[:2]) and tuple(port[2:]) == tuple(spec_shape)


@dataclass(frozen=True)
class PlaceRows(PortRows):
    """A row for each place of a port (N, D, *S), taught by the errors at the same place of an output (N, C, *S')."""

    per_sample: ClassVar[bool] = False

    @override
    def shape(self, port: Sequence[int]) -> tuple[int, ...]:
        return (port[1],)

    @override
    def outputs(self, output: Sequence[int]) -> int:
        return output[1]

    @override
    def of_port(self, h: Tensor, spec_shape: Sequence[int]) -> Tensor:
        return h.movedim(1, -1).reshape(-1, *spec_shape)

    @override
    def of_signal(self, signal: Tensor, output: Sequence[int], port: Sequence[int]) -> Tensor:
        if tuple(port[2:]) == tuple(output[2:]):
            return signal
        dense = from_rows(signal, (*output[:1], signal.shape[1], *output[2:]))
        return output_rows(_pooled(dense, port[2:]) if len(port) > 2 else dense.flatten(2).sum(2))

    @override
    def to_port(self, teaching: Tensor, port: Sequence[int]) -> Tensor:
        return teaching.reshape(port[0], *port[2:], port[1]).movedim(-1, 1) if len(port) > 2 else teaching

    @override
    def fits(self, port: Sequence[int], spec_shape: Sequence[int], output: Sequence[int]) -> bool:
        return port[0] == output[0] and (port[1],) == tuple(spec_shape)


def _pooled(dense: Tensor, places: Sequence[int]) -> Tensor:
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(places) - 1]
    pooled: Tensor = pool(dense, tuple(places))
    return pooled * (math.prod(dense.shape[2:]) / math.prod(places))


@dataclass(frozen=True)
class SpreadRows(PortRows):
    """A row for each position of a port (N, T, D), or place of (N, D, *S): all get the sample's own signal."""

    per_sample: ClassVar[bool] = False

    @override
    def shape(self, port: Sequence[int]) -> tuple[int, ...]:
        return (port[1] if len(port) > 3 else port[-1],)

    @override
    def outputs(self, output: Sequence[int]) -> int:
        return row_width(output)

    @override
    def of_port(self, h: Tensor, spec_shape: Sequence[int]) -> Tensor:
        return (h.movedim(1, -1) if h.dim() > 3 else h).reshape(-1, *spec_shape)

    @override
    def of_signal(self, signal: Tensor, output: Sequence[int], port: Sequence[int]) -> Tensor:
        each = signal.reshape(output[0], -1, signal.shape[1]).sum(1) if len(output) > 2 else signal
        count = math.prod(port) // (port[0] * self.shape(port)[0])
        return each.repeat_interleave(count, 0)

    @override
    def to_port(self, teaching: Tensor, port: Sequence[int]) -> Tensor:
        if len(port) <= 3:
            return teaching.reshape(tuple(port))
        return teaching.reshape(port[0], *port[2:], port[1]).movedim(-1, 1)

    @override
    def fits(self, port: Sequence[int], spec_shape: Sequence[int], output: Sequence[int]) -> bool:
        return port[0] == output[0] and self.shape(port) == tuple(spec_shape)


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """Where teaching arrives: the output of one block.

    Attributes:
        name: the block's name, as in `net.named_modules()`.
        shape: P, the shape of one row of the port.
        outputs: C, numbers per row at the network's output.
        dtype: what the feedback is stored in (the dtype of the network's parameters).
        device: where the port lives.
        rows: what a row of this port is: a sample, a position of a sequence, a place of an image.
        reader: weight of the `nn.Linear` fed by this port, used to initialise feedback from weights (FWM). `None` if
            another module reads the port, and always `None` after initialisation.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    dtype: torch.dtype
    device: torch.device
    rows: PortRows = PER_SAMPLE
    reader: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """D, the number of units of one row."""
        return math.prod(self.shape)

    def of_port(self, h: Tensor) -> Tensor:
        """A port, or its teaching or gradient, as rows (R, *P)."""
        return self.rows.of_port(h, self.shape)

    @property
    def positions(self) -> int:
        """1 where the port has several rows per sample, each taught by itself; else 0."""
        return int(not self.rows.per_sample)

    def check(self, port: Tensor, version: int, output: Sequence[int]) -> None:
        """Refuse a port that no longer fits. Costs no synchronisation, and nothing under torch.compile but guards.

        Raises:
            ValueError: its rows, or those of the output, are of another size.
            RuntimeError: it was changed in place since it had this version.
        """
        if not self.fits(port, output):
            raise ValueError(
                self.misfit(port, f"the output has shape {tuple(output)}", "the batch must come first and")
            )
        self.check_unchanged(port, version)

    def check_unchanged(self, port: Tensor, version: int) -> None:
        """Refuse a port that was changed in place since it had this version (-1 under torch.compile, which tells none).

        Raises:
            RuntimeError: it was.
        """
        if version >= 0 and port._version != version:
            raise RuntimeError(
                f"the output of block {self.name!r} was changed in place after the cut, which did not happen in the "
                "forward pass that found the blocks: attach with an example that takes the same path, in training mode"
            )

    def fits(self, port: Tensor, output: Sequence[int]) -> bool:
        """Whether this port, and an output of this shape, are those that its feedback was made for."""
        return self.rows.fits(port.shape, self.shape, output) and self.rows.outputs(output) == self.outputs

    def misfit(self, port: Tensor, other: str, law: str) -> str:
        """What to say of a port that does not fit its feedback."""
        each = "sample" if self.rows.per_sample else "position"
        shared = "" if self.positions else " (structures.PerPosition() teaches positions and places of any number)"
        return (
            f"port {self.name!r} has shape {tuple(port.shape)}, its feedback teaches {tuple(self.shape)} per {each} "
            f"from {self.outputs} numbers, and {other}: {law} other sizes must not change{shared}"
        )
