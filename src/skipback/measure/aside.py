"""Aside: run a training pass of a learner, and leave no trace of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks import Layout, find, first_tensor
from skipback.engine.learner import Learner
from skipback.engine.state import all_trainable, untouched
from skipback.method import Exact
from skipback.types import Loss

_INTERNAL = frozenset(vars(nn.Module()))


@contextlib.contextmanager
def aside(learner: Learner) -> Iterator[None]:
    """Put back all that a training pass changes: `.grad`, batch-norm statistics, memory, counters, random states.

    Weights are not copied: a pass does not change them. Two passes, each in an `aside` of its own, draw the same
    dropout masks and (where a method has any) the same random directions.
    """
    network = set(learner.net.modules())
    gradients = [(p, p.grad) for p in learner.parameters()]
    restores = [_kept(module) for module in learner.modules() if module not in network]
    try:
        if learner.anchor is not None:
            learner.anchor.paused = True
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
    """Remember what one module of the method holds. Returns what puts it back."""
    buffers = dict(module.named_buffers(recurse=False))
    attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    own = [*buffers.values(), *(value for value in attributes.values() if isinstance(value, Tensor))]  # F3's memory
    tensors = [(tensor, tensor.detach().clone()) for tensor in own]
    lists = [(value, list(value)) for value in attributes.values() if isinstance(value, list)]
    tables = [(value, dict(value)) for value in attributes.values() if isinstance(value, dict)]
    generators = [(g, g.get_state()) for g in attributes.values() if isinstance(g, torch.Generator)]

    def restore() -> None:
        for tensor, before in tensors:
            if not torch.equal(tensor, before):
                tensor.data.copy_(before)  # .data: the version stays, so a loss that waits for backward can still run
        module._buffers.update(buffers)
        vars(module).update(attributes)
        for items, old in lists:
            items[:] = old
        for table, rows in tables:
            table.clear()
            table.update(rows)
        for generator, state in generators:
            generator.set_state(state)

    return restore


def prepare(learner: Learner, x: Any, ids: Tensor | None) -> tuple[Any, ...]:
    """Find the blocks if nobody has, and return the inputs as a tuple.

    Raises:
        ValueError: the signal is a delayed one, and `ids` is missing.
    """
    inputs = x if isinstance(x, tuple) else (x,)
    if learner.layout is None and not isinstance(learner.method, Exact):
        learner.discover(*inputs)
    if learner.memory is not None and ids is None:
        raise ValueError("this signal comes from the memory of each sample: pass ids=")
    return inputs


def layout_of(learner: Learner, inputs: tuple[Any, ...]) -> Layout:
    """The blocks: those of the method, or (for plain backprop, which has no cuts) those that a method would have."""
    if learner.layout is not None:
        return learner.layout
    with learner.exact(), untouched(learner.net), all_trainable(learner.net):
        return find(learner.net, learner.names, lambda: learner.net(*inputs))


def teach(learner: Learner, inputs: tuple[Any, ...], t: Tensor, loss: Loss, ids: Tensor | None, given: Tensor) -> None:
    """One training pass: forward with the target `given` to the method, loss of the target `t`, backward."""
    with torch.enable_grad():
        y = first_tensor(learner(*inputs, target=given, ids=ids))
        assert y is not None
        loss(y, t).backward()


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
    """What one training pass leaves in `.grad` of each of the network's parameters. Nothing changes.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: the target of the loss.
        loss: loss(output, target).
        ids: for delayed signals.
        given: the target that the method gets; `None` is t.
        exact: backprop's gradient instead: same weights, mode and dropout masks.
    """
    inputs = prepare(learner, x, ids)
    with aside(learner), learner.exact() if exact else contextlib.nullcontext():
        teach(learner, inputs, t, loss, ids, t if given is None else given)
        return {name: p.grad for name, p in learner.net.named_parameters()}
