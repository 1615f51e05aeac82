"""Zeros: start with all weights and biases at 0.

Direct feedback teaches a hidden layer without its later weights, so training can start from zeros: the first step
updates only the first block's weights (all later inputs are 0), later steps the others. Backprop stays at 0, and so
does any method behind a ReLU, whose derivative at 0 is 0.

Feedback that is a copy of the weights (FA as published) must be copied before they are set to 0: attach first.

Paper: Nøkland, Direct Feedback Alignment Provides Learning in Deep Neural Networks (2016), arXiv 1609.01596; its code
starts every dense and convolution layer of its tanh and sigmoid networks so, the output's and the biases included. For
FA it copies the weights first, and leaves the first layer of the MLP as drawn, which is an ordinary one there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from skipback.blocks import tensors
from skipback.blocks.contexts import untouched

DENSE = (nn.Linear,)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
DEAD = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardshrink, nn.Softshrink)
"""Activations whose derivative at 0 is 0."""
DEAD_OPERATIONS = ("ReluBackward0", "ThresholdBackward0", "HardshrinkBackward0", "SoftshrinkBackward0")
"""The same activations as functions, by the names of their autograd nodes."""


def zeros(net: nn.Module, example: Any = None, *, kept: Collection[str] = ()) -> None:
    """Set the weights and biases of all dense and convolution layers to 0, the output's included.

    Norms, embeddings, recurrent layers and attention's own parameters stay as they are.

    Args:
        net: with tanh, sigmoid or another activation that has a slope at 0. No method need be attached; one whose
            feedback is a copy of the weights must be.
        example: an input (or a tuple of inputs). With it, a ReLU that is called as a function (`F.relu`) is found too:
            the network runs once, before a method is attached.
        kept: names of layers that stay as they are: the first of an MLP under FA, as published.

    Raises:
        ValueError: the network has a ReLU (or another activation without a slope at 0), a layer computes its weight
            from others, there is no dense or convolution layer, or none that `kept` names. Nothing was changed then.
    """
    layers = filled_layers("zeros", net)
    if unknown := sorted(set(kept) - set(layers)):
        raise ValueError(f"zeros: no dense or convolution layer {unknown[0]!r} to keep; there are {', '.join(layers)}")
    layers = {name: layer for name, layer in layers.items() if name not in kept}
    _refuse_dead(net, example)
    refuse_computed("zeros", layers, "0 cannot be written into it")
    with torch.no_grad():
        for layer in layers.values():
            for p in layer.parameters(recurse=False):
                p.zero_()


def weight_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The dense and convolution layers by name, in the order in which the network registers them."""
    return {name: m for name, m in net.named_modules() if isinstance(m, DENSE + CONVOLUTIONS)}


def filled_layers(what: str, net: nn.Module) -> dict[str, nn.Module]:
    """The `weight_layers` of a network that has some.

    Raises:
        ValueError: it has none; the message begins with `what`.
    """
    layers = weight_layers(net)
    if not layers:
        raise ValueError(f"{what}: the network has no dense or convolution layer")
    return layers


def refuse_computed(what: str, layers: Mapping[str, nn.Module], so: str) -> None:
    """Refuse a layer whose weight is no parameter, into which nothing could be written.

    Raises:
        ValueError: there is one; the message begins with `what`, and says what follows.
    """
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise ValueError(
                f"{what}: layer {name!r} computes its weight from other parameters (weight norm, a parametrization), "
                f"so {so}: take that off first"
            )


def _refuse_dead(net: nn.Module, example: Any) -> None:
    dead = [f"{name!r} ({type(m).__name__})" for name, m in net.named_modules() if isinstance(m, DEAD)]
    if not dead and example is not None:
        dead = [f"an operation in forward ({name})" for name in sorted(_operations(net, example))]
    if dead:
        raise ValueError(
            f"zeros: {', '.join(dead)}: its slope at 0 is 0, so from weights of 0 nothing before it would ever learn. "
            "Use tanh or sigmoid, or keep the random weights"
        )


def _operations(net: nn.Module, example: Any) -> set[str]:
    """The operations without a slope at 0 in the autograd graph of one forward pass."""
    inputs = example if isinstance(example, tuple) else (example,)
    with untouched(net), torch.enable_grad():
        return _names(tensors(net(*inputs))) & set(DEAD_OPERATIONS)


def _names(outputs: list[Tensor]) -> set[str]:
    found: set[Node] = set()
    stack = [y.grad_fn for y in outputs]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
    return {node.name() for node in found}
