"""Feedback-weight matching: feedback for a pretrained network, factors of the weights that it has.

    teaching_l = e B_l                      e = dL/dy (N, C); B_l fixed
    B_{L-1}    = W_L                        the head's weight (C, D_{L-1})
    B_{l-1}    = (B_l^T)^+ W_l              so that B_l^T B_{l-1} is W_l as far as rank C allows; ^+ pseudo-inverse

Random feedback first destroys what a pretrained network knows; this feedback is aligned with its weights from the
first step. Attach *after* the weights were loaded: they are transported once, then no more. The paper then sets the
weights to the product, W_l = B_l^T B_{l-1} (`skipback.init.matched(learner)`), and fine-tunes with weight decay,
towards 0: give it to the optimizer. With few outputs the product has a low rank, and little of the network is left.

Weights that no port stands directly before (convolutions, attention's packed projections) are not matched, in the paper
neither: such a port has random feedback, and so have those before it.

Paper: "Feedback-Weight Matching", ICLR 2026, openreview ASwAmbKJHr. Its text could not be read: the equations are those
of a summary and of reviews, the top-down solution is ours.
Defaults: draw of unmatched ports as for `dfa`.

Deviations from the paper:
1. Solver. There "SVD or optimisation" over all factors; here least squares from the head down, so that the chain of
   products is consistent. It keeps less of each W_l than the best factors of rank C would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from typing_extensions import override

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, Matrix, drawn
from skipback.core.method import Direct, Paper
from skipback.draws import Draw, Uniform
from skipback.signals import LossGradient, Signal

PAPER = Paper(
    title="Feedback-Weight Matching",
    authors="eai-lab",
    year=2026,
    venue="ICLR",
    url="https://openreview.net/forum?id=ASwAmbKJHr",
)


@dataclass(frozen=True, kw_only=True)
class Matched(Matrix):
    """Factors of the weights that read the ports; a draw where there is none.

    Attributes:
        draw: of the ports whose reader is no dense layer.
    """

    draw: Draw = field(default_factory=Uniform)

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        above: Tensor | None = None
        found: list[FeedbackTensors] = []
        for k, port in reversed(list(enumerate(ports))):
            above = _factor(port, above, last=k == len(ports) - 1)
            found.append((drawn(self.draw, port, generator) if above is None else above.reshape(-1, *port.shape),))
        return found[::-1]


def _factor(port: PortSpec, above: Tensor | None, *, last: bool) -> Tensor | None:
    """B (C, D) of a port from the weight that reads it and the B of the next port; `None` if there is no match."""
    W = port.reader
    if W is None or W.shape[1] != port.size:
        return None
    W = W.detach()
    if last:
        return W.clone() if len(W) == port.outputs else None
    if above is None or len(W) != above[0].numel():
        return None
    found: Tensor = torch.linalg.pinv(above.flatten(1).T.double()) @ W.double()
    return found.to(W.dtype)


def fwm(*, feedback: Feedback = Matched(), signal: Signal = LossGradient()) -> Direct:
    """Feedback-weight matching.

    Args:
        feedback: what ports get that cannot be matched.
        signal: what is sent.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published() -> Direct:
    """The same update, with another solver (deviation 1)."""
    return fwm()
