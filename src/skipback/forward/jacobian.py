"""The mean output Jacobian at all ports at once, from random directional derivatives.

    dy_n = sum_k J_{k,n} p_{k,n}          one forward-mode pass; p ~ N(0, 1), fresh per sample, unit and port
    E_k  = mean_n dy_n p_{k,n}^T          (C, *P_k); its expectation is mean_n J_{k,n}, since the p are independent

(Bacho & Chu, arXiv 2212.07282.) Several tangents are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from skipback.blocks import Cut
from skipback.blocks.rows import output_rows
from skipback.blocks.specs import PortSpec
from skipback.core.feedback import ForwardPasses, Matrix, Sees
from skipback.forward.tangents import tangent_pass


@dataclass(frozen=True, kw_only=True)
class FromJacobian(Matrix):
    """A matrix that learns from estimates of the output Jacobian: its page says how.

    Attributes:
        draw: how B starts.
        tangents: random directions per step, one forward-mode pass each.
    """

    tangents: int = 1
    learns = True
    sees = Sees.JACOBIAN

    def __post_init__(self) -> None:
        if self.tangents < 1:
            raise ValueError(f"tangents must be 1 or more, got {self.tangents}")

    @override
    def forward_mode(self, passes: ForwardPasses) -> Mapping[str, Tensor]:
        assert passes.stream is not None
        generator = passes.stream.next(next(passes.net.parameters()).device)
        return estimate(passes, generator=generator, tangents=self.tangents)


def estimate(passes: ForwardPasses, *, generator: Generator, tangents: int) -> dict[str, Tensor]:
    """Estimate the batch mean of dy/dh at every port that the pass reaches. Positions of a sequence count as samples.

    Args:
        passes: the network, its ports and the inputs; nothing of them changes.
        generator: draws the directions.
        tangents: number of directions that are averaged, one pass each.

    Returns:
        The estimate of each block (C, *P). A block that is called several times gets the mean over its calls.
    """
    total: dict[str, Tensor] = {}
    for _ in range(tangents):
        for block, one in _once(passes, generator).items():
            total[block] = total[block] + one if block in total else one
    return {block: summed / tangents for block, summed in total.items()}


def _once(passes: ForwardPasses, generator: Generator) -> dict[str, Tensor]:
    directions: dict[str, list[Tensor]] = {}

    def noise(cut: Cut, port: Tensor) -> Tensor:
        p = torch.randn(port.shape, generator=generator, device=generator.device).to(port)
        directions.setdefault(cut.block, []).append(p)
        return p

    dy = tangent_pass(passes.net, passes.layout, passes.args, passes.kwargs, noise)
    mean = {block: torch.stack(ps).mean(0) for block, ps in directions.items()}  # one p per call of the block
    return {block: _product(dy, p, passes.ports[block]) for block, p in mean.items()}


def _product(dy: Tensor, p: Tensor, port: PortSpec) -> Tensor:
    """Return mean_r d_r p_r^T over the rows of the port."""
    d = port.rows.of_signal(output_rows(dy), dy.shape, p.shape)
    total: Tensor = torch.tensordot(d, port.rows.of_port(p, port.shape).to(d), dims=([0], [0]))
    return total / len(d)
