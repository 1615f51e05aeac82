"""Contexts: inside a `with`, what passes the cuts of a network is shown, or nothing of the network changes for good."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skipback.blocks.cuts import Cut, Layout, Place
from skipback.blocks.trees import map_tensors, tensors

OnTree = Callable[[Place, Any], Any]
"""Called with all that passes a place; returns what passes instead, or `None` for the same."""


class Hook:
    """What a module calls at a place. An object, not a closure: it is copied and pickled together with the network."""

    def __init__(self, place: Place, on_tree: OnTree) -> None:
        self.place, self.on_tree = place, on_tree

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A forward pre-hook."""
        return self.on_tree(self.place, (args, kwargs))

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """A forward hook."""
        return self.on_tree(self.place, output)


def hooked(net: nn.Module, hooks: Iterable[Hook], *, first: bool = False) -> list[RemovableHandle]:
    """Have each hook called at its place, whenever the network runs.

    Args:
        net: the network.
        hooks: what is called, and where.
        first: before the hooks that modules have for their outputs, so that these see what flows on.
    """
    handles = []
    for each in hooks:
        module = net.get_submodule(each.place.module)
        if each.place.before:
            handles.append(module.register_forward_pre_hook(each.before, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(each.after, prepend=first))
    return handles


@contextlib.contextmanager
def cutting(net: nn.Module, places: Iterable[Place], on_tree: OnTree, *, first: bool = False) -> Iterator[None]:
    """Inside, `on_tree` is called at each place (see `hooked`)."""
    handles: list[RemovableHandle] = []
    try:
        handles += hooked(net, [Hook(place, on_tree) for place in places], first=first)
        yield
    finally:
        for handle in handles:
            handle.remove()


OnPort = Callable[[Cut, Tensor], Tensor | None]
"""Called with each port; returns what flows on, or `None` to leave the graph alone."""


class Sites:
    """Which block each tensor is the port of, in passes that take the way of the first one.

    A module that is called several times is entered by the ports of several blocks, so calls are counted.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.calls = layout, 0
        self.blocks: dict[int, dict[int, str | None]] = {}
        for (call, position), block in zip(layout.sites, layout.first.blocks, strict=True):
            self.blocks.setdefault(call, {})[position] = block

    def at(self, place: Place) -> dict[int, str | None]:
        """By position the block of each tensor that passes a place now; `None` for one that another stands for."""
        expected = self.layout.calls[self.calls % len(self.layout.calls)]
        if expected != place.module:  # another way: what is known is only what was met at this place
            return {cut.position: cut.block for cut in self.layout.cuts if cut.module == place.module}
        self.calls += 1
        return self.blocks.get((self.calls - 1) % len(self.layout.calls) + 1, {})


@contextlib.contextmanager
def tapped(net: nn.Module, layout: Layout, on_port: OnPort, only: str | None = None) -> Iterator[None]:
    """Inside, `on_port` sees the port of each block (or of one) when the network runs, and decides what flows on."""
    sites = Sites(layout)

    def tap(place: Place, tree: Any) -> Any:
        found, seen, swaps = sites.at(place), tensors(tree), dict[int, Tensor]()
        for position, block in found.items():
            if block is not None and only in (None, block) and position < len(seen) and seen[position].requires_grad:
                flow = on_port(Cut(block=block, place=place, position=position), seen[position])
                if flow is not None:
                    swaps[id(seen[position])] = flow
        return map_tensors(tree, lambda t: swaps.get(id(t), t)) if swaps else None

    with cutting(net, layout.places.values(), tap):
        yield


# ---------------------------------------------------------------------------------------------------- leave no trace

_TORCH = frozenset(vars(nn.Module()))
"""What every module has. Parameters and hooks are left alone: sharding exchanges them in a pass, and knows that."""


@contextlib.contextmanager
def same_random_state(net: nn.Module) -> Iterator[None]:
    """Put the random state back at the end, on the CPU and where the network lives."""
    devices = sorted({p.device.index or 0 for p in net.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Put buffers (batch-norm statistics), attributes and the random state back at the end.

    Attributes are what a module or a parameter counts or collects in Python while the network runs, or what the hooks
    of other libraries put there (the activations that Opacus saves for a backward pass, which never comes here). They
    stay where a module made its layers or hooks for good in its first pass.

    Every pass inside one `untouched` draws other dropout masks; two `untouched` in a row draw the same ones.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    attributes, structure = [_Attributes(vars(owner)) for owner in (*net.modules(), *net.parameters())], _structure(net)
    with same_random_state(net):
        try:
            yield
        finally:
            if _structure(net) == structure:  # else layers or hooks were made in there, and somebody noted that
                for each in attributes:
                    each.restore()
            for module, name, buffer, kept in buffers:
                buffer.data.copy_(kept)  # .data: to a backward pass that is still to come, nothing has changed
                setattr(module, name, buffer)  # it may have been replaced, rather than written in place


def _structure(net: nn.Module) -> list[Any]:
    """The layers of each module, the names of its parameters, and its hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        (id(m), list(m._modules.items()), list(m._parameters), [list(vars(m).get(name, ())) for name in hooks])
        for m in net.modules()
    ]


class _Attributes:
    """The attributes of one object, and what its lists, dicts and sets hold, one level deep."""

    def __init__(self, owner: dict[str, Any]) -> None:
        self.owner = owner
        self.values = {name: value for name, value in owner.items() if name not in _TORCH}
        self.contents = [(v, v.copy()) for v in self.values.values() if type(v) in _COLLECTIONS]

    def restore(self) -> None:
        """Put them back."""
        for name in self.owner.keys() - self.values.keys() - _TORCH:
            del self.owner[name]
        self.owner.update(self.values)
        for collection, kept in self.contents:
            collection.clear()
            (collection.extend if isinstance(collection, list | deque) else collection.update)(kept)


_COLLECTIONS = (list, dict, set, OrderedDict, deque)


@contextlib.contextmanager
def all_trainable(net: nn.Module) -> Iterator[None]:
    """Find the cuts as if no parameter was frozen, so that unfreezing one later cannot open a path for backprop."""
    frozen = [p for p in net.parameters() if not p.requires_grad and p.is_floating_point()]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
