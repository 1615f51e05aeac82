"""Saturation: which share of the units at a port hardly reacts to its pre-activation?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from skipback.blocks import Cut, first_tensor, tapped
from skipback.blocks.contexts import untouched
from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.aside import layout_of, prepare

FLAT = 0.02
"""A derivative below this is nearly zero. For tanh, 1 - h^2 < 0.02 is |h| > 0.99; for relu it is h = 0."""


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """What was measured at one port.

    Attributes:
        port: the block's name.
        share: of all units of all samples, how many are saturated.
        dead: of all units, how many are saturated for every sample.
    """

    port: str
    share: float
    dead: float


def saturation(learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None) -> list[Saturation]:
    """Measure how many units of each port are saturated. Nothing changes.

    A unit of the port is saturated for a sample if its derivative with respect to the pre-activations (the output of
    the last module with weights before the port) is below 0.02 in size. The derivative is taken along a random
    direction of ones and minus ones, J v: behind an elementwise activation f that is |f'(a)|; behind max pooling it is
    |f'| of the unit that won; behind dropout a dropped unit counts as saturated, so measure in eval mode.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: not used; every measure takes the same arguments.
        loss: not used.
        ids: for delayed signals.
    """
    inputs = prepare(learner, x, ids)
    generator = torch.Generator().manual_seed(0)
    with untouched(learner.net), torch.enable_grad():
        stretches = _run(learner, inputs)
        return [_saturation(port, *stretch, generator) for port, stretch in stretches.items()]


TracedTensor = tuple[GradientEdge, Tensor]
"""A tensor's edge in the autograd graph, and zeros of its shape."""


def _traced(tensor: Tensor) -> TracedTensor:
    return get_gradient_edge(tensor), torch.zeros_like(tensor)  # not the tensor, which a later layer may overwrite


def _run(learner: Learner, inputs: tuple[Any, ...]) -> dict[str, tuple[TracedTensor, TracedTensor]]:
    """The pre-activation and the port of each block, in one plain pass."""
    found: dict[str, tuple[TracedTensor, TracedTensor]] = {}
    last: list[TracedTensor] = []

    def owner(module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.requires_grad:
            last[:] = [_traced(tensor)]

    def keep(cut: Cut, port: Tensor) -> None:
        if last:
            found[cut.block] = (last[0], _traced(port))

    layout = layout_of(learner, inputs)
    weighted = [m for m in learner.net.modules() if next(m.parameters(recurse=False), None) is not None]
    handles: list[RemovableHandle] = [m.register_forward_hook(owner) for m in weighted]
    try:
        with tapped(learner.net, layout, keep), learner.exact():  # after those: a cut behind a module comes last
            learner.net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _saturation(port: str, before: TracedTensor, after: TracedTensor, generator: torch.Generator) -> Saturation:
    flat = (_directional(before, after, generator).abs() < FLAT).flatten(1)
    return Saturation(port=port, share=float(flat.double().mean()), dead=float(flat.all(0).double().mean()))


def _directional(before: TracedTensor, after: TracedTensor, generator: torch.Generator) -> Tensor:
    """J v for J = d after / d before: the derivative of u J along u is J v, for any u."""
    u = after[1].clone().requires_grad_(True)
    (uJ,) = torch.autograd.grad(after[0], before[0], grad_outputs=u, create_graph=True, materialize_grads=True)
    v = (torch.randint(2, before[1].shape, generator=generator) * 2 - 1).to(uJ)
    if not uJ.requires_grad:  # the port does not depend on it at all
        return after[1]
    (Jv,) = torch.autograd.grad(uJ, u, grad_outputs=v, materialize_grads=True)
    return Jv
