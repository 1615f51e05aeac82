"""The rank pipeline: activations go from rank to rank during an epoch; broadcasts at its end."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

AHEAD = 2
"""How many activations a rank may have in flight before it waits for the next rank."""


class RankPipeline:
    """Sends and receives for one rank.

    Args:
        rank: of this process.
        world: number of ranks.
        seconds: how long one wait for another rank may take.
    """

    def __init__(self, rank: int, world: int, seconds: float) -> None:
        self.rank, self.world, self.seconds = rank, world, seconds
        self.sent: deque[tuple[Tensor, dist.Work]] = deque()  # holds the activations in flight, which must not be freed

    @property
    def last(self) -> bool:
        """Whether this is the rank with the head."""
        return self.rank == self.world - 1

    def send(self, y: Tensor, tag: int) -> None:
        """Start to send an activation to the next rank."""
        if len(self.sent) == AHEAD:
            self._finish_send()
        y = y.contiguous()
        with self._waiting("send to", self.rank + 1):
            work = dist.isend(y, self.rank + 1, tag=tag)
        assert work is not None
        self.sent.append((y, work))

    def flush(self) -> None:
        """Wait until every sent activation has arrived."""
        while self.sent:
            self._finish_send()

    def _finish_send(self) -> None:
        _, work = self.sent.popleft()
        with self._waiting("send to", self.rank + 1):
            self._wait(work)

    def expect(self, room: Tensor, tag: int) -> tuple[Tensor, dist.Work]:
        """Start to receive the activation with this tag from the previous rank, into `room`."""
        with self._waiting("receive from", self.rank - 1):
            work = dist.irecv(room, self.rank - 1, tag=tag)
        assert work is not None
        return room, work

    def arrived(self, coming: tuple[Tensor, dist.Work]) -> Tensor:
        """Wait for an expected activation, and return it."""
        room, work = coming
        with self._waiting("receive from", self.rank - 1):
            self._wait(work)
        return room

    def spread(self, tensor: Tensor, owner: int) -> Tensor:
        """Broadcast the owner's tensor; overwrites `tensor` on the other ranks."""
        if self.world > 1:
            with self._waiting("receive from", owner):
                work = dist.broadcast(tensor, owner, async_op=True)
                assert work is not None
                self._wait(work)
        return tensor

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """All-gather: the tensor of every rank, in the order of the ranks."""
        every = [torch.empty_like(tensor) for _ in range(self.world)]
        with self._waiting("meet", None):
            work = dist.all_gather(every, tensor, async_op=True)
            assert work is not None
            self._wait(work)
        return every

    def _wait(self, work: dist.Work) -> None:
        work.wait(timedelta(seconds=self.seconds))

    @contextlib.contextmanager
    def _waiting(self, what: str, peer: int | None) -> Iterator[None]:
        whom = "the others" if peer is None else f"rank {peer}"
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} could not {what} {whom}, for which it waits {self.seconds:g} s at most: it has "
                "failed (see its own error), or has other batches (seed the loader's generator alike on all ranks)"
            ) from error
