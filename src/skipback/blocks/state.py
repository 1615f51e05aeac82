"""Leave no trace: run something on a network without changing its buffers or the random state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def same_random_state(net: nn.Module) -> Iterator[None]:
    """Put the random state back at the end, on the CPU and where the network lives."""
    devices = sorted({p.device.index or 0 for p in net.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Put buffers (batch-norm statistics) and the random state back at the end.

    Every pass inside one `untouched` draws other dropout masks; two `untouched` in a row draw the same ones.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with same_random_state(net):
        try:
            yield
        finally:
            for module, name, buffer, kept in buffers:
                buffer.data.copy_(kept)  # .data: to a backward pass that is still to come, nothing has changed
                setattr(module, name, buffer)  # it may have been replaced, rather than written in place


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
