"""Feedback alignment: how close is the feedback of a port to the network's own way from there to the output?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from skipback.blocks.contexts import untouched
from skipback.blocks.rows import PositionRows
from skipback.blocks.specs import PortSpec
from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.alignment import NORM_FLOOR, Verdict, degrees
from skipback.measure.aside import prepare
from skipback.measure.rank import matrices


@dataclass(frozen=True, kw_only=True)
class FeedbackAlignment:
    """What was measured at one port. J is the mean over samples of the output Jacobian dy_n/dh_n (C, D).

    Attributes:
        port: the block's name.
        cosine: cos(B, J), both flattened; 0 where invalid.
        degrees: its angle.
        null_band: two standard deviations of the cosine for a gaussian B, 2 / sqrt(C D).
        feedback_norm: |B|.
        jacobian_norm: |J|.
        verdict: whether the cosine may be read.
    """

    port: str
    cosine: float
    degrees: float
    null_band: float
    feedback_norm: float
    jacobian_norm: float
    verdict: Verdict


def feedback_alignment(
    learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None
) -> list[FeedbackAlignment]:
    """Compare every feedback B_l with the mean Jacobian of the output, by C exact backward passes. Nothing changes.

    For a linear chain the Jacobian is the product of the later weights, W_L ... W_{l+1}, so this is the weight
    alignment of the literature; elsewhere that product does not exist. Where samples share a batch norm, a sample's row
    holds what it does to the outputs of all. Methods without feedback at the ports give an empty list.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: not used: the Jacobian is the network's alone; every measure takes the same arguments.
        loss: not used.
        ids: for delayed signals.
    """
    inputs = prepare(learner, x, ids)
    feedback = matrices(learner)
    if not feedback:
        return []
    jacobians = _jacobians(learner, inputs)
    assert learner.direct is not None
    folded = {port: _own(J, learner.direct.ports[port]) for port, J in jacobians.items()}
    return [_compare(port, B, folded[port]) for port, B in feedback.items() if port in folded]


def _jacobians(learner: Learner, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The mean over samples of dy/dh (C, D) at each port."""
    with untouched(learner.net), torch.enable_grad():
        outputs, ports = learner.observe(*inputs)
        y = outputs.y
        edges: list[GradientEdge] = list(ports.values())
        rows, out = y.reshape(len(y), -1), get_gradient_edge(y)
        one = torch.zeros_like(rows)
        found: list[list[Tensor]] = []
        for c in range(rows.shape[1]):
            seed = one.index_fill(1, torch.tensor([c], device=one.device), 1.0).reshape(y.shape)
            found.append([g.flatten(1).double().mean(0) for g in _vjp(out, edges, seed)])
    return {port: torch.stack(g) for port, g in zip(ports, zip(*found, strict=True), strict=True)}


def _own(J: Tensor, port: PortSpec) -> Tensor:
    """The Jacobian (C, D); for a sequence (V, D), the mean over positions, each with respect to its own port.

    Raises:
        ValueError: a port is taught place by place, where no one Jacobian is what its feedback stands for.
    """
    if not port.positions:
        return J
    if not isinstance(port.rows, PositionRows):
        raise ValueError(
            f"port {port.name!r} is taught place by place, and the Jacobian of a whole image is no matrix (C, D) that "
            "its feedback could be compared with: use alignment()"
        )
    blocks = J.unflatten(0, (-1, port.outputs)).unflatten(2, (-1, port.size))
    own: Tensor = blocks.diagonal(dim1=0, dim2=2).mean(2)
    return own


def _vjp(out: GradientEdge, edges: list[GradientEdge], seed: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, edges, grad_outputs=seed, retain_graph=True, materialize_grads=True)


def _compare(port: str, B: Tensor, J: Tensor) -> FeedbackAlignment:
    norms = float(B.norm()), float(J.norm())
    valid = min(norms) > NORM_FLOOR
    cosine = float((B * J).sum()) / (norms[0] * norms[1]) if valid else 0.0
    band = 2 / B.numel() ** 0.5
    verdict = Verdict.VALID if abs(cosine) > band else Verdict.SUSPICIOUS
    return FeedbackAlignment(
        port=port,
        cosine=cosine,
        degrees=degrees(cosine),
        null_band=band,
        feedback_norm=norms[0],
        jacobian_norm=norms[1],
        verdict=verdict if valid else Verdict.INVALID,
    )
