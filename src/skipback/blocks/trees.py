"""Trees: tensors in what modules exchange (nested tuples, lists, dicts, data classes), and modules that start a block.

The latter, *units*, are told from the tree of modules alone: children that own a weight matrix. Containers, and modules
that hold a stack of others, are looked through:

    nn.Sequential, nn.ModuleList, nn.ModuleDict     always
    a module with a ModuleList of its own           if two or more of the list own a matrix (an encoder's layers)
    a module with a stack further down              if the stack has two or more members with several matrices each
                                                    (a backbone, `bert`); never if it is itself a member of a stack
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
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


# ---------------------------------------------------------------------------------------------------------- units


Owns = Callable[[nn.Module], bool]
"""Whether a module can be a unit."""


def _owns_matrix(module: nn.Module) -> bool:
    """Whether one of its own parameters mixes units. A norm's never does, also if it has the shape of an image."""
    norm = isinstance(module, nn.LayerNorm | nn.RMSNorm)
    return not norm and any(p.dim() >= 2 for p in module.parameters(recurse=False))


def has_matrix(module: nn.Module) -> bool:
    """Whether it mixes units: norms and activations do not, and belong to the block they follow."""
    return any(map(_owns_matrix, module.modules()))


def has_parameter(module: nn.Module) -> bool:
    """Whether it has anything to learn."""
    return any(True for _ in module.parameters())


def _is_container(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, nn.ModuleList | nn.ModuleDict)


def _is_compound(module: nn.Module) -> bool:
    """Whether several modules inside of it own a matrix, so that it is more than one layer."""
    return not _is_container(module) and sum(map(_owns_matrix, module.modules())) > 1


def _members(module: nn.Module) -> Iterator[nn.Module]:
    """What containers inside of a module hold; not what those members hold in turn."""
    for child in module.children():
        if not _is_container(module) or _is_container(child):
            yield from _members(child)
        else:
            yield child


def _lists_layers(module: nn.Module) -> bool:
    lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    return any(sum(map(has_matrix, child)) > 1 for child in lists)


def _is_stack(members: Iterator[nn.Module]) -> bool:
    return sum(map(_is_compound, members)) > 1


def _children(module: nn.Module, prefix: str, owns: Owns) -> Iterator[str]:
    stacked = _is_container(module) and _is_stack(module.children())
    for name, child in module.named_children():
        if not owns(child):
            continue
        if _is_container(child) or _lists_layers(child) or (not stacked and _is_stack(_members(child))):
            yield from _children(child, f"{prefix}{name}.", owns)
        else:
            yield prefix + name


def units(net: nn.Module, owns: Owns = has_matrix) -> list[str]:
    """The modules that start a block: children that own a weight matrix, looking through containers and wrappers."""
    found = list(_children(net, "", owns))
    while len(found) == 1:
        inner = list(_children(net.get_submodule(found[0]), f"{found[0]}.", owns))
        if not inner:
            break
        found = inner
    return found
