"""Training accuracy as it trains: counted from the outputs that each step has anyway, before its update.

A step's outputs are those of training mode (dropout, batch statistics), each of weights that are a little older; a pass
over the whole training set afterwards, in eval mode, is `--score-train`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Counted:
    """Counts rows, and those whose largest output is their class; on the device, so that a recorded step counts too.

    Args:
        device: of the outputs.
        rows: from outputs and targets of a batch to those that count.
    """

    def __init__(self, device: torch.device, rows: Rows) -> None:
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self.rows = rows

    def __call__(self, y: Tensor, t: Tensor) -> None:
        """Count one batch: outputs y (N, C), classes t (N,) or one-hot (N, C)."""
        right = hits(*self.rows(y, t))
        self.right.add_(right.sum())
        self.seen.add_(len(right))

    def reset(self) -> None:
        """Begin an epoch."""
        self.right.zero_()
        self.seen.zero_()

    def take(self, right: Tensor, seen: int) -> None:
        """What was counted elsewhere, for all members of a batched net at once."""
        self.right.copy_(right)
        self.seen.fill_(seen)

    @property
    def percent(self) -> float:
        """The share of right rows since the reset, in percent."""
        return 100 * int(self.right) / int(self.seen) if int(self.seen) else float("nan")

    @property
    def error(self) -> float:
        """The share of wrong rows since the reset; NaN if there was none. Waits for the device."""
        right, seen = int(self.right), int(self.seen)
        return (seen - right) / seen if seen else float("nan")


def hits(y: Tensor, t: Tensor) -> Tensor:
    """Which rows are right: outputs y (..., C), classes t (...) or one-hot (..., C)."""
    return y.argmax(-1) == (t.argmax(-1) if t.is_floating_point() else t)
