"""Leave no trace: run something on a network without changing its buffers, its attributes or the random state."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

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
    of other libraries put there (the activations that Opacus saves for a backward pass, which never comes here).

    Every pass inside one `untouched` draws other dropout masks; two `untouched` in a row draw the same ones.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    attributes = [_Attributes(vars(owner)) for owner in (*net.modules(), *net.parameters())]
    with same_random_state(net):
        try:
            yield
        finally:
            for each in attributes:
                each.restore()
            for module, name, buffer, kept in buffers:
                buffer.data.copy_(kept)  # .data: to a backward pass that is still to come, nothing has changed
                setattr(module, name, buffer)  # it may have been replaced, rather than written in place


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
