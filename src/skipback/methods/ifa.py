"""Indirect feedback alignment: the error goes to the first port only, and from there forwards with the activity.

    teaching_1 = e B_1                          e = dL/dy (N, C), B_1 (C, D_1) drawn once and never changed
    teaching_l = (dh_l/dh_1) teaching_1         through the forward weights of the blocks between, sample by sample

Inside a block autograd applies f' and the rest. No weight is transposed, but those of earlier blocks are used, in the
direction in which they work anyway. The tangents are found by forward mode before the training pass, in the C
directions B_1[c]: C more forward passes, and C numbers for each unit and sample. Every port must lie behind the first:
a branch beside it is refused, as nothing can be carried there.

Paper: Nøkland, "Direct Feedback Alignment Provides Learning in Deep Neural Networks", NIPS 2016, arXiv 1609.01596,
where it stands beside DFA; its code has no IFA.
Defaults: feedback draw as for `dfa`.

Deviations from the paper:
1. Place of f'. There delta_l = (W_l delta_{l-1}) * f'(a_l) at the pre-activation a_l, which has f' of every layer once.
   Here what arrives at a port h_l is carried on, so a block's own f' stands in the tangent, and once more in its own
   gradient; that of the first block stands only in its own. For linear networks both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from typing_extensions import override

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, ForwardPasses, Lesson, Matrix, Sees
from skipback.core.method import Direct
from skipback.draws import Draw, Uniform
from skipback.forward.relay import relay
from skipback.papers import NOKLAND_2016
from skipback.signals import LossGradient, Signal

PAPER = NOKLAND_2016


@dataclass(frozen=True, kw_only=True)
class Relayed(Matrix):
    """The first port has a matrix, every later one the tangents that the relay brings.

    Attributes:
        draw: fills B_1.
    """

    draw: Draw = field(default_factory=Uniform)
    homogeneous = True
    sees = Sees.RELAY

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        if any(port.positions for port in ports):
            # each position would need forward passes of its own
            raise ValueError("ifa cannot teach the positions of a sequence one by one: use dfa()")
        return [*super().init(ports[:1], generator), *[() for _ in ports[1:]]]

    @override
    def forward_mode(self, passes: ForwardPasses) -> Mapping[str, Tensor]:
        if not passes.ports:
            return {}
        first = next(iter(passes.ports))
        return relay(passes, first, passes.parts[first][0].detach())

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        assert lesson.relayed is not None
        return torch.einsum("nc,cn...->n...", lesson.signal.to(lesson.relayed.dtype), lesson.relayed)


def ifa(*, feedback: Feedback = Relayed(), signal: Signal = LossGradient()) -> Direct:
    """Indirect feedback alignment.

    Args:
        feedback: how the error is projected to the first port.
        signal: what is sent.
    """
    return Direct(paper=PAPER, signal=signal, feedback=feedback)


def as_published() -> Direct:
    """The same update: the paper's own differs in the place of f' (deviation 1)."""
    return ifa()
