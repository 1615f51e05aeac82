"""Checks: whether a network can be updated block by block, and whether a port still fits its feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks import Layout, Pass, Place, cutting, named_outputs, read
from skipback.blocks.contexts import untouched
from skipback.blocks.specs import PortSpec


def shared(layout: Layout) -> bool:
    """Whether two blocks share a parameter: its update has to wait until both have run."""
    owned = [id(p) for segment in layout.segments for p in segment.parameters]
    return len(owned) != len(set(owned))


def needs_backward(net: nn.Module) -> bool:
    """Whether a module is compiled, or a parameter has a post-accumulate-grad hook: only `backward` serves these."""
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in net.modules())
    return compiled or any(p._post_accumulate_grad_hooks for p in net.parameters())


def meets_each_block_once(net: nn.Module, layout: Layout, args: tuple[Any, ...]) -> bool:
    """Whether one forward pass calls each trained block once, and outside of activation checkpointing.

    The weights of a block that is called again, or that a checkpoint runs again in backward, cannot be updated between
    the two runs. The pass changes no buffer and no random state.
    """
    around, run = _saving(), Pass(net, ports=layout.ports, constants=layout.constants)
    inside: list[bool] = []

    def cut(place: Place, tree: Any) -> Any:
        inside.append(_saving() is not around)
        return run.cut(place, tree)

    with cutting(net, layout.places.values(), cut), untouched(net), torch.enable_grad():
        output = net(*args)
    blocks = [block for block in read(run, named_outputs(output), layout).blocks if block is not None]
    trained = [s.block for s in layout.segments[:-1] if any(p.requires_grad for p in s.parameters)]
    return sorted(blocks) == sorted(trained) and not any(inside)


def _saving() -> object:
    """The innermost saved-tensor hook of autograd; a checkpoint pushes one of its own."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if top is None else top[0]


def check_taught(spec: PortSpec, port: Tensor, signal: Tensor, output: Sequence[int]) -> None:
    """Refuse a port whose shape fits neither its feedback nor the signal any more, before any weight is updated."""
    if not spec.fits(port, output):
        what = f"the signal has shape {tuple(signal.shape)}"
        raise ValueError(spec.misfit(port, what, "the batch must come first, x and t must be of one batch, and"))
