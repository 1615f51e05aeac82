"""Direct feedback alignment: the output error goes straight to every block through a fixed random matrix.

    teaching_l = e B_l          with e = dL/dy (N, C), B_l (C, D_l) drawn once and never changed

    e     gradient of the loss at the output, exact for any loss; its batch scaling is the loss's own
    B_l   feedback of port l; drawn from U(-1/sqrt(D_l), 1/sqrt(D_l))

Inside a block autograd applies f' and the rest; nothing passes below it. Needs the output, no weight of another block.

Paper: Nøkland, "Direct Feedback Alignment Provides Learning in Deep Neural Networks", NIPS 2016, arXiv 1609.01596.
Defaults: feedback draw from the code of the paper (dfa-torch, `rfb_mag = 0`).

Deviations of the library's convention from the published code:
1. Batch scaling. dfa-torch teaches every layer, the head too, by sigma(y) - t summed over batch and classes; here e
   carries the scaling of the loss (usually a mean). `as_published` sends link(y) - t summed to the hidden layers; the
   head gets the gradient of the loss, so sum that as well, `reduction="sum"` of a BCE on logits (the lab does, where no
   `--reduction` is given). With a mean the head's rate is 1/(N C) of the published one: Adam and RMSprop hide it, SGD
   does not. F3 and principled-dfa teach the head by the mean beside summed hidden layers, and have pages of their own.
   The sum of a squared error teaches the head 2 (y - t).
2. Zero start. dfa-torch sets all forward weights of tanh and sigmoid nets to 0; that is a choice of the network, not of
   the method, and not made here.
3. The F3 code's DFA (`current_error`) has the opposite sign, t - y, which is -B: the same in distribution for every
   symmetric draw. It also runs the network once more in eval mode for y; here y is the output of the training pass.
"""

from __future__ import annotations

from skipback.core.feedback import Feedback, Fixed
from skipback.core.method import Direct
from skipback.papers import NOKLAND_2016
from skipback.signals import Link, LossGradient, OutputError, sigmoid

PAPER = NOKLAND_2016
REDUCTION = "sum"
"""Of the published loss, which is the head's own."""


def dfa(*, feedback: Feedback = Fixed()) -> Direct:
    """Direct feedback alignment, for any loss.

    Args:
        feedback: how the error is projected to a port.
    """
    return Direct(paper=PAPER, signal=LossGradient(), feedback=feedback)


def as_published(*, feedback: Feedback = Fixed(), link: Link = sigmoid) -> Direct:
    """The published update: link(y) - t, summed over the batch (deviation 1).

    Args:
        feedback: how the error is projected to a port.
        link: from the network's output to the prediction: sigmoid for BCE, identity for MSE, softmax for CE.
    """
    return Direct(paper=PAPER, signal=OutputError(link), feedback=feedback)
