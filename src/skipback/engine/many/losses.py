"""Losses: the loss of each member, and its gradient at that member's output."""

from __future__ import annotations

from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor

from skipback.core.records import Loss
from skipback.step.errors import by_autograd, checked

aten = torch.ops.aten

IGNORED = -100
"""The class index that `cross_entropy` ignores."""


def loss_and_gradient(loss: Loss, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Each member's loss (N,), and its gradient dL/dy (N, B, C).

    Args:
        loss: loss(output, target) of one member.
        y: the outputs (N, B, C).
        t: the targets (N, B, ...).
    """
    if loss is F.cross_entropy and t.dim() == 2 and t.dtype == torch.int64:
        return _of_classes(y, t)
    known = KNOWN.get(loss) if isinstance(loss, FunctionType) else None  # others: no hash
    values = torch.empty(0)

    def total(leaf: Tensor, t: Tensor) -> Tensor:
        nonlocal values
        values = _one_by_one(loss, leaf, t) if known is None else known(leaf, t)
        return values.sum()

    _, e = by_autograd(total, y, t, 1.0)
    return values.detach(), e


def _of_classes(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy by the kernels that autograd calls, without autograd's own time (see `engine.step.errors`)."""
    classes, none = t.flatten(), 0
    logs = torch.log_softmax(y.flatten(0, 1), 1)
    each, weight = aten.nll_loss_forward.default(logs, classes, None, none, IGNORED)
    count = (t != IGNORED).sum(1)
    share = (y.new_ones(len(t)) / count).unsqueeze(1).expand(t.shape).flatten()
    at_logs = aten.nll_loss_backward.default(share, logs, classes, None, none, IGNORED, weight)
    e = aten._log_softmax_backward_data.default(at_logs, logs, 1, y.dtype)
    return each.view(t.shape).sum(1) / count, e.view(y.shape)


def _one_by_one(loss: Loss, y: Tensor, t: Tensor) -> Tensor:
    return torch.stack([checked(loss(of_y, of_t)) for of_y, of_t in zip(y, t, strict=True)])


def _cross_entropy(y: Tensor, t: Tensor) -> Tensor:
    each = F.cross_entropy(y.flatten(0, 1), t.flatten(0, 1), reduction="none").view(y.shape[:2])
    return each.mean(1) if t.is_floating_point() else each.sum(1) / (t != IGNORED).sum(1)


def _mse(y: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(y, t, reduction="none").flatten(1).mean(1)


def _bce(y: Tensor, t: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(y, t, reduction="none").flatten(1).mean(1)


KNOWN: dict[Loss, Loss] = {
    F.cross_entropy: _cross_entropy,
    F.mse_loss: _mse,
    F.binary_cross_entropy_with_logits: _bce,
}
"""Batched forms of losses that average over a member; any other loss is called once for each member."""
