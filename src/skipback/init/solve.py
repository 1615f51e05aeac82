"""Solve: the weights of one layer that turn a given gradient at its output into a given one at its input.

A dense layer sends D (rows, out) back as D W; a convolution as its transpose. Both are linear in W:

    find W (out, in)   with   A(D) W = G   in the least squares, and of all such W the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from skipback.routes.transported import Convolution

CHUNK = 2**22
"""Numbers of A(D) in memory at a time."""


def least_squares(rows: Iterable[tuple[Tensor, Tensor]], tolerance: float) -> Tensor:
    """The smallest X (K, J) of all that minimise |A X - G|: pinv(A) G, with A and G given in chunks of rows.

    Chunks are folded into a triangle by QR, which loses no digits, unlike the product A^T A.

    Args:
        rows: chunks of A (., K) and G (., J).
        tolerance: singular values of A, and of G, below this share of the largest one are rounding, and count as 0.
            In G too: what small singular values of A divide would come out as large as what is wanted.
    """
    left: list[Tensor] = []
    right: list[Tensor] = []
    for A, G in rows:
        left, right = [torch.cat([*left, A])], [torch.cat([*right, G])]
        if left[0].shape[0] > left[0].shape[1]:
            Q, R = torch.linalg.qr(left[0])
            left, right = [R], [Q.T @ right[0]]
    X: Tensor = torch.linalg.pinv(left[0], rtol=tolerance) @ _rounded_off(right[0], tolerance)
    return X


def _rounded_off(G: Tensor, tolerance: float) -> Tensor:
    U, s, V = torch.linalg.svd(G, full_matrices=False)
    kept: Tensor = (U * s.where(s > tolerance * s[0], 0)) @ V
    return kept


def dense(D: Tensor, G: Tensor, tolerance: float) -> Tensor:
    """W (out, in) for which D W = G.

    Args:
        D: gradient at the output, (..., out).
        G: wanted at the input, (..., in).
        tolerance: see `least_squares`.
    """
    return least_squares([(D.flatten(0, -2), G.flatten(0, -2))], tolerance)


def convolution(layer: Convolution, D: Tensor, G: Tensor, kernel: tuple[int, ...], tolerance: float) -> Tensor:
    """W (out, in / groups, *kernel) for which the transposed convolution of D with W is G; one problem per group.

    Args:
        layer: stride, padding, dilation and groups.
        D: gradient at the output, (N, out, *S).
        G: wanted at the input, (N, in, *S').
        kernel: its size.
        tolerance: see `least_squares`.
    """
    parts = zip(D.chunk(layer.groups, 1), G.chunk(layer.groups, 1), strict=True)
    solved = []
    for d, g in parts:
        X = least_squares(_rows(layer, d, g, kernel), tolerance)
        taps = X.reshape(d.shape[1], math.prod(kernel), g.shape[1]).transpose(1, 2)
        solved.append(taps.reshape(d.shape[1], g.shape[1], *kernel))
    return torch.cat(solved)


def _rows(layer: Convolution, D: Tensor, G: Tensor, kernel: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """One row for each sample and place at the input; one column for each output channel and tap of the kernel."""
    columns, places = D.shape[1] * math.prod(kernel), G.shape[2:].numel()
    samples = max(1, CHUNK // (columns * places), columns // places)  # a chunk flatter than a square folds slowly
    for d, g in zip(D.split(samples), G.split(samples), strict=True):
        A = _taps(layer, d, g.shape[2:], kernel).reshape(len(d), columns, places)
        yield A.transpose(1, 2).reshape(-1, columns), g.flatten(2).transpose(1, 2).reshape(-1, g.shape[1])


def _taps(layer: Convolution, D: Tensor, places: torch.Size, kernel: tuple[int, ...]) -> Tensor:
    """The transposed convolution of each channel of D by each tap of the kernel alone, (N out, taps, *S')."""
    one = Convolution(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=1)
    taps = math.prod(kernel)
    each = torch.eye(taps, dtype=D.dtype, device=D.device).reshape(1, taps, *kernel)
    channels = D.reshape(-1, 1, *D.shape[2:])
    return one.to_input(channels, torch.Size([len(channels), taps, *places]), each)
