"""Facts of the networks: parameters, ports and feedback sizes, counted on the meta device, where no weight is stored.

The command line prints them from `facts.json`, which needs no torch; `python benchmarks/net_facts.py` writes it.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import TYPE_CHECKING, Any

from skipback.lab.nets import CARDS, Takes, build

if TYPE_CHECKING:
    from torch import Tensor, nn


def kept() -> dict[str, dict[str, Any]]:
    """The facts of all networks, from `facts.json`: see `describe`."""
    text = resources.files("skipback.lab.nets").joinpath("facts.json").read_text(encoding="utf-8")
    facts: dict[str, dict[str, Any]] = json.loads(text)
    return facts


def rows() -> list[dict[str, str]]:
    """The table of `skipback list`: one row per network, all cells text."""
    return [
        {
            "name": name,
            "input": f"{CARDS[name].takes} {' x '.join(map(str, fact['shape']))}",
            "outputs": str(fact["outputs"]),
            "parameters": f"{fact['parameters']:,}",
            "ports": _ports([port["size"] for port in fact["ports"]]),
            "feedback": f"{fact['feedback']:,}",
            "title": CARDS[name].line,
        }
        for name, fact in kept().items()
    ]


def _ports(sizes: list[int]) -> str:
    """Sizes in order; equal neighbours are counted: 21600 6272 2304 2 x 2048."""
    groups: list[list[int]] = []
    for size in sizes:
        if groups and groups[-1][1] == size:
            groups[-1][0] += 1
        else:
            groups.append([1, size])
    return " ".join(f"{n} x {size}" if n > 1 else str(size) for n, size in groups) or "none"


def describe(name: str) -> dict[str, Any]:
    """Count a network at the sizes of its source.

    Args:
        name: of the table.

    Returns:
        `shape` of one input and `outputs` C; `parameters`, those that are trained; `ports`, each with the `block` that
        is taught there, its `shape` and its `size` D (both of one sample, or of one position where ports and output
        share them); `feedback`, the numbers in all feedback matrices together, C times the sum of D.
    """
    import torch

    card = CARDS[name]
    with torch.device("meta"):
        net = build(name, card.shape, card.outputs, given=card.takes, **card.needs)
        return {"shape": list(card.shape), "outputs": card.outputs, **count(net, inputs(name, 2))}


def inputs(name: str, samples: int) -> tuple[Tensor, ...]:
    """Inputs of a network at the sizes of its source: zeros, or random tokens, codes and edges."""
    import torch

    card = CARDS[name]
    if card.takes is Takes.TOKENS:
        return (torch.randint(0, card.needs["vocabulary"], (samples, *card.shape)),)
    if card.takes is Takes.GRAPH:
        return torch.rand(samples, *card.shape), torch.randint(0, samples, (2, 3 * samples))
    x = torch.randn(samples, *card.shape)
    for k, categories in enumerate(reversed(card.needs.get("categories", ()))):
        x[:, -1 - k] = torch.randint(0, categories, (samples,)).to(x)
    return (x,)


def count(net: nn.Module, args: tuple[Tensor, ...]) -> dict[str, Any]:
    """The parameters, ports and feedback size of any network, from one forward pass."""
    from skipback.blocks import find

    *taught, head = find(net, None, lambda: net(*args)).segments
    ports, feedback = [], 0
    for segment in taught:
        shared = len(head.shape) == 3 and len(segment.shape) > 2 and segment.shape[1] == head.shape[1]
        shape = list(segment.shape[1 + shared :])
        ports.append({"block": segment.block, "shape": shape, "size": math.prod(shape)})
        feedback += math.prod(head.shape[1 + shared :]) * math.prod(shape)
    return {
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "ports": ports,
        "feedback": feedback,
    }
