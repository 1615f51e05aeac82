"""Augmented DFA: another function in place of f', so a physical network needs no derivative of itself.

    delta_l = (e B_l) * g(a_l)      e = dL/dy (N, C), B_l (C, D_l) drawn once and never changed, a_l the pre-activation

Give the weight layers themselves as blocks, `attach(net, augmented_dfa(), blocks=["0", "2"])`: their outputs a_l are
the ports then, and no f' follows. With blocks found by themselves a port holds h_l = f(a_l); the teaching there is
(e B_l) * g(h_l), and autograd adds f'.

Paper: Nakajima, Inoue, Tanaka, Kuniyoshi, Hashimoto, Nakajima, "Physical deep learning with biologically inspired
training method: gradient-free approach for physical hardware", Nature Communications 13, 2022, arXiv 2204.13991.
Defaults: g = cos, our choice (its derivative-like pair is f = sin): the paper's list of functions could not be read.
Feedback draw as for `dfa`.

Deviations: none known; the formula is that of the abstract and of our reference notes, without the paper's text.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback
from skipback.core.method import Direct, Paper
from skipback.signals import LossGradient
from skipback.structures import Gated

PAPER = Paper(
    title="Physical deep learning with biologically inspired training method: gradient-free approach for physical "
    "hardware",
    authors="Mitsumasa Nakajima, Katsuma Inoue, Kenji Tanaka, Yasuo Kuniyoshi, Toshikazu Hashimoto, Kohei Nakajima",
    year=2022,
    venue="Nature Communications 13",
    url="https://arxiv.org/abs/2204.13991",
)


GATED = Gated()
"""Any matrix, and g."""


def augmented_dfa(*, feedback: Feedback = GATED) -> Direct:
    """Augmented direct feedback alignment.

    Args:
        feedback: how the error is projected to a port, and g: `Gated(feedback, gate)`.
    """
    return Direct(paper=PAPER, signal=LossGradient(), feedback=feedback)


def as_published(*, feedback: Feedback = GATED) -> Direct:
    """The same update.

    Args:
        feedback: how the error is projected to a port, and g.
    """
    return augmented_dfa(feedback=feedback)
