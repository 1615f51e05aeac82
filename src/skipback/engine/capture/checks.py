"""Checks: data that do not fit, and reasons why a step cannot be captured that are known before it has run once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from skipback.engine.learner import Learner
from skipback.engine.step.ranks import world
from skipback.engine.stream import Stream
from skipback.feedback import Sees
from skipback.update import FusedAdam, Update, hooked


def check_data(learner: Learner, x: Tensor, t: Tensor, batch: int) -> None:
    """Refuse data that lie elsewhere, that are not of one length, or that the memory has no rows for."""
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
    """Refuse what is no row of ids of this data set: on CUDA an id outside of it would end the process."""
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


def reason(learner: Learner, update: Update) -> str | None:
    """Why a step of this learner cannot be captured; `None` if nothing speaks against it.

    Args:
        learner: whose blocks are known.
        update: what changes the weights; its optimizer is built if it was not.
    """
    device = next(learner.net.parameters()).device
    memory = learner.memory
    if world() > 1:
        return "several processes train, and average their gradients in each step"
    if torch.is_autocast_enabled(device.type):
        return "it runs inside autocast, which keeps copies of the weights: call it outside"
    if learner.anchor is not None:
        return "the method is anchored: the host counts its passes, and every few of them are another step"
    if any(isinstance(module, Stream) for module in learner.modules()):
        return "the method draws random directions in each step, from a stream that the host seeds"
    if learner.star is not None and Sees.RELAY in learner.star.sees:
        return "its feedback runs the network ahead of each step by function transforms, which were not seen to record"
    if memory is not None and memory.rows.device != device:
        return f"its memory lies on {memory.rows.device}, the network on {device}: make the method with device=None"
    return _of_update(learner, update)


def _of_update(learner: Learner, update: Update) -> str | None:
    update.bind(learner)
    return next((why for part in update.parts if (why := _of_part(part)) is not None), None)


def _of_part(update: Update) -> str | None:
    assert update.optimizer is not None
    name = type(update.optimizer).__name__
    if hooked(update.optimizer):
        return f"hooks of {name}.step run on the host, and a replay would not call them"
    for group in update.optimizer.param_groups:
        if any(isinstance(value, Tensor) for key, value in group.items() if key != "params"):
            return "a setting of its optimizer is a tensor, which the step would read: pass a number"
        if not (_fused(update, group) or isinstance(update.optimizer, SGD) or group.get("capturable")):
            return (
                f"torch.optim.{name} counts its steps on the host: make it with capturable=True where it has that, "
                f"skipback.update.Update(lambda ps: {name}(ps, ..., capturable=True)), or take skipback.update.adam()"
            )
    return None


def _fused(update: Update, group: dict[str, Any]) -> bool:
    """Whether the kernel is called directly, with counts on the device."""
    return isinstance(update, FusedAdam) and update.by_kernel(group)
