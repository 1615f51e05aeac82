"""Trees: what modules take and return, tensors in nested tuples, lists, dicts and data classes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def _is_record(tree: Any) -> bool:
    return dataclasses.is_dataclass(tree) and not isinstance(tree, type)


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts and data classes, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif _is_record(tree):
        tree = [getattr(tree, entry.name) for entry in dataclasses.fields(tree)]
    return [t for item in tree for t in tensors(item)] if isinstance(tree, tuple | list) else []


def packed(tree: Any) -> list[PackedSequence]:
    """All packed sequences in nested tuples, lists and dicts."""
    if isinstance(tree, PackedSequence):
        return [tree]
    items = list(tree.values()) if isinstance(tree, dict) else tree
    return [p for item in items for p in packed(item)] if isinstance(items, tuple | list) else []


def map_tensors(tree: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """Apply `f` to every tensor in nested tuples, lists, dicts and data classes (other objects are passed through)."""
    if isinstance(tree, Tensor):
        return f(tree)
    if isinstance(tree, tuple | list):
        items = [map_tensors(item, f) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict) and tree:
        mapped = {} if type(tree) is dict else copy.copy(tree)  # a copy keeps the class of a model's output record
        for key, value in tree.items():
            mapped[key] = map_tensors(value, f)
        return mapped
    return _map_record(tree, f) if _is_record(tree) and tensors(tree) else tree


def _map_record(tree: Any, f: Callable[[Tensor], Tensor]) -> Any:
    mapped = copy.copy(tree)
    for entry in dataclasses.fields(tree):
        object.__setattr__(mapped, entry.name, map_tensors(getattr(tree, entry.name), f))  # it may be frozen
    return mapped


def first_tensor(tree: Any) -> Tensor | None:
    """The first floating-point tensor in a tree: what is taught when a module returns several."""
    return next((t for t in tensors(tree) if t.is_floating_point()), None)


def swap(tree: Any, old: Tensor, new: Tensor) -> Any:
    """The same tree with one tensor exchanged."""
    return map_tensors(tree, lambda t: new if t is old else t)


def is_scalar(tree: Any) -> bool:
    """Whether it is a tensor of one number without dimensions, as a loss is."""
    return isinstance(tree, Tensor) and tree.dim() == 0


def named_outputs(tree: Any, name: str = "") -> dict[str, Tensor]:
    """The floating-point tensors that a network returns, by name: keys of dicts and data classes, numbers in tuples.

    A number without dimensions, a loss, is not counted among the items of a tuple: (loss, logits) and (logits,) name
    the logits alike. A lone tensor is called "output".
    """
    if isinstance(tree, Tensor):
        return {name or "output": tree} if tree.is_floating_point() else {}
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif _is_record(tree):
        items = [(entry.name, getattr(tree, entry.name)) for entry in dataclasses.fields(tree)]
    elif isinstance(tree, tuple | list):
        numbers, losses = itertools.count(), itertools.count()
        items = [(f"loss{next(losses)}" if is_scalar(item) else str(next(numbers)), item) for item in tree]
    else:
        return {}
    prefix = f"{name}." if name else ""
    return {key: t for own, item in items for key, t in named_outputs(item, prefix + own).items()}
