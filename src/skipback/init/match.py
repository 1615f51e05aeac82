"""Weight matching: set the weights between the ports to the product of the feedback on both sides (FWM)."""

from __future__ import annotations

import torch
from torch import nn

from skipback.learner import Learner


def matched(learner: Learner) -> list[str]:
    """Set W_l = B_l^T B_{l-1} where a dense layer leads from one port to the next, and the head's weight to B_{L-1}.

    With the feedback of `fwm()` these are the weights that the feedback was initialised from, projected to rank C.
    Biases, the first layer and every other layer stay. (Feedback-Weight Matching, ICLR 2026, equation 7 as given in a
    summary.)

    Args:
        learner: with a direct method, and its blocks found.

    Returns:
        The names of the layers that were set.

    Raises:
        ValueError: the method has no feedback at the ports, or no layer fits.
    """
    if learner.direct is None or learner.layout is None:
        raise ValueError("weights are matched to the feedback of a direct method: attach one, with example=x")
    B = {block: tensor.detach().flatten(1) for block, tensor in learner.feedback.items()}
    ports = [segment.block for segment in learner.layout.segments[:-1]]
    above = dict(zip(ports, [*(B.get(block) for block in ports[1:]), None], strict=True))
    found = []
    for cut in learner.layout.cuts:
        layer, last = learner.net.get_submodule(cut.module), cut.block == ports[-1]
        if not cut.before or not isinstance(layer, nn.Linear) or cut.block not in B:
            continue
        upper = above[cut.block]
        W = B[cut.block] if last else None if upper is None else upper.T @ B[cut.block]
        if W is not None and W.shape == layer.weight.shape:
            with torch.no_grad():
                layer.weight.copy_(W)
            found.append(cut.module)
    if not found:
        raise ValueError("no dense layer stands between two ports, so there is no weight to match")
    return found
