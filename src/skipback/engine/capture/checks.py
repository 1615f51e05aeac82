"""Checks before the first step: whether the data fit."""

from __future__ import annotations

import torch
from torch import Tensor

from skipback.learner import Learner


def check_data(learner: Learner, x: Tensor, t: Tensor, batch: int) -> None:
    """Refuse data on another device, x and t of different lengths, and more samples than the memory has rows."""
    where = next(learner.net.parameters()).device
    for name, held in (("x", x), ("t", t)):
        if held.device != where:
            raise ValueError(f'{name} lies on {held.device}, the network on {where}: pass {name}.to("{where}")')
    if len(x) != len(t) or len(x) == 0:
        raise ValueError(f"x has {len(x)} samples and t {len(t)}: there must be one target for each, and at least one")
    if not 1 <= batch <= len(x):
        raise ValueError(f"batch is {batch}: it must lie in 1 to {len(x)}, the number of samples")
    if learner.memory is not None and len(learner.memory.rows) < len(x):
        raise ValueError(
            f"the memory was made for {len(learner.memory.rows)} samples, and there are {len(x)}: pass memory={len(x)}"
        )


def check_order(order: Tensor, samples: int) -> None:
    """Refuse an order that is no vector of sample ids: on CUDA an id out of range would end the process."""
    if not isinstance(order, Tensor):
        raise ValueError(
            f"order is a {type(order).__name__}: it must be a tensor of ids, e.g. torch.randperm({samples})"
        )
    if order.dim() != 1 or order.dtype != torch.int64 or not 1 <= len(order) <= samples:
        raise ValueError(
            f"order has shape {tuple(order.shape)} and dtype {order.dtype}: it must be a row of 1 to {samples} ids, "
            f"int64, e.g. torch.randperm({samples})"
        )
    low, high = torch.stack(torch.aminmax(order)).tolist()
    if not 0 <= low <= high < samples:
        raise ValueError(f"ids reach from {low} to {high}, but the data has samples 0 to {samples - 1}")
