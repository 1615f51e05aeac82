"""Tangents: run a network once more in forward mode, along random directions at its cuts or in its parameters.

    dy_n = sum_k (dy_n / dh_k) u_k + (dy_n / dw) v        h_k the activation at cut k, u_k its noise, w the parameters

The activations are those of the plain network; the noise is added to their tangents only. No graph is recorded, so a
pass takes about as long as one forward pass and caches no activations.

Call it *before* the training pass: it starts from the same random state and buffers, so it draws the same dropout
masks, and it restores both, so the training pass starts from them too. It runs in full precision, as
PyTorch's forward mode mixes types under autocast, and with those kernels of attention and recurrent layers that have a
forward-mode rule (their dropout may draw other masks than a fused kernel does).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipback.blocks import NO_OUTPUT, Cut, Layout, Place, Sites, cutting, first_tensor, map_tensors, tensors
from skipback.blocks.contexts import same_random_state
from skipback.blocks.outputs import joined_output
from skipback.streams import COMPILED, refuse_compiled

Noise = Callable[[Cut, Tensor], Tensor]
"""(cut, the dual tensor there (N, *P)) -> the direction (N, *P) in which it is perturbed."""


def tangent_pass(
    net: nn.Module,
    layout: Layout | None,
    args: Any,
    kwargs: Any,
    noise: Noise | None,
    directions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Run the network in forward mode. Returns the tangent of its (joined) output (N, C...).

    Args:
        net: the network; its buffers, the random state and the inputs do not change.
        layout: where noise is added to the tangent, and which outputs count; `None` for nowhere, and the first.
        args: positional inputs of the network.
        kwargs: named inputs of the network.
        noise: draws the direction at a cut, each time that the pass reaches it; `None` adds none.
        directions: by parameter name, the direction of each perturbed parameter, of the parameter's shape.

    Raises:
        NotImplementedError: the network has an operation without a forward-mode rule.
    """
    refuse_compiled()
    return _uncompiled()(net, layout, args, kwargs, noise, directions or {})


@functools.cache
def _uncompiled() -> Callable[..., Tensor]:
    """Return the pass with torch.compile disabled: without fullgraph=True, compiled code gets here by a graph break.

    In compiled code the pass would silently lose the tangents. Not a decorator, which would import the compiler at once
    and so take a second.
    """
    function: Callable[..., Tensor] = torch.compiler.disable(_pass, reason=COMPILED)
    return function


def _pass(
    net: nn.Module, layout: Layout | None, args: Any, kwargs: Any, noise: Noise | None, directions: Mapping[str, Tensor]
) -> Tensor:
    like = _like(net)
    dtype = like.dtype if torch.is_autocast_enabled(like.device.type) else None
    noisy = contextlib.nullcontext() if layout is None or noise is None else _noisy(net, layout, noise)
    with _forward_mode(net), noisy:
        inputs, named = _copies((args, kwargs), dtype)
        try:
            tree = _run(net, directions, inputs, named)
        except (NotImplementedError, RuntimeError) as error:
            raise _named(error, net) from error
        output = first_tensor(tree) if layout is None else joined_output(tree, layout)
        if output is None:
            raise ValueError(NO_OUTPUT)
        primal, tangent = forward_ad.unpack_dual(output)
        return torch.zeros_like(primal) if tangent is None else tangent.clone()


class _Forward(nn.Module):
    """The forward of a network without the hooks on the network itself: the learner's must not nest."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net.forward(*args, **kwargs)


def _run(net: nn.Module, directions: Mapping[str, Tensor], args: Any, kwargs: Any) -> Any:
    parameters = dict(net.named_parameters())
    taken = {f"net.{name}": _dual(parameters[name].detach(), v) for name, v in directions.items()}
    # copies of the buffers: restoring them in place would break a graph that has saved them for its backward
    taken |= {f"net.{name}": buffer.clone() for name, buffer in net.named_buffers()}
    return torch.func.functional_call(_Forward(net), taken, args, kwargs)


@contextlib.contextmanager
def _forward_mode(net: nn.Module) -> Iterator[None]:
    """Context of a pass: forward mode on, no graph, full precision, random state and buffers restored at its end."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled parts of the network run uncompiled
        stack.enter_context(torch.no_grad())
        stack.enter_context(same_random_state(net))
        stack.enter_context(torch.autocast(_like(net).device.type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in net.modules()):
            stack.enter_context(_off(torch.backends.mkldnn))
            stack.enter_context(_off(torch.backends.cudnn))
        stack.enter_context(forward_ad.dual_level())
        yield


@contextlib.contextmanager
def _off(backend: Any) -> Iterator[None]:
    # not its flags(): that sets all the others too, and some of them warn
    before, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = before


def _like(net: nn.Module) -> Tensor:
    return next(net.parameters())


def _copies(inputs: Any, dtype: torch.dtype | None) -> Any:
    """Copy the inputs, as a network may overwrite them; cast to full precision where autocast was on."""
    return map_tensors(inputs, lambda t: t.detach().to(dtype if t.is_floating_point() else None, copy=True))


def _dual(primal: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(primal, tangent)
    return dual


@contextlib.contextmanager
def _noisy(net: nn.Module, layout: Layout, noise: Noise) -> Iterator[None]:
    """Inside, the noise of each cut is added to the tangent that passes it, for all readers of the tensor."""
    sites = Sites(layout)
    done: dict[int, tuple[Tensor, Tensor]] = {}  # by id, with the tensor, so that the id stays its own

    def add(place: Place, tree: Any) -> Any:
        seen = tensors(tree)
        for position, block in sites.at(place).items():
            if block is not None and position < len(seen) and id(seen[position]) not in done:
                flowing, cut = seen[position], Cut(block=block, place=place, position=position)
                done[id(flowing)] = flowing, _perturbed(cut, noise, flowing)
        if not any(id(t) in done for t in seen):
            return None
        return map_tensors(tree, lambda t: done[id(t)][1] if id(t) in done else t)

    with cutting(net, layout.places.values(), add):
        yield


def _perturbed(cut: Cut, noise: Noise, flowing: Tensor) -> Tensor:
    """The tensor with noise added to its tangent."""
    primal, tangent = forward_ad.unpack_dual(flowing)
    drawn = noise(cut, flowing)
    if cut.place.in_place and not flowing._is_view():
        # in the tensor itself, which other readers hold, too
        return flowing.add_(_dual(torch.zeros_like(primal), drawn))
    # a copy, as an in-place activation behind the cut overwrites the tangent, and the caller needs its noise
    return _dual(primal, drawn.clone() if tangent is None else tangent + drawn)


_REWRITE = "write it with other operations (or give its autograd.Function a jvp)"


def _named(error: Exception, net: nn.Module) -> Exception:
    """If forward mode is the cause of an error, explain it by operation, module and remedy; else return it."""
    text = str(error)
    # a product with a sparse tensor asks for its tangent, a tensor of zeros that no sparse backend can make
    sparse = re.search(r"_efficientzerotensor.*'Sparse|forward AD with _?sparse", text, re.DOTALL)
    if not sparse and not re.search(r"forward AD|forward mode|jvp", text, re.IGNORECASE):
        return error
    operation = re.search(r"forward AD with (\S+)", text)
    what = f"operation {operation[1]!r}" if operation else f"an operation ({text.splitlines()[0]})"
    what = "a product with a sparse tensor" if sparse else what
    fix = "pass the tensor dense (A.to_dense())" if sparse else _REWRITE
    return NotImplementedError(
        f"{what} in module {_where(error.__traceback__, net)!r} has no forward-mode derivative, which this method "
        f"needs: {fix}, or use a method without forward mode, e.g. dfa()"
    )


def _where(traceback: TracebackType | None, net: nn.Module) -> str:
    """The name of the innermost module that was running."""
    names = {id(module): name or type(module).__name__ for name, module in net.named_modules()}
    found = type(net).__name__
    while traceback is not None:
        found = names.get(id(traceback.tb_frame.f_locals.get("self")), found)
        traceback = traceback.tb_next
    return found
