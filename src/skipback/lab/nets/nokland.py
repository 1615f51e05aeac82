"""The convolutional network of Nøkland 2016 (arXiv 1609.01596; anokland/dfa-torch, conv.lua).

For 32 x 32 pixels and three colours, C = 10: 10,071,562 parameters.

| layer | output | dropout |
|---|---|---|
| input | 3x32x32 | 0.1 |
| conv 96 of 5x5, padding 2 -> [batch norm] -> act -> [dropout] -> max pool 3, stride 2 | 96x15x15 = 21600 | 0.25 |
| conv 128 of 5x5, padding 2 -> [batch norm] -> act -> [dropout] -> max pool 3, stride 2 | 128x7x7 = 6272 | 0.25 |
| conv 256 of 5x5, padding 2 -> [batch norm] -> act -> [dropout] -> max pool 3, stride 2 | 256x3x3 = 2304 | 0.5 |
| Linear 2048 -> [batch norm] -> act -> [dropout] | 2048 | 0.5 |
| Linear 2048 -> [batch norm] -> act -> [dropout] | 2048 | 0.5 |
| Linear C | C | |

The ports are the outputs of the rows, after pooling and dropout. `DROPOUT` are the rates of the code's dropout 1;
its dropout 2 is (0, 0.25, 0.25, 0, 0, 0), and its batch norm 2 is `batch_norm_at` (2,). For tanh under DFA the
code starts all weights at 0 (`zero_init`).
Deviation: torch7 draws the gain of a batch norm from U[0, 1); here it is 1, and eps is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from skipback.lab.nets.base import image, rates_of
from skipback.lab.nets.mlp import zeroed

DROPOUT = (0.1, 0.25, 0.25, 0.5, 0.5, 0.5)
"""On the input and after each hidden layer, with the code's dropout 1."""


def nokland_conv(
    shape: tuple[int, ...],
    outputs: int,
    *,
    activation: Callable[[], nn.Module] = nn.Tanh,
    batch_norm: bool = False,
    batch_norm_at: Sequence[int] | None = None,
    dropout: float | Sequence[float] = 0.0,
    bias: bool = True,
    zero_init: bool = False,
) -> nn.Sequential:
    """Build the network.

    Args:
        shape: (channels, height, width), at least 15 x 15.
        outputs: C.
        activation: of the hidden layers.
        batch_norm: after each hidden weight layer.
        batch_norm_at: after these of the five only, counted from 1.
        dropout: one probability, after each hidden activation, or six, the first of them on the input.
        bias: of every weight layer.
        zero_init: start all weights and biases at 0.

    Raises:
        ValueError: the inputs are no images, or too small, zero weights under ReLU, or there is no such hidden layer.
    """
    channels, height, width = image("nokland-conv", shape, 15)
    first, *rates = rates_of(dropout, 6, range(1, 6))
    normed = _normed(batch_norm, batch_norm_at)
    maps = ((channels, 96), (96, 128), (128, 256))
    layers: list[nn.Module] = _drop(first)
    for k, (i, o) in enumerate(maps):
        norm = [nn.BatchNorm2d(o)] if k in normed else []
        conv = nn.Conv2d(i, o, 5, padding=2, bias=bias)
        layers += [conv, *norm, activation(), *_drop(rates[k]), nn.MaxPool2d(3, 2)]
        height, width = (height - 1) // 2, (width - 1) // 2
    layers.append(nn.Flatten())
    for k, (i, o) in enumerate(((256 * height * width, 2048), (2048, 2048)), 3):
        norm_1d = [nn.BatchNorm1d(o)] if k in normed else []
        layers += [nn.Linear(i, o, bias=bias), *norm_1d, activation(), *_drop(rates[k])]
    net = nn.Sequential(*layers, nn.Linear(2048, outputs, bias=bias))
    return zeroed(net) if zero_init else net


def _normed(batch_norm: bool, at: Sequence[int] | None) -> set[int]:
    """The hidden layers, from 0, that are normalised."""
    if wrong := [layer for layer in at or () if not 1 <= layer <= 5]:
        raise ValueError(f"batch norm after hidden layer {wrong[0]}: nokland-conv has the hidden layers 1 to 5")
    return {layer - 1 for layer in at or range(1, 6)} if batch_norm else set()


def _drop(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate else []
