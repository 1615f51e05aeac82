"""Errors: a loss and its gradient at the output, e = dL/dy, for a step.

For a loss of 50 rows autograd takes longer than the loss's kernels. The gradients of the usual mean losses are computed
here, by the kernels that autograd calls, so with the same bits; any other loss goes by autograd.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor

from skipback.core.records import Loss

aten = torch.ops.aten
_MEAN = 1
_NO_CLASS = -100
_FULL = (torch.float32, torch.float64)


def error(loss: Loss, y: Tensor, t: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the output y, and scale * dL/dy.

    Args:
        loss: loss(y, t), one number.
        y: the output of the head.
        t: the target.
        scale: factor of the loss, as a gradient scaler has one.
    """
    plain = type(scale) is float and scale == 1 and isinstance(loss, FunctionType)  # other calls may have no hash
    closed = CLOSED.get(loss) if plain and y.dtype in _FULL else None
    found = None if closed is None or y.shape[:1] != t.shape[:1] else closed(y, t)
    return by_autograd(loss, y, t, scale) if found is None else found


def unscaled(scale: float | Tensor) -> bool:
    """Whether the scale is the number 1: multiplying a tensor by it would take as long as a small block."""
    return isinstance(scale, float) and scale == 1


def by_autograd(loss: Loss, y: Tensor, t: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """The same as `error`, for any loss."""
    leaf = y.detach().requires_grad_()
    with torch.enable_grad():
        value = checked(loss(leaf, t))
        scaled = value if unscaled(scale) else value * scale
    cast = torch.is_autocast_enabled(y.device.type)  # `backward` is called outside of it
    with torch.autocast(y.device.type, enabled=False) if cast else contextlib.nullcontext():
        (e,) = torch.autograd.grad(scaled, leaf)
    return value.detach(), e


def checked(value: object) -> Tensor:
    """Return the value of a loss, if it is one number with a graph.

    Raises:
        TypeError: the value is no tensor.
        ValueError: the value is more than one number, or does not depend on the output.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a tensor of one number, not {value!r}: take .item() of what step() returns")
    if value.numel() != 1:
        raise ValueError(f"loss must return one number, not shape {tuple(value.shape)}: take its mean() or sum()")
    if not value.requires_grad:
        raise ValueError("what loss returns does not depend on the output by operations that have a gradient")
    return value


def _cross_entropy(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor] | None:
    if y.dim() != 2 or t.dim() != 1 or t.dtype != torch.int64:
        return None
    logs = torch.log_softmax(y, 1)
    value, weight = aten.nll_loss_forward.default(logs, t, None, _MEAN, _NO_CLASS)
    at_logs = aten.nll_loss_backward.default(_one(value.dtype, value.device), logs, t, None, _MEAN, _NO_CLASS, weight)
    return value, aten._log_softmax_backward_data.default(at_logs, logs, 1, y.dtype)


def _mse(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor] | None:
    if y.shape != t.shape or y.dtype != t.dtype:
        return None
    value = F.mse_loss(y, t)
    return value, aten.mse_loss_backward.default(_one(value.dtype, value.device), y, t, _MEAN)


@functools.cache
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The gradient of a loss with respect to itself. Cached, so it must not be overwritten."""
    return torch.ones((), dtype=dtype, device=device)


CLOSED: dict[Loss, Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]] = {
    F.cross_entropy: _cross_entropy,
    F.mse_loss: _mse,
}
"""Closed forms by loss. A closed form returns `None` for arguments other than a plain batch of rows and targets."""
