"""The contract of updates."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from skipback.testing.laws import check_close, law, name_of, noise
from skipback.update import Update

SHAPES = ((5, 7), (5,), (4, 5), (4,))
STEPS, WITHIN = 3, 1e-6


def check_update(make: Callable[[], Update]) -> None:
    """Check the laws of `skipback.update.Update`, on two blocks and a parameter without gradient.

    Args:
        make: a new update, e.g. `skipback.update.adam`.

    Raises:
        AssertionError: a law is broken.
    """
    update = make()
    law(isinstance(update, Update), f"{name_of(update)} is no skipback.update.Update")
    blocks = nn.ParameterList(
        [nn.Parameter(noise(*shape, seed=k, dtype=torch.float32)) for k, shape in enumerate(SHAPES)]
    )
    unused = nn.Parameter(noise(3, 3, seed=9, dtype=torch.float32))
    holder = nn.ParameterList([*blocks, unused])
    update.bind(holder)
    twin, other = copy.deepcopy((update, holder))
    for p in holder:
        p.grad = torch.full_like(p, 7.0)
    before = unused.detach().clone()
    for k in range(STEPS):
        _by_blocks(update, holder, k)
        _whole(twin, other, k)
    what = name_of(update)
    for p, q in zip(holder, other, strict=True):
        check_close(p, q, f"{what} by blocks is not one optimizer.step() of all gradients", within=WITHIN)
    law(torch.equal(unused, before), f"{what} changes a parameter whose gradient is None")
    left = all(p.grad is not None and bool((p.grad == 7.0).all()) for p in holder)
    law(left, f"{what} does not leave .grad as it was")


def _by_blocks(update: Update, holder: nn.ParameterList, k: int) -> None:
    """One step, the later block first, as where an error is known late."""
    update.bind(holder)
    with torch.no_grad():
        for block in ((2, 3, 4), (0, 1)):
            gradients = [None if i == len(SHAPES) else _gradient(i, k) for i in block]
            update.apply([holder[i] for i in block], gradients)
        update.finish()


def _whole(update: Update, holder: nn.ParameterList, k: int) -> None:
    for i in range(len(SHAPES)):
        holder[i].grad = _gradient(i, k)
    assert update.optimizer is not None
    update.optimizer.step()


def _gradient(i: int, k: int) -> torch.Tensor:
    return noise(*SHAPES[i], seed=100 + 10 * k + i, dtype=torch.float32)
