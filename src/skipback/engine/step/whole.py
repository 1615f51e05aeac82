"""A step by `backward`, for methods and networks that cannot be changed block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks import first_tensor
from skipback.engine.star import Given
from skipback.engine.step.compiled import Compiler
from skipback.engine.step.errors import checked
from skipback.engine.step.ranks import world
from skipback.types import Loss
from skipback.update import Update


def whole(
    learner: nn.Module, run: Callable[..., Any], args: Any, t: Tensor, loss: Loss, update: Update, given: Given
) -> Tensor:
    """One step of a learner; a user's gradients are put back after it.

    Args:
        learner: whose parameters are trained.
        run: the learner, compiled or not.
        args: its inputs.
        t: the target of the loss.
        loss: loss(output, target).
        update: what changes the parameters.
        given: what travels with the inputs.

    Returns:
        The loss, before the update.

    Raises:
        RuntimeError: several processes train.
    """
    if world() > 1:
        raise RuntimeError("step() of this method or network runs in one process: use DDP and loss.backward()")
    parameters = tuple(learner.parameters())
    kept = [p.grad for p in parameters]
    try:
        learner.zero_grad()
        with torch.enable_grad():
            y = first_tensor(run(*args, target=given.target, ids=given.ids, scale=given.scale))
            assert y is not None
            value = checked(loss(y, t)) * given.scale
        with torch.autocast(y.device.type, enabled=False):
            value.backward()
        torch.clear_autocast_cache()  # what it keeps of the weights is stale when they change
        with torch.no_grad():
            update.apply(parameters, [p.grad for p in parameters])
            update.finish()
    finally:
        for p, before in zip(parameters, kept, strict=True):
            p.grad = before
    return value.detach() / given.scale


class Whole:
    """A learner compiled as a whole, for a step by `backward`."""

    def __init__(self) -> None:
        self.compiler: Compiler | None = None
        self.call: Callable[..., Any] | None = None

    def of(self, learner: nn.Module, compiler: Compiler | None) -> Callable[..., Any]:
        """The learner, compiled if that is asked for."""
        if compiler is None:
            return learner
        if self.call is None or compiler is not self.compiler:
            self.compiler, self.call = compiler, compiler(learner)
        return self.call

    def __reduce__(self) -> tuple[type[Whole], tuple[()]]:
        return Whole, ()
