"""Init: weights to start from, beside those that the network was built with.

    zeros(net)                        all dense and convolution layers 0, the published start of DFA on tanh
    normal(net, std)                  all dense and convolution layers from N(0, std^2), the start of the 2017 notebooks
    prealigned(learner, x, t, loss)   weights that carry the error as the fixed feedback does
    matched(learner)                  weights that are products of the feedback, for fine-tuning by `fwm`

All write the weights in place, so an optimizer that holds them goes on.
"""

from __future__ import annotations

from skipback.init.match import matched
from skipback.init.normal import normal
from skipback.init.prealign import Aligned, Prealignment, prealigned
from skipback.init.zero import zeros

__all__ = ["Aligned", "Prealignment", "matched", "normal", "prealigned", "zeros"]
