"""The records that travel: what a signal may look at, and what comes with an input.

Shape letters used everywhere: N samples of a batch, C numbers per row at the output, P the shape of one row of a port,
D the product of P, R the rows of a port (N samples, or all positions or places of N samples; see `blocks.rows`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skipback.advice import SkipbackWarning as SkipbackWarning
from skipback.blocks.specs import PortSpec as PortSpec
from skipback.targets import as_matrix as as_matrix
from skipback.targets import matrix_of as matrix_of

Loss = Callable[[Any, Any], Tensor]
"""loss(output, target) -> one number. The output is the tensor that the network returns, or all that it returns if that
is more than one."""

Watch = Callable[[Any, Any], object]
"""watch(output, target): looks at what a loss gets in each step."""


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
