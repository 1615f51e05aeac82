"""Targets as matrices: one row for each row of the output, and which of them are taught."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOT_TAUGHT = -100
"""A class that says "this row is not taught", as torch's `ignore_index`."""


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


def masked(target: Tensor, known: Tensor | None, mask: Tensor) -> Tensor:
    """Which rows of a target (R, C) are taught (R, 1): those that a mask names, of those that are known to be.

    Raises:
        ValueError: the mask has another number of rows.
    """
    if mask.numel() != len(target):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} says which rows are taught, and the output has {len(target)} "
            "rows: pass one value for each sample, or for each position of a sequence"
        )
    rows = mask.reshape(-1, 1).to(target.device, torch.bool)
    return rows if known is None else rows & known


def output_shape(target: Tensor, rows: int, width: int, dims: int) -> tuple[int, ...]:
    """The shape that the output of a pass will have, from its target, and the rows of that as a matrix."""
    if dims < 3:
        return rows, width
    if dims == 3:
        return len(target), rows // max(len(target), 1), width
    return len(target), width, *(target.shape[1:] if target.dim() == dims - 1 else target.shape[2:])
