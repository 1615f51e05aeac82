"""A step by `backward`, for methods and networks that cannot be changed block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skipback.blocks.outputs import lost_of
from skipback.core.learner import TaughtNetwork
from skipback.core.records import BatchContext, Loss, Watch
from skipback.step.compiled import Compiler
from skipback.step.errors import checked
from skipback.step.fit import check
from skipback.update import Update


def step_by_backward(
    learner: TaughtNetwork,
    run: Callable[..., Any],
    args: Any,
    t: Tensor,
    loss: Loss,
    update: Update,
    given: BatchContext,
    watch: Watch | None = None,
) -> Tensor:
    """One step of a learner. Every `.grad` is put back as it was before.

    Args:
        learner: its parameters are trained.
        run: the learner, compiled or not.
        args: the network's inputs.
        t: the target of the loss.
        loss: loss(output, target).
        update: steps the parameters.
        given: target, ids and scale of the batch.
        watch: is called with output and target.

    Returns:
        The loss, before the update.

    Raises:
        RuntimeError: several processes train.
    """
    check("backward", learner)
    parameters = tuple(learner.parameters())
    saved = [p.grad for p in parameters]
    try:
        learner.zero_grad()
        with torch.enable_grad():
            y = lost_of(run(*args, target=given.target, ids=given.ids, scale=given.scale, mask=given.mask))
            value = checked(loss(y, t)) * given.scale
        if watch is not None:
            with torch.no_grad():
                watch(y, t)
        with torch.autocast(value.device.type, enabled=False):
            value.backward()
        torch.clear_autocast_cache()  # its copies of the weights are stale after the update
        with torch.no_grad():
            update.apply(parameters, [p.grad for p in parameters])
            update.finish()
    finally:
        for p, before in zip(parameters, saved, strict=True):
            p.grad = before
    return value.detach() / given.scale


class CompiledLearner:
    """Caches the compiled call of a learner, for a step by `backward`. Copies and pickles compile again."""

    def __init__(self) -> None:
        self.compiler: Compiler | None = None
        self.call: Callable[..., Any] | None = None

    def get(self, learner: TaughtNetwork, compiler: Compiler | None) -> Callable[..., Any]:
        """Return the learner, compiled if there is a compiler."""
        if compiler is None:
            return learner
        if self.call is None or compiler is not self.compiler:
            self.compiler, self.call = compiler, compiler(learner)
        return self.call

    def __reduce__(self) -> tuple[type[CompiledLearner], tuple[()]]:
        return CompiledLearner, ()
