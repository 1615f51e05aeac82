"""The mean output Jacobian at all ports at once, from random directional derivatives.

    dy_n = sum_k J_{k,n} p_{k,n}          one forward-mode pass; p ~ N(0, 1), fresh per sample, unit and port
    E_k  = mean_n dy_n p_{k,n}^T          (C, *P_k); its expectation is mean_n J_{k,n}, since the p are independent

(Bacho & Chu, arXiv 2212.07282.) Several tangents are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from skipback.blocks import Cut
from skipback.engine.tangents import tangent_pass
from skipback.types import PortSpec


def estimate(
    net: nn.Module,
    cuts: Sequence[Cut],
    args: Any,
    kwargs: Any,
    ports: Mapping[str, PortSpec],
    *,
    generator: Generator,
    tangents: int,
) -> dict[str, Tensor]:
    """Estimate the batch mean of dy/dh at every port that the pass reaches.

    Args:
        net: the network; nothing of it changes.
        cuts: where its ports are.
        args: positional inputs.
        kwargs: named inputs.
        ports: the port of each block. The positions of a sequence count as samples.
        generator: draws the directions.
        tangents: number of directions that are averaged, one pass each.

    Returns:
        The estimate of each block (C, *P). A block that is called several times gets the mean over its calls.
    """
    total: dict[str, Tensor] = {}
    for _ in range(tangents):
        for block, one in _once(net, cuts, args, kwargs, ports, generator).items():
            total[block] = total[block] + one if block in total else one
    return {block: summed / tangents for block, summed in total.items()}


def _once(
    net: nn.Module,
    cuts: Sequence[Cut],
    args: Any,
    kwargs: Any,
    ports: Mapping[str, PortSpec],
    generator: Generator,
) -> dict[str, Tensor]:
    directions: dict[str, list[Tensor]] = {}

    def noise(cut: Cut, port: Tensor) -> Tensor:
        p = torch.randn(port.shape, generator=generator, device=generator.device).to(port)
        directions.setdefault(cut.block, []).append(p)
        return p

    dy = tangent_pass(net, cuts, args, kwargs, noise)
    mean = {block: torch.stack(ps).mean(0) for block, ps in directions.items()}  # one p per call of the block
    return {block: _product(dy.reshape(-1, ports[block].outputs), p, ports[block]) for block, p in mean.items()}


def _product(d: Tensor, p: Tensor, port: PortSpec) -> Tensor:
    """Return mean_n d_n p_n^T."""
    total: Tensor = torch.tensordot(d, p.reshape(-1, *port.shape).to(d), dims=([0], [0]))
    return total / len(d)
