"""Constants: values made of parameters alone (positions that are looked up, a table that is interpolated).

Such a value is the same for every batch. It is no block's value, so it is not cut, and several blocks may read it, as
they may share a parameter: what each is taught reaches the parameter through that block alone.

That nothing of the batch is in a value is told by a further pass with half of the samples, and other numbers in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from skipback.blocks.passes import Behind, Pass
from skipback.blocks.trees import map_tensors, packed, tensors

PortSite = tuple[str, int]
"""A module, and the position of a tensor among those that pass there."""


def run_otherwise(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a network on half of the samples, with noise added to floating-point numbers.

    Raises:
        ValueError: these inputs cannot be changed so.
    """
    found = tensors((args, kwargs))
    count = next((len(t) for t in found if t.dim() > 0), 0)
    batch = [t for t in found if t.dim() > 0 and len(t) == count]
    # where all samples are the same, so is their mean and that of half of them
    differ = any(t.is_floating_point() or bool((t != t[:1]).any()) for t in batch)
    if count < 2 or not differ or packed((args, kwargs)):
        raise ValueError("no half of these samples")

    def other(t: Tensor) -> Tensor:
        if t.dim() == 0 or len(t) != count:
            return t
        half = t[: count // 2]
        return half + torch.randn_like(half) if t.is_floating_point() else half

    args, kwargs = map_tensors((args, kwargs), other)
    net(*args, **kwargs)


def constants(run: Pass, reached: Sequence[Behind], again: Callable[[], Pass | None]) -> frozenset[PortSite]:
    """The sites where every tensor is made of parameters alone, by no matrix product.

    Args:
        run: the pass.
        reached: what stands behind each tensor that it met.
        again: the pass on other inputs; `None` if there is none.
    """
    places = [(met.place.module, met.position) for met in run.met]
    asked = [k for k, found in enumerate(reached) if found.parameters and not found.reads and not found.mixed]
    other = again() if asked else None
    if other is None or other.calls != run.calls or [(m.place.module, m.position) for m in other.met] != places:
        return frozenset()
    same = {k for k in asked if _equal(run.met[k].flow, other.met[k].flow)}
    return frozenset(places[k] for k in same) - {places[k] for k in range(len(places)) if k not in same}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


_VIEWS = ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "Repeat", "Unsqueeze", "Squeeze", "Slice")
_COPIES = ("Select", "Clone", "ToCopy", "AsStrided", "Cat", "Stack", "ReshapeAlias", "Alias")


def is_made_of(node: Node, made: frozenset[Node]) -> bool:
    """Whether an operation only views or copies parameters and what `made` holds."""
    if node in made:
        return True
    if node.name().partition("Backward")[0] not in (*_VIEWS, *_COPIES) or not node.next_functions:
        return False
    return all(p is not None and (_is_parameter(p) or is_made_of(p, made)) for p, _ in node.next_functions)


def _is_parameter(node: Node) -> bool:
    return isinstance(getattr(node, "variable", None), nn.Parameter)
