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
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from skipback.blocks.cuts import Layout


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


# -------------------------------------------------------------------------------------- columns of several outputs


def joined_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape of several outputs side by side: the last dimension (channels of images) joined, or all flattened."""
    if len(shapes) == 1:
        return tuple(shapes[0])
    first, dim = shapes[0], channel_dim(shapes[0])
    if dim and all(_rest(shape) == _rest(first) for shape in shapes):  # vectors (N,) become the columns of a matrix
        return (*first[:dim], sum(shape[dim] for shape in shapes), *first[dim + 1 :])
    return (first[0], sum(math.prod(shape[1:]) for shape in shapes))


def channel_dim(shape: Sequence[int]) -> int:
    """The dimension along which outputs are joined: the last one, or the channels of an image."""
    return 1 if len(shape) > 3 else len(shape) - 1


def _rest(shape: Sequence[int]) -> tuple[int, ...]:
    dim = channel_dim(shape)
    return (*shape[:dim], -1, *shape[dim + 1 :])


def column_spans(shapes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each of several outputs, its columns (start, stop) in the rows of the joined one."""
    flat = len(joined_shape(shapes)) == 2
    widths = [math.prod(shape[1:]) if flat else shape[channel_dim(shape)] for shape in shapes]
    stops = [sum(widths[: k + 1]) for k in range(len(widths))]
    return [(stop - width, stop) for stop, width in zip(stops, widths, strict=True)]


Columns = tuple[tuple[tuple[int, int], ...], ...]
"""For each group of columns that a port's feedback has, the columns of the signal that are summed into it."""


def grouped(layout: Layout, output: Sequence[int]) -> tuple[int, ...]:
    """The shape of a joined output, with one set of columns for all outputs of one head."""
    if len(layout.groups) == len(layout.outputs):
        return tuple(output)
    one_of_each = joined_shape([layout.outputs[group[0]] for group in layout.groups])
    one_of_each = one_of_each if len(one_of_each) > 1 else (*one_of_each, 1)  # of vectors (N,) that were joined
    joined = joined_shape(list(layout.outputs.values()))
    return tuple(b if a != b else c for a, b, c in zip(joined, one_of_each, output, strict=True))


def columns(layout: Layout, lead: frozenset[str] | None) -> Columns | None:
    """The columns of the signal that teach a port which leads to these outputs; `None` for all of them.

    Outputs of one head share their columns, so that a block which is called once for each is taught alike.
    """
    groups = layout.groups
    if lead is None or (len(lead) == len(layout.outputs) and len(groups) == len(lead)):
        return None
    span = dict(zip(layout.outputs, column_spans(list(layout.outputs.values())), strict=True))
    return tuple(
        tuple(span[name] for name in group if name in lead) or ((-1, span[group[0]][1] - span[group[0]][0]),)
        for group in groups
    )
