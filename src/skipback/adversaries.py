"""Adversarial training: each batch is moved to where the loss grows fastest, and the method learns from that.

    x' = x + eps sign(dL/dx)          dL/dx by plain backprop, whatever the method (fast gradient sign)

Then the step that the method makes on x'. Nøkland used it as the regulariser of his best MNIST runs (eps 0.08 on pixels
in 0..1); his code does not clip x' to the range of the pixels, and neither does this.

Papers: Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv 1412.6572;
Nøkland 2016, arXiv 1609.01596 (dfa-torch: `eps`, and `accGradient` for the gradients that are kept).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skipback.core.learner import TaughtNetwork
from skipback.core.records import Loss


def adversarial(
    learner: TaughtNetwork, x: Tensor, t: Tensor, loss: Loss, eps: float, *, keep_gradients: bool = False
) -> Tensor:
    """The inputs of a batch, moved by `eps` in the sign of the loss's gradient.

        x = skipback.adversarial(learner, x, t, F.cross_entropy, eps=0.08)
        learner.step(x, t, loss=F.cross_entropy, update=update)

    The pass is one of the mode that the network is in: in training mode dropout draws masks of its own, and the running
    statistics of batch norm see the clean batch too, as in dfa-torch.

    Args:
        learner: its network is run plainly; the method takes no part.
        x: inputs (N, ...), floating point. They are left as they are.
        t: targets (N, ...), of the loss.
        loss: loss(output, target). How it is reduced does not matter, but to the gradients that are kept.
        eps: how far each number of the input is moved, in its own unit.
        keep_gradients: add the gradients of the weights, by plain backprop on the clean batch, to `.grad`. What the
            method adds to them then is not free of backprop any more (dfa-torch's `accGradient`).

    Returns:
        x + eps sign(dL/dx) (N, ...), without a graph.

    Raises:
        ValueError: the inputs are not floating point, such as tokens, or eps is no positive number; or the loss does
            not depend on the input.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"adversarial inputs are moved by a small step, and {kind} cannot be: x must be floating point"
        )
    if not (0 < eps < math.inf):
        raise ValueError(f"eps must be a positive number, got {eps!r}")
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad(), learner.exact():
        value = loss(learner(leaf), t)
        if keep_gradients:
            value.backward()
            g = leaf.grad
        else:
            (g,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if g is None:
        raise ValueError("the loss does not depend on x, so there is no direction in which it grows")
    return (leaf.detach() + eps * g.sign()).detach()
