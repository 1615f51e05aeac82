"""Interventions: change one thing in a pass of a network, and hold everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.hooks import RemovableHandle

from skipback.blocks import Cut, Layout, map_tensors, tapped, tensors
from skipback.core.learner import Forward
from skipback.core.records import Loss

Recorded = dict[str, list[list[tuple[Tensor, Tensor | None]]]]
"""By module name, for each of its calls, the returned tensors and their forward-mode tangents."""

OUTPUT = ""
"""The network itself."""


@contextlib.contextmanager
def moved(parameters: Sequence[nn.Parameter], *, seed: int = 0) -> Iterator[None]:
    """Perturb weights at random, by as much as they are large: w + rms(w) * gaussian (0.1 where w is all zeros).

    The parameters get other storage inside, so afterwards they have the same bits, and a graph that still waits for its
    backward is not invalidated.

    Raises:
        ValueError: they are sharded.
    """
    if any(hasattr(p, "full_tensor") for p in parameters):
        raise ValueError(
            "the weights are sharded (fully_shard), which are not moved here: measure an unsharded network"
        )
    saved = [p.data for p in parameters]
    generator = torch.Generator().manual_seed(seed)
    try:
        for p, data in zip(parameters, saved, strict=True):
            size = float(data.detach().double().square().mean().sqrt()) or 0.1
            p.data = data + size * torch.randn(data.shape, generator=generator).to(data)
        yield
    finally:
        for p, data in zip(parameters, saved, strict=True):
            p.data = data


@contextlib.contextmanager
def severed(net: nn.Module, layout: Layout, block: str) -> Iterator[None]:
    """Zero the gradient that comes back through a block's port. Forward values and the method's cuts stay the same."""
    with tapped(net, layout, _sever, only=block):  # registered after the method's own cuts: its ports are still taught
        yield


def _sever(cut: Cut, port: Tensor) -> Tensor:
    port.register_hook(torch.zeros_like)
    return port


def exchanged(loss: Loss, *, seed: int = 0) -> Loss:
    """Return the same loss with another gradient at the output: noise of the same size."""

    def noise(e: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return e.square().mean().sqrt() * torch.randn(e.shape, generator=generator).to(e)

    def other(output: Any, t: Any) -> Tensor:
        for y in tensors(output):  # one, or all that a network of several outputs returns
            if y.requires_grad:
                y.register_hook(noise)
        return loss(output, t)

    return other


@contextlib.contextmanager
def recording(net: nn.Module) -> Iterator[Recorded]:
    """Context that records the outputs of every module with weights, call by call, and of the network."""
    found: Recorded = {}

    def record(name: str, tree: Any) -> None:
        # a clone, as later layers may overwrite the output
        found.setdefault(name, []).append([_map(forward_ad.unpack_dual(t), _clone) for t in tensors(tree)])

    with _tapped(net, record):
        yield found


@contextlib.contextmanager
def held(net: nn.Module, recorded: Recorded) -> Iterator[None]:
    """Context in which every module with weights, and the network, returns its recorded output, with its own backward.

    o' = o + (recorded - o).detach(), and its forward-mode tangent likewise: all that the forward pass computes is as
    recorded (activations, their derivatives, the output, its error, its directional derivatives), and gradients are
    propagated through the current weights. Intermediate values inside a module with several weights (the softmax of an
    attention) are not held.
    """
    left = {name: iter(calls) for name, calls in recorded.items()}

    def hold(name: str, tree: Any) -> Any:
        returned = next(left.get(name, iter(())), None)
        if returned is None:
            return None
        parts = iter(returned)
        return map_tensors(tree, lambda t: _held(t, *next(parts)))

    with _tapped(net, hold):
        yield


def _held(t: Tensor, value: Tensor, tangent: Tensor | None) -> Tensor:
    if not t.is_floating_point():
        return t
    primal: Tensor = forward_ad.unpack_dual(t)[0]
    result = primal + (value - primal.detach())
    if tangent is not None:
        result = forward_ad.make_dual(result, tangent)
    return result


def _map(pair: tuple[Tensor, Tensor | None], f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
    return f(pair[0]), None if pair[1] is None else f(pair[1])


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


@contextlib.contextmanager
def _tapped(net: nn.Module, tap: Any) -> Iterator[None]:
    """Call tap(name, output) after every module with weights, then after the network; `tap` may replace the output."""

    def hook(name: str) -> Any:
        return lambda module, args, output: tap(name, output)

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in net.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    with _removed(handles), _output_tapped(net, tap):
        yield


@contextlib.contextmanager
def _output_tapped(net: nn.Module, tap: Any) -> Iterator[None]:
    """The same for what the network's own forward returns, before the method has read and connected it."""
    stand_in = vars(net).get("forward")
    if not isinstance(stand_in, Forward):
        raise RuntimeError("no method is attached to this network any more, so there is nothing to look at")
    learner, before = stand_in.learner, stand_in.learner.replaced
    own = before or type(net).forward.__get__(net)

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        held = tap(OUTPUT, output)
        return output if held is None else held

    learner.replaced = forward
    try:
        yield
    finally:
        learner.replaced = before


@contextlib.contextmanager
def _removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        _remove(handles)


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
