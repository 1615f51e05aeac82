"""Behind: which weight layers read a port directly, so that their weights alone make the gradient there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils.parametrize import ParametrizationList

from skipback.blocks import first_tensor
from skipback.blocks.contexts import untouched
from skipback.blocks.outputs import Outputs
from skipback.learner import Learner
from skipback.routes.transported import Convolution, Linear

SOLVED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose backward is linear in a weight that can be solved for."""


@dataclass(frozen=True, kw_only=True)
class LayerTrace:
    """One call of a layer.

    Attributes:
        entering: the autograd edge of its input; `None` if no parameter before it is trained.
        leaving: the autograd edge of its output.
        shape: of its input.
    """

    entering: GradientEdge | None
    leaving: GradientEdge | None
    shape: torch.Size


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One plain pass: the output, the ports by block, and the calls of each layer by name."""

    outputs: Outputs
    ports: dict[str, GradientEdge]
    calls: dict[str, list[LayerTrace]]

    def port_before(self, name: str) -> str | None:
        """The block whose port is the input of a layer; `None` if another tensor is."""
        (call,) = self.calls[name]
        if call.entering is None:
            return None
        place = call.entering[:2]  # the node and the number of its output; the rest only holds a reference
        return next((block for block, edge in self.ports.items() if edge[:2] == place), None)


def observe(learner: Learner, names: Iterable[str], inputs: tuple[Any, ...]) -> Seen:
    """Run the plain network once, and record the inputs and outputs of these layers."""
    calls: dict[str, list[LayerTrace]] = {name: [] for name in names}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            h = first_tensor((args, kwargs))
            shape = torch.Size() if h is None else h.shape
            calls[name].append(LayerTrace(entering=_edge(h), leaving=_edge(first_tensor(output)), shape=shape))

        return hook

    handles = [learner.net.get_submodule(n).register_forward_hook(note(n), with_kwargs=True) for n in calls]
    try:
        outputs, ports = learner.observe(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Seen(outputs=outputs, ports=ports, calls=calls)


def _edge(tensor: Tensor | None) -> GradientEdge | None:
    return get_gradient_edge(tensor) if tensor is not None and tensor.requires_grad else None


def plan(learner: Learner, inputs: tuple[Any, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """The layers that can be solved, with their ports, in the order of the calls; and why the other layers cannot."""
    weighted = {name: module for name, module in learner.net.named_modules() if _weighted(module)}
    order: list[str] = []
    handles = [m.register_forward_pre_hook(lambda m, args, n=n: order.append(n)) for n, m in weighted.items()]
    try:
        with untouched(learner.net), torch.enable_grad():
            seen = observe(learner, weighted, inputs)
    finally:
        for handle in handles:
            handle.remove()
    skipped = {name: _why_not(learner, name, module, seen) for name, module in weighted.items()}
    ports = {name: seen.port_before(name) or "" for name in order if not skipped[name]}
    return ports, {name: why for name, why in skipped.items() if why}


def _weighted(module: nn.Module) -> bool:
    """Whether it has a weight matrix, its own or computed."""
    if isinstance(module, ParametrizationList):  # belongs to the layer whose weight it computes
        return False
    return isinstance(module, SOLVED) or any(p.dim() >= 2 for p in module.parameters(recurse=False))


def _why_not(learner: Learner, name: str, module: nn.Module, seen: Seen) -> str:
    """Why a module's weight cannot be solved for; empty if it can."""
    why = _unsolved(module)
    if why:
        return why
    assert isinstance(module, SOLVED)
    weight = module._parameters.get("weight")
    if weight is None:
        return "it computes its weight from other parameters (weight norm, a parametrization)"
    if not weight.requires_grad:
        return "its weight is frozen"
    if [id(p) for _, p in learner.net.named_parameters(remove_duplicate=False)].count(id(weight)) > 1:
        return "another module has the same weight"
    if len(seen.calls[name]) != 1:
        return f"it is called {len(seen.calls[name])} times in a pass"
    return "" if seen.port_before(name) else "no port stands directly before it"


def _unsolved(module: nn.Module) -> str:
    if not isinstance(module, SOLVED):
        return f"it is a {type(module).__name__}; dense and convolution layers are solved"
    if isinstance(module, nn.Linear):
        return ""
    if module.padding_mode != "zeros":
        return f"its padding is {module.padding_mode!r}; zeros are solved"
    if _padding(module) is None:
        return "it pads more on one side than on the other"
    return ""


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...] | None:
    """Zeros on each side; `None` where the sides differ ("same" with an even reach)."""
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "valid":
        return tuple(0 for _ in reach)
    return None if any(r % 2 for r in reach) else tuple(r // 2 for r in reach)


def form(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Linear | Convolution:
    """The linear map that a layer is."""
    if isinstance(layer, nn.Linear):
        return Linear()
    padding = _padding(layer)
    assert padding is not None
    return Convolution(stride=layer.stride, padding=padding, dilation=layer.dilation, groups=layer.groups)
