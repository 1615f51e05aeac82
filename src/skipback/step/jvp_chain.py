"""A chain of dense blocks with its mean output Jacobian, in closed form: value and tangent in one product.

    [a; a'] = [h; h'] W^T        a gets the bias; h' = f'(a) a', and the noise of the port behind the block

Each [h; h'] is one tensor, the next block's input without a copy.

Each pass also computes the ordinary activations, so the last one doubles as the training forward pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skipback.step.chain import Chain
from skipback.step.rules import Dense, Rule
from skipback.streams import Stream


def all_dense(chain: Chain) -> bool:
    """Whether all blocks have the closed form, and at least one of them is hidden."""
    return bool(chain.hidden) and chain.dense


def forward_with_jacobian(
    chain: Chain, x: Tensor, stream: Stream, tangents: int
) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    """Run a chain forward, and estimate its Jacobians as `engine.jacobian.estimate` does, from the same noise.

    Args:
        chain: dense blocks only.
        x: the input.
        stream: draws the noise.
        tangents: how many directions are averaged, one pass each.

    Returns:
        The output, the estimate (C, D) by block, and the output of each hidden block.
    """
    generator, total = stream.next(x.device), dict[str, Tensor]()
    for _ in range(tangents):
        y, ports, one = _pass(chain, x, generator)
        total = {block: total[block] + found if total else found for block, found in one.items()}
    if tangents > 1:
        total = {block: summed / tangents for block, summed in total.items()}
    return y, total, ports


def _pass(chain: Chain, x: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    ports: list[Tensor] = []
    noises: dict[str, Tensor] = {}
    h, both = x, None
    for block, rule in chain.hidden:
        h, both = _layer(rule, h, both)
        noise = torch.randn(h.shape, generator=generator, device=generator.device).to(h)
        both = torch.cat([h, noise]) if both is None else both
        if ports:
            both[len(h) :].add_(noise)
        noises[block] = noise
        ports.append(h)
    y, both = _layer(chain.head, h, both)
    assert both is not None
    d = both[len(y) :]
    return y, ports, {block: d.t() @ noise / len(y) for block, noise in noises.items()}


def _layer(rule: Rule, h: Tensor, both: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Map [h; h'] to y and [y; y'], which overwrites the pre-activations. Without a tangent h', return y and `None`."""
    assert isinstance(rule, Dense)
    if both is None:
        return rule.run(h), None
    both = F.linear(both, rule.weight)
    a, moved = both[: len(h)], both[len(h) :]
    if rule.bias is not None:
        a.add_(rule.bias)
    y = rule.activate(h, a.clone() if rule.activation.needs_input else a)
    tangent = rule.derived(moved)
    if y is not a:
        a.copy_(y)
    if tangent is not moved:
        moved.copy_(tangent)
    return y, both
