"""The convolutional network of Launay, Poli, Krzakala 2019 (arXiv 1906.04554; lightonai/principled-dfa-training, CONV).

For 32 x 32 pixels and three colours, C = 10: 231,306 parameters.

| layer | output |
|---|---|
| [dropout of maps, input rate] | 3x32x32 |
| conv 32 of 5x5, padding 2 -> [dropout of maps] -> act -> [batch norm] -> max pool 3, stride 2 | 32x15x15 = 7200 |
| conv 64 of 5x5, padding 2 -> [dropout of maps] -> act -> [batch norm] -> max pool 3, stride 2 | 64x7x7 = 3136 |
| conv 64 of 5x5, padding 2 -> [dropout of maps] -> act -> [batch norm] -> max pool 3, stride 2 -> flatten | 576 |
| Linear 128 -> [dropout] -> act -> [batch norm] | 128 |
| Linear C | C |

The ports are the outputs of the rows. Deviation: the code loses the port of 128 (its key is overwritten), so there the
Linear 128 is trained by backprop; here it has its port, as the paper says. Its fully connected network is `mlp` with
depth 3, width 800, `dropout_first` and `norm_last`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from skipback.lab.nets.base import image, rates_of
from skipback.lab.nets.mlp import Make, order_of


def launay_conv(
    shape: tuple[int, ...],
    outputs: int,
    *,
    activation: Callable[[], nn.Module] = nn.Tanh,
    batch_norm: bool = False,
    dropout: float | Sequence[float] = 0.0,
) -> nn.Sequential:
    """Build the network.

    Args:
        shape: (channels, height, width), at least 15 x 15.
        outputs: C.
        activation: of the hidden layers.
        batch_norm: after each activation.
        dropout: one probability, in the linear layer and the convolutions, or three, in the code's order: on the
            input, in the linear layer, in the convolutions.

    Raises:
        ValueError: the inputs are no images, or too small, or there are other than one or three probabilities.
    """
    channels, height, width = image("launay-conv", shape, 15)
    first, dense, conv = rates_of(dropout, 3, (1, 2))
    layers: list[nn.Module] = [nn.Dropout2d(first)] if first else []
    for i, o in ((channels, 32), (32, 64), (64, 64)):
        norm = [partial(nn.BatchNorm2d, o)] if batch_norm else []
        layers += [
            nn.Conv2d(i, o, 5, padding=2),
            *_after(norm, activation, [partial(nn.Dropout2d, conv)] if conv else []),
        ]
        layers.append(nn.MaxPool2d(3, 2))
        height, width = (height - 1) // 2, (width - 1) // 2
    of_units = [partial(nn.BatchNorm1d, 128)] if batch_norm else []
    after = _after(of_units, activation, [partial(nn.Dropout, dense)] if dense else [])
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * height * width, 128), *after, nn.Linear(128, outputs))


def _after(norm: Sequence[Make], activation: Make, drop: Sequence[Make]) -> list[nn.Module]:
    """The layers after a weight layer, in this paper's order."""
    return [make() for make in order_of(norm, activation, drop, dropout_first=True, norm_last=True)]
