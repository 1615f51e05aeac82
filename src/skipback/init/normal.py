"""Normal: start with all weights and biases drawn from N(0, std^2), whatever the size of a layer.

The notebooks and scripts of Direct-Feedback-Alignment (iacolippo, 2017) start so with std = 1: with 784 inputs most
tanh units are saturated, which is why their accuracies are low.
"""

from __future__ import annotations

import torch
from torch import Generator, nn

from skipback.init.zero import filled_layers, refuse_computed


def normal(net: nn.Module, std: float, *, generator: Generator | None = None) -> None:
    """Draw the weights and biases of all dense and convolution layers from N(0, std^2), the output's included.

    Norms, embeddings, recurrent layers and attention's own parameters stay as they are. They are drawn on the CPU in
    the order of `net.named_modules()`, so that a seed gives the same weights on every device.

    Args:
        net: the network, before or after a method is attached. Feedback that is a copy of the weights (FA) is a copy of
            what they are when it is attached.
        std: their standard deviation, above 0.
        generator: of the random numbers; `None` for torch's own.

    Raises:
        ValueError: std is not above 0, a layer computes its weight from others, or there is no dense or convolution
            layer. Nothing was changed then.
    """
    if not 0 < std < float("inf"):
        raise ValueError(f"normal: std must be above 0, got {std}")
    layers = filled_layers("normal", net)
    refuse_computed("normal", layers, "nothing can be written into it")
    with torch.no_grad():
        for layer in layers.values():
            for p in layer.parameters(recurse=False):
                p.copy_(std * torch.randn(p.shape, dtype=p.dtype, generator=generator))
