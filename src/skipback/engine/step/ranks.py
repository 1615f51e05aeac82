"""Ranks: average the gradients of each block over the processes while the others are still being computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from skipback.update import Parameters, Update


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 if it trains alone."""
    return dist.get_rank() if world() > 1 else 0


def check_alike(tensors: Iterable[Tensor]) -> None:
    """Refuse to average the gradients of networks that differ.

    Args:
        tensors: weights and feedback, on each rank.

    Raises:
        RuntimeError: their number, sizes, values, or what is trained of them, are not the same on all ranks.
    """
    held = list(tensors)
    sums = [(t.detach().double().sum().item(), t.detach().double().norm().item()) for t in held]
    trained, size = sum(t.requires_grad for t in held), sum(t.numel() for t in held)
    values = [k * a + b for k, (a, b) in enumerate(sums, 1)]  # k: the order counts, too
    low = torch.tensor([len(held), trained, size, sum(values)], dtype=torch.float64, device=held[0].device)
    high = low.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RuntimeError(
            "the ranks hold different networks, so the average of their gradients means nothing: build them from one "
            "seed (torch.manual_seed, and attach(seed=...)), or load one state on all ranks, before the first step"
        )


class Averaged(Update):
    """An update that waits, until `flush`, for the average of each block's gradients over all processes.

    Args:
        update: what is done with it.
    """

    def __init__(self, update: Update) -> None:
        super().__init__(update.make)
        self.update = update
        self.sent: list[tuple[Parameters, Tensor, dist.Work | None]] = []

    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Send the gradients off, those of one type in one message.

        On all ranks in the same order, so `None` is sent as zeros.
        """
        full = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        for dtype in dict.fromkeys(g.dtype for g in full):
            pairs = [(p, g) for p, g in zip(parameters, full, strict=True) if g.dtype == dtype]
            message = torch.cat([g.reshape(-1) for _, g in pairs])  # a copy: autograd may give one tensor to two
            work = dist.all_reduce(message, async_op=True)
            self.sent.append(([p for p, _ in pairs], message, work))

    def flush(self) -> None:
        """Wait for all of them, in order, and do what was put off."""
        sent, self.sent, count = self.sent, [], world()
        for parameters, message, work in sent:
            if work is not None:
                work.wait()
            parts = (message / count).split([p.numel() for p in parameters])
            self.update.apply(parameters, [g.view(p.shape) for p, g in zip(parameters, parts, strict=True)])
