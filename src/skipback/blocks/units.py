"""Units: which modules start a block, told from the tree of modules alone.

A unit is a child that owns a weight matrix. Containers, and modules that hold a stack of others, are looked through:

    nn.Sequential, nn.ModuleList, nn.ModuleDict     always
    a module with a ModuleList of its own           if two or more of the list own a matrix (an encoder's layers)
    a module with a stack further down              if the stack has two or more members with several matrices each
                                                    (a backbone, `bert`); never if it is itself a member of a stack
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

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
