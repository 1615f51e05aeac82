"""The records that travel: `Step` (what a signal may look at) and `PortSpec` (what a feedback must fit).

Shape letters used everywhere: N samples of a batch, C numbers per sample at the output, P the shape of one port
without its batch dimension, D the product of P.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""loss(output, target), one number; the output is the first floating-point tensor that the network returns."""


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
class Step:
    """One training step as a signal sees it. Only the fields that the signal's `needs` names are filled.

    Attributes:
        gradient: dL/dy (N, C), with the sign and the batch scaling of the loss that the user passed.
        output: y (N, C), detached.
        target: the target as a matrix (N, C), one-hot for class indices.
        memory: the rows of the per-sample memory that belong to this batch (N, C).
    """

    gradient: Tensor | None = None
    output: Tensor | None = None
    target: Tensor | None = None
    memory: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """Where teaching arrives: the output of one block.

    Attributes:
        name: the block's name, as in `net.named_modules()`.
        shape: P, the port's shape without the batch dimension (and without that of the positions).
        outputs: C, numbers per sample (or per position) at the network's output.
        dtype: what the feedback is stored in (the dtype of the network's parameters).
        device: where the port lives.
        positions: 1 if the port (N, T, *P) and the output (N, T, C) share the positions T of a sequence. Each position
            is then taught as a sample of its own, through one feedback: N stands for N T below. Otherwise 0.
        reader: the weight (D_next, D) of the dense layer that takes what leaves this port, for feedback that starts
            from it; `None` if another kind of module does, and after the start.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    dtype: torch.dtype
    device: torch.device
    positions: int = 0
    reader: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """D, the number of units at the port."""
        return math.prod(self.shape)


def as_matrix(target: Tensor, rows: Tensor) -> Tensor:
    """The target as a matrix of the output's shape (N, C) and dtype: one-hot for class indices, else the values.

    Args:
        target: (N,) integer class indices, or values of shape (N, ...) with C numbers per sample. For a sequence (N, T)
            indices.
        rows: the output as a matrix: (N, C); for a sequence (N T, V).

    Raises:
        ValueError: the target has another number of samples or values than the output.
    """
    return matrix_of(target, rows.shape, rows.dtype, rows.device)


def matrix_of(target: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same as `as_matrix`, for an output of this shape (N, C), dtype and device, before there is one."""
    count, classes = shape
    if not target.is_floating_point() and classes > 1 and (target.dim() == 1 or target.numel() == count):
        if target.numel() != count:
            raise ValueError(f"target has {target.numel()} samples, the output has {count}")
        try:
            index = target.reshape(-1, 1).to(device, torch.int64)
            return torch.zeros(count, classes, dtype=dtype, device=device).scatter_(1, index, 1.0)
        except RuntimeError:
            raise ValueError(
                f"target holds classes from {int(target.min())} to {int(target.max())}, but the output has "
                f"{classes}: class indices lie in 0 to {classes - 1} (no ignore_index)"
            ) from None
    if target.numel() != count * classes:
        raise ValueError(
            f"target of shape {tuple(target.shape)} does not match the output of shape {tuple(shape)}: "
            "pass class indices of shape (N,), or values of the output's shape"
        )
    return target.reshape(shape).to(device, dtype)


def row_width(shape: Sequence[int]) -> int:
    """C, the numbers of an output (N, ...) that belong together; V for a sequence (N, T, V): positions are rows."""
    return shape[-1] if len(shape) == 3 else math.prod(shape[1:])
