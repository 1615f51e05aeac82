"""Outputs: what generated networks return, in what, and which of it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from generated.recipes import Recipe


@dataclass(frozen=True)
class Role:
    """What an output is.

    Attributes:
        kind: "head", "hidden" (a value inside the network), "loss" or "other" (nothing to teach with).
        maker: the module that made it: outputs of one maker are one in kind.
        batch: its dimension of the batch.
    """

    kind: str
    maker: str = ""
    batch: int = 0


@dataclass
class Output:
    """As Hugging Face's: a record of tensors, of which some may be missing."""

    loss: Tensor | None = None
    first: Tensor | None = None
    others: tuple[Tensor, ...] = ()


def wrapped(recipe: Recipe, outs: Sequence[Tensor], loss: Tensor | None) -> Any:
    """The outputs, in what holds them."""
    found = list(outs) if loss is None else [loss, *outs]
    match recipe.wrap:
        case "tensor":
            return found[0]
        case "tuple":
            return tuple(found)
        case "list":
            return found
        case "dict":
            return {f"out{i}": y for i, y in enumerate(found)}
        case "dataclass":
            return Output(loss, outs[0], tuple(outs[1:]))
    return {"some": [found[0]], "rest": (tuple(found[1:]), {"name": "nested"})}


def unwrapped(tree: Any) -> list[Tensor]:
    """All tensors of what a generated network returned, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Output):
        tree = (tree.loss, tree.first, tree.others)
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [t for item in items for t in unwrapped(item)]


def roles(recipe: Recipe) -> list[Role]:
    """What each tensor of `unwrapped` is."""
    if recipe.exit:
        return [Role("head", "exit_or_head")]
    dense_batch = int(recipe.data == "series_first" and recipe.dense)
    found = [Role("head", "heads.0", dense_batch)] * (2 if recipe.twice else 1)
    for k, out in enumerate(recipe.outputs[1:], 1):
        first = int(
            recipe.data == "series_first" and (recipe.dense if out.kind != "hidden" else out.at < recipe.pooled)
        )
        kind = {"hidden": "hidden", "teacher": "other", "echo": "other"}.get(out.kind, "head")
        found.append(Role(kind, f"heads.{k}" if kind == "head" else f"hidden.{k}", first))
    bottlenecks = sum(s.layer == "vae" for s in recipe.stages)
    found += [Role("hidden", f"extra.{i}") for i in range(2 * bottlenecks)]
    return [Role("loss"), *found] if recipe.loss else found


def cross_entropy(y: Tensor, labels: Tensor) -> Tensor:
    """The loss that a network takes inside, over the places of a dense output too."""
    return F.cross_entropy(
        y if y.dim() == 4 else y.reshape(-1, y.shape[-1]), labels if y.dim() == 4 else labels.reshape(-1)
    )
