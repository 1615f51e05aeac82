"""Visits: which samples are in flight, so that no memory row is read before the sample's last visit has written it."""

from __future__ import annotations

import torch
from torch import Tensor

from skipback.memory import Memory, picked

NEVER = -(2**62)


class Visits:
    """Counts minibatches, and records the last one of each sample.

    Args:
        memory: the memory of these samples.
    """

    def __init__(self, memory: Memory) -> None:
        self.now = 0
        self.last = torch.full((len(memory.rows),), NEVER, device=memory.rows.device)

    def record(self, ids: Tensor, *, within: int) -> bool:
        """Record one more minibatch. Returns whether one of its samples was in the `within` minibatches before.

        Args:
            ids: the samples of the minibatch.
            within: number of minibatches in flight.
        """
        ids = ids.to(self.last.device, torch.int64)
        before = int(picked(self.last, ids).max())  # its own error for ids out of range
        self.last.index_fill_(0, ids, self.now)
        self.now += 1
        return before >= self.now - 1 - within
