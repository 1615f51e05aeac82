"""Batches for generated networks, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from generated.outputs import cross_entropy, roles
from generated.recipes import Pass, Recipe

SAMPLES = 6
"""Of the training set, for each length of a series."""
LENGTHS = 8
"""Lengths are below this."""


@dataclass(frozen=True)
class Batch:
    """What one pass trains on.

    Attributes:
        x: the input.
        ids: the position of each sample in the training set.
        target: of the first output: classes, or values.
        labels: those classes, for a network that takes its loss inside.
        one: the pass.
        seed: of what the network draws.
        part: which of the losses of a pass that has two; `None` for their sum.
        pushed: the fixed gradients at the outputs that teach, in place of a loss.
    """

    x: Tensor
    ids: Tensor
    target: Tensor
    labels: Tensor | None
    one: Pass
    seed: int
    part: int | None = None


def batch(recipe: Recipe, one: Pass, *, spare: int = 0) -> Batch:
    """The batch of a pass. `spare`: the same samples under ids that no pass has."""
    order = torch.randperm(SAMPLES, generator=_generator(recipe.seed, one.seed, 1))[: one.batch]
    length = one.length or recipe.length
    x, target = (all_of[order] for all_of in _set(recipe, length))
    if recipe.data == "series_first":
        x, target = x.transpose(0, 1), target.transpose(0, 1) if recipe.dense else target
    ids = order + SAMPLES * (length + LENGTHS * spare)
    return Batch(x, ids, target, target if recipe.loss else None, one, 7 * one.seed + 3)


def _generator(*seeds: int) -> Generator:
    generator = Generator()
    generator.manual_seed(sum(seed * 1009**i for i, seed in enumerate(seeds)))
    return generator


def _set(recipe: Recipe, length: int) -> tuple[Tensor, Tensor]:
    """The training set: inputs and targets, batch first."""
    generator, H = _generator(recipe.seed, length, 2), recipe.side
    shape = {
        "flat": (recipe.inputs,),
        "image": (recipe.inputs, H, H),
        "frames": (length, recipe.inputs, H, H),
    }.get(recipe.data, (length, recipe.inputs))
    x: Tensor = torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64)
    if recipe.data == "tokens":
        x = torch.randint(recipe.inputs, (SAMPLES, length), generator=generator)
    return x, _targets(recipe, length, generator)


def classes(recipe: Recipe) -> bool:
    """Whether the first output is for classes."""
    return recipe.outputs[0].kind != "squeeze" and recipe.outputs[0].width > 1


def _targets(recipe: Recipe, length: int, generator: Generator) -> Tensor:
    first = recipe.outputs[0]
    spread: tuple[int, ...] = (2,) if first.kind == "view" else ()
    if recipe.dense:
        spread = (recipe.side, recipe.side) if recipe.data == "image" else (length,)
    if classes(recipe):
        return torch.randint(first.width, (SAMPLES, *spread), generator=generator)
    shape = () if first.kind == "squeeze" else (1, *spread) if recipe.data == "image" else (*spread, 1)
    return torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64)


def loss_of(recipe: Recipe, outputs: Sequence[Tensor], batch: Batch, *, inside: bool = True) -> Tensor:
    """A loss of all outputs that can teach, each with terms of its own.

    Args:
        recipe: of the network.
        outputs: what it returned.
        batch: what it ran on.
        inside: take the loss that the network returned; else the same of its first output.
    """
    generator, total = _generator(recipe.seed, batch.one.seed, 3), torch.zeros((), dtype=torch.float64)
    for k, (role, y) in enumerate(zip(roles(recipe), outputs, strict=True)):
        if role.kind == "loss":
            assert batch.labels is not None
            total = total + (y if inside else cross_entropy(outputs[1], batch.labels))
        elif role.kind in ("head", "hidden") and not (recipe.loss and k == 1):
            total = total + _term(y, role.batch, batch, generator)
    return total


def _term(y: Tensor, dim: int, batch: Batch, generator: Generator) -> Tensor:
    """((y + g)^2 - g^2) / 2 per sample; in two parts, its linear and its square terms."""
    g = torch.randn(y.movedim(dim, 0).shape, generator=generator, dtype=torch.float64).movedim(0, dim)
    linear, square = g * y, y * y / 2
    each = {None: linear + square, 0: linear, 1: square}[batch.part]
    if batch.one.kind == "rows":
        each = each.movedim(dim, 0)[1:]
    return each.sum() / y.shape[dim]


def parts(batch: Batch) -> list[Batch]:
    """The losses of a pass."""
    return [replace(batch, part=0), replace(batch, part=1)] if batch.one.kind == "twice" else [batch]


def spoken(batch: Batch, method: str) -> dict[str, Any]:
    """What travels with the input, for this method."""
    return {"drtp": {"target": batch.target}, "f3": {"target": batch.target, "ids": batch.ids}}.get(method, {})
