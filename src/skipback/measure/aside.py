"""Aside: run a training pass of a learner, and restore everything that it changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks import Layout, find
from skipback.blocks.contexts import all_trainable, untouched
from skipback.blocks.outputs import lost_of
from skipback.core.records import Loss
from skipback.learner import Learner

_INTERNAL = frozenset(vars(nn.Module()))


@contextlib.contextmanager
def aside(learner: Learner) -> Iterator[None]:
    """Restore all that a training pass changes: `.grad`, batch-norm statistics, memory, counters, random states.

    Weights are not copied: a pass does not change them. Two passes, each in an `aside` of its own, draw the same
    dropout masks and (where a method has any) the same random directions.
    """
    network = set(learner.net.modules())
    gradients = [(p, p.grad) for p in learner.parameters()]
    restores = [_kept(module) for module in learner.modules() if module not in network]
    try:
        if learner.route is not None:
            learner.route.pause()
        with untouched(learner.net):
            for p, _ in gradients:
                p.grad = None
            yield
    finally:
        for p, gradient in gradients:
            p.grad = gradient
        for restore in restores:
            restore()


def _kept(module: nn.Module) -> Callable[[], None]:
    """Save the state of one module of the method. Returns the function that restores it."""
    buffers = [(name, buffer, buffer.detach().clone()) for name, buffer in module.named_buffers(recurse=False)]
    attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    # a memory's rows are plain tensors
    plain = [(value, value.detach().clone()) for value in attributes.values() if isinstance(value, Tensor)]
    lists = [(value, list(value)) for value in attributes.values() if isinstance(value, list)]
    tables = [(value, dict(value)) for value in attributes.values() if isinstance(value, dict)]
    generators = [(g, g.get_state()) for g in attributes.values() if isinstance(g, torch.Generator)]

    def restore() -> None:
        for name, buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.data.copy_(before)  # .data: the version stays, so a loss that waits for backward can still run
            module._buffers[name] = buffer
        vars(module).update(attributes)
        for tensor, before in plain:
            if not torch.equal(tensor, before):
                tensor.data.copy_(before)
        for items, old in lists:
            items[:] = old
        for table, rows in tables:
            table.clear()
            table.update(rows)
        for generator, state in generators:
            generator.set_state(state)

    return restore


def prepare(learner: Learner, x: Any, ids: Tensor | None) -> tuple[Any, ...]:
    """Find the blocks if they are not known, and return the inputs as a tuple.

    Raises:
        ValueError: the signal is a delayed one, and `ids` is missing.
    """
    inputs = x if isinstance(x, tuple) else (x,)
    if learner.route is None:
        learner.discover(*inputs)
    if learner.memory is not None and ids is None:
        raise ValueError("this signal comes from the memory of each sample: pass ids=")
    return inputs


def layout_of(learner: Learner, inputs: tuple[Any, ...]) -> Layout:
    """The blocks of the method; for plain backprop, which has no cuts, the blocks that a direct method would have."""
    if learner.layout is not None:
        return learner.layout
    with learner.exact(), untouched(learner.net), all_trainable(learner.net):
        return find(learner.net, learner.names, lambda: learner.net(*inputs), frozenset())


def teach(learner: Learner, inputs: tuple[Any, ...], t: Tensor, loss: Loss, ids: Tensor | None, given: Tensor) -> None:
    """One training pass: forward with the target `given` to the method, loss of the target `t`, backward."""
    with torch.enable_grad():
        loss(lost_of(learner(*inputs, target=given, ids=ids)), t).backward()


def gradients(
    learner: Learner,
    x: Any,
    t: Tensor,
    loss: Loss,
    *,
    ids: Tensor | None = None,
    given: Tensor | None = None,
    exact: bool = False,
) -> dict[str, Tensor | None]:
    """The gradients that one training pass writes to `.grad` of the network's parameters. Nothing changes.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: the target of the loss.
        loss: loss(output, target).
        ids: for delayed signals.
        given: the target that is passed to the method; `None` is t.
        exact: compute backprop's gradients instead, with the same weights, mode and dropout masks.
    """
    inputs = prepare(learner, x, ids)
    with aside(learner), learner.exact() if exact else contextlib.nullcontext():
        teach(learner, inputs, t, loss, ids, t if given is None else given)
        return {name: p.grad for name, p in learner.net.named_parameters()}
