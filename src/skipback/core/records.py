"""The records that travel: what a signal may look at, what comes with an input, and what a feedback must fit.

Shape letters used everywhere: N samples of a batch, C numbers per row at the output, P the shape of one row of a port,
D the product of P, R the rows of a port (N samples, or all positions or places of N samples; see `rows`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skipback.core.rows import PER_SAMPLE, PortRows

Loss = Callable[[Any, Any], Tensor]
"""loss(output, target) -> one number. The output is the tensor that the network returns, or all that it returns if that
is more than one."""

Watch = Callable[[Any, Any], object]
"""watch(output, target): looks at what a loss gets in each step."""

NOT_TAUGHT = -100
"""A class that says "this row is not taught", as torch's `ignore_index`."""


class SkipbackWarning(UserWarning):
    """Something that runs, and is known not to be what was meant."""


class Needs(enum.Flag):
    """What a signal looks at. It is *early* when it needs neither the output nor the gradient."""

    NOTHING = 0
    TARGET = enum.auto()
    IDS = enum.auto()
    OUTPUT = enum.auto()
    GRADIENT = enum.auto()

    @property
    def early(self) -> bool:
        """Whether the signal is known before the forward pass has ended."""
        return not self & (Needs.OUTPUT | Needs.GRADIENT)


@dataclass(frozen=True, kw_only=True)
class SignalInputs:
    """One training step as a signal sees it. Only the fields that the signal's `needs` names are filled.

    Attributes:
        gradient: dL/dy (N, C), with the sign and the batch scaling of the loss that the user passed.
        output: y (N, C), detached.
        target: the target as a matrix (N, C), one-hot for class indices, zeros for class -100.
        memory: the rows of the per-sample memory that belong to this batch (N, C).
    """

    gradient: Tensor | None = None
    output: Tensor | None = None
    target: Tensor | None = None
    memory: Tensor | None = None


@dataclass(frozen=True, eq=False)
class BatchContext:
    """What comes with an input, for the method.

    Attributes:
        target: (N,) class indices, or values with C numbers per row.
        ids: (N,) position of each sample in the unshuffled training set.
        scale: what the loss is multiplied with.
        mask: (N,), or (N, T) for a sequence: which rows are taught; `None` for all.
    """

    target: Tensor | None = None
    ids: Tensor | None = None
    scale: float | Tensor = 1.0
    mask: Tensor | None = None


NO_CONTEXT = BatchContext()


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
        return int(self.rows is not PER_SAMPLE and not self.rows.per_sample)


def as_matrix(target: Tensor, rows: Tensor) -> Tensor:
    """The target as a matrix of the output's shape (R, C) and dtype: one-hot for class indices, else the values.

    Args:
        target: (N,) integer class indices, or values of shape (N, ...) with C numbers per row. For a sequence (N, T)
            indices, for an image (N, H, W). A row of class -100 is not taught: its one-hot row is all zeros.
        rows: the output as a matrix (R, C): a row for each sample, position or place.

    Raises:
        ValueError: the target has another number of samples or values than the output.
    """
    return matrix_of(target, rows.shape, rows.dtype, rows.device)[0]


def matrix_of(
    target: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The same as `as_matrix`, for an output of this shape (R, C), dtype and device, before there is one.

    Returns:
        The matrix, and which of its rows are taught (R, 1); `None` for all.
    """
    count, classes = shape
    if not target.is_floating_point() and classes > 1 and (target.dim() == 1 or target.numel() == count):
        if target.numel() != count:
            raise ValueError(f"target has {target.numel()} samples, the output has {count}")
        return _one_hot(target.reshape(-1, 1).to(device, torch.int64), classes, dtype)
    if target.numel() != count * classes:
        raise ValueError(
            f"target of shape {tuple(target.shape)} does not match the output of shape {tuple(shape)}: "
            "pass class indices of shape (N,), or values of the output's shape"
        )
    if target.dim() > 3:  # an image of values (N, C, H, W): its places are rows
        target = target.movedim(1, -1)
    return target.reshape(tuple(shape)).to(device, dtype), None


def _one_hot(index: Tensor, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    zeros = torch.zeros(len(index), classes, dtype=dtype, device=index.device)
    if index.is_cuda:  # there an index outside ends the process
        kept = index != NOT_TAUGHT
        return zeros.scatter_(1, index * kept, kept.to(dtype)), kept
    try:
        return zeros.scatter_(1, index, 1.0), None
    except RuntimeError:
        kept = index != NOT_TAUGHT
        if bool(((index >= 0) & (index < classes) | ~kept).all()):
            return zeros.scatter_(1, index.clamp_min(0), kept.to(dtype)), kept
        raise ValueError(
            f"target holds classes from {int(index.min())} to {int(index.max())}, but the output has {classes}: class "
            f"indices lie in 0 to {classes - 1}, or are {NOT_TAUGHT} for a row that is not taught"
        ) from None


def target_of(
    context: BatchContext, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The target of a batch as a matrix (R, C), and which of its rows are taught (R, 1); `None` for all.

    Raises:
        ValueError: target or mask have another number of rows than the output.
    """
    assert context.target is not None
    target, known = matrix_of(context.target, shape, dtype, device)
    if context.mask is None:
        return target, known
    if context.mask.numel() != len(target):
        raise ValueError(
            f"mask of shape {tuple(context.mask.shape)} says which rows are taught, and the output has {len(target)} "
            "rows: pass one value for each sample, or for each position of a sequence"
        )
    mask = context.mask.reshape(-1, 1).to(device, torch.bool)
    return target, mask if known is None else mask & known
