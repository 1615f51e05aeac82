"""Visits: which samples are on their way, so that none is read before what it left has been written."""

from __future__ import annotations

import torch
from torch import Tensor

from skipback.memory import Memory, picked

NEVER = -(2**62)


class Visits:
    """Counts minibatches, and knows when each sample came last.

    Args:
        memory: whose samples they are.
    """

    def __init__(self, memory: Memory) -> None:
        self.now = 0
        self.last = torch.full((len(memory.rows),), NEVER, device=memory.rows.device)

    def meet(self, ids: Tensor, *, within: int) -> bool:
        """Note one more minibatch. Returns whether one of its samples was in the last ones.

        Args:
            ids: its samples.
            within: how many minibatches back.
        """
        ids = ids.to(self.last.device, torch.int64)
        before = int(picked(self.last, ids).max())  # its own error for ids out of range
        self.last.index_fill_(0, ids, self.now)
        self.now += 1
        return before >= self.now - 1 - within
