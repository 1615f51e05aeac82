"""Feedback rank: in how many directions can the feedback of a port teach?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.aside import prepare


@dataclass(frozen=True, kw_only=True)
class FeedbackRank:
    """What was measured at one port.

    Attributes:
        port: the block's name.
        effective: (sum s^2)^2 / sum s^4 over the singular values s of B: k for k equal ones, towards 1 where one rules.
        rank: the number of singular values above rounding.
        largest: min(C, D), the most that both can be.
    """

    port: str
    effective: float
    rank: int
    largest: int


def feedback_rank(learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None) -> list[FeedbackRank]:
    """Measure the rank of every feedback B_l (C, D_l). Methods that have none give an empty list.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs, to find the blocks if they are not known.
        t: not used; every measure takes the same arguments.
        loss: not used.
        ids: for delayed signals.
    """
    prepare(learner, x, ids)
    return [_rank(port, B) for port, B in matrices(learner).items()]


def matrices(learner: Learner) -> dict[str, Tensor]:
    """The feedback of each port as a matrix (C, D), however it is stored."""
    if learner.direct is None:
        return {}
    return {port: B.detach().flatten(1).double() for port, B in learner.feedback.items()}


def participation(matrix: Tensor) -> float:
    """The effective rank (sum s^2)^2 / sum s^4 of a matrix, without its singular values; 0 for a matrix of zeros."""
    matrix = matrix / matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)  # fourth powers underflow early
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    square = float(gram.square().sum())
    return float(gram.trace()) ** 2 / square if square else 0.0


def _rank(port: str, B: Tensor) -> FeedbackRank:
    rank = int(torch.linalg.matrix_rank(B.float()))  # B was stored in float32 or less: its rounding is no direction
    return FeedbackRank(port=port, effective=participation(B), rank=rank, largest=min(B.shape))
