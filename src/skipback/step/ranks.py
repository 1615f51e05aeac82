"""Ranks: average the gradients of each block over the processes while those of the other blocks are being computed.

As `DistributedDataParallel` does, so that a step leaves the same weights and buffers as it and `backward`:

    gradients   the mean of the ranks' own, each of the mean loss of its own batch: where batches differ in size, the
                samples of a small one count more. That is the gradient of the mean of the ranks' losses
    buffers     rank 0 broadcasts its buffers (running statistics) before each forward pass; each rank then adds its own
                batch to them, so save the buffers of rank 0

A rank stops waiting for another one after the timeout of the process group, `init_process_group(timeout=...)`, by
torch's default 30 minutes for gloo and 10 for NCCL; at once if the other process has died.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from skipback.update import Parameters, Update


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 if it trains alone."""
    return dist.get_rank() if world() > 1 else 0


def check_alike(tensors: Iterable[Tensor]) -> None:
    """Refuse to average the gradients of networks that differ.

    Args:
        tensors: weights and feedback of this rank.

    Raises:
        RuntimeError: the number, sizes, values or `requires_grad` of these tensors differ between ranks.
    """
    held = list(tensors)
    sums = [(t.detach().double().sum().item(), t.detach().double().norm().item()) for t in held]
    trained, size = sum(t.requires_grad for t in held), sum(t.numel() for t in held)
    values = [k * a + b for k, (a, b) in enumerate(sums, 1)]  # k: the order counts, too
    low = torch.tensor([len(held), trained, size, sum(values)], dtype=torch.float64, device=held[0].device)
    high = low.clone()
    with waiting():
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RuntimeError(
            "the ranks hold different networks, so the average of their gradients means nothing: build them from one "
            "seed (torch.manual_seed, and attach(seed=...)), or load one state on all ranks, before the first step"
        )


def spread(buffers: Iterable[Tensor]) -> None:
    """Broadcast the buffers of rank 0, one message for each dtype and device."""
    by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for buffer in buffers:
        by_type.setdefault((buffer.dtype, buffer.device), []).append(buffer)
    for held in by_type.values():
        message = torch.cat([b.detach().reshape(-1) for b in held])
        with waiting():
            dist.broadcast(message, 0)
        if rank() != 0:
            for buffer, part in zip(held, message.split([b.numel() for b in held]), strict=True):
                buffer.detach().copy_(part.view(buffer.shape))


class Ranks:
    """The state of one network's steps over all processes.

    Attributes:
        alike: the networks of all ranks have been compared.
        broken: a step has failed, or is under way.
    """

    def __init__(self) -> None:
        self.alike = self.broken = False

    def open(self, update: Update, net: nn.Module, feedback: Iterable[Sequence[Tensor]]) -> Averaged:
        """Begin a step of all ranks.

        Args:
            update: steps the weights.
            net: the network.
            feedback: the feedback tensors of each block; must be equal on all ranks, as the weights.

        Raises:
            RuntimeError: the networks differ; another rank has failed; or an earlier step of this rank has, whose
                gradients the other ranks still wait for and would mistake this step's for.
        """
        if self.broken:
            raise RuntimeError(BROKEN)
        if not self.alike:
            check_alike([*net.parameters(), *(part for parts in feedback for part in parts)])
            self.alike = True
        self.broken = True
        spread(net.buffers())
        return Averaged(update)

    def close(self, averaged: Averaged) -> None:
        """End the step: wait for the averaged gradients, and update the weights."""
        averaged.flush()
        self.broken = False


BROKEN = (
    "an earlier step was broken off by an error, so the ranks are no longer at the same one: start all of them again, "
    "from a saved state"
)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Explain torch's error when another rank does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {rank()} waited in vain for the other ranks: one of them has failed (see its own error), or has "
            "fewer or other batches. How long a rank waits is said by init_process_group(timeout=...)"
        ) from error


class Averaged(Update):
    """An update that averages each block's gradients over all processes, and applies the averages at `flush`.

    Args:
        update: applies the averaged gradients.
    """

    def __init__(self, update: Update) -> None:
        super().__init__(update.make)
        self.update = update
        self.sent: list[tuple[Parameters, Tensor, dist.Work | None]] = []

    @override
    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Start the all-reduce of these gradients, one message for each dtype.

        All ranks must send the same messages in the same order, so `None` is sent as zeros.
        """
        full = [torch.zeros_like(p) if g is None else _dense(g) for p, g in zip(parameters, gradients, strict=True)]
        for dtype in dict.fromkeys(g.dtype for g in full):
            pairs = [(p, g) for p, g in zip(parameters, full, strict=True) if g.dtype == dtype]
            message = torch.cat([g.reshape(-1) for _, g in pairs])  # a copy: autograd may return one tensor twice
            with waiting():
                work = dist.all_reduce(message, async_op=True)
            self.sent.append(([p for p, _ in pairs], message, work))

    def flush(self) -> None:
        """Wait for the messages in the order of sending, and apply their averages."""
        sent, self.sent, count = self.sent, [], world()
        for parameters, message, work in sent:
            if work is not None:
                with waiting():
                    work.wait()
            parts = (message / count).split([p.numel() for p in parameters])
            self.update.apply(parameters, [g.view(p.shape) for p, g in zip(parameters, parts, strict=True)])
        self.update.finish()


def _dense(g: Tensor) -> Tensor:
    return g if g.layout is torch.strided else g.to_dense()
