"""The fully connected network of nearly every paper of the field, in each paper's order of layers.

    x -> flatten -> [input dropout] -> depth x block -> Linear(C)

    block:                 Linear(width) -> [batch norm] -> activation -> [dropout]   (dfa-torch, FDFA)
    dropout_first:         Linear(width) -> [dropout] -> [batch norm] -> activation
    norm_last:             Linear(width) -> activation -> [dropout] -> [batch norm]
    dropout_first and norm_last:
                           Linear(width) -> [dropout] -> activation -> [batch norm]   (principled-dfa-training)

| source | sizes | activation | parameters |
|---|---|---|---|
| Nøkland 2016 (dfa-torch, mlp.lua), MNIST | 784-800-800-10 | tanh | 1,276,810 |
| Launay et al. 2019 (principled-dfa-training, FC), CIFAR-10 | 3072-800-800-800-10 | tanh | 3,748,010 |
| TinyDFA (MNIST example) | 784-256-256-10 | relu | 269,322 |
| FDFA (fc_mnist; fc_cifar10), batch norm | 784-800-800-10; 3072-1000-1000-10 | relu | 1,280,010; 4,088,010 |
| FDFA (fc_mnist_fwd, forward gradients) | 784-800-10 | relu | 636,010 |
| F3 (start_training), depth 1 width 500, MNIST | 784-500-10 | tanh | 397,510 |
| Direct-Feedback-Alignment (notebooks), MNIST | 784-800-10 | tanh | 636,010 |

Weights and biases start as U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default and that of all these. `zero_init`
starts them all at 0, as dfa-torch does for tanh and logistic units under DFA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from skipback.lab.nets.bottleneck import Middle


def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    activation: Callable[[], nn.Module] = nn.Tanh,
    depth: int = 1,
    width: int = 500,
    batch_norm: bool = False,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    dropout_first: bool = False,
    norm_last: bool = False,
    bias: bool = True,
    bottleneck: Middle | None = None,
    zero_init: bool = False,
) -> nn.Sequential:
    """Build the network.

    Args:
        shape: of one input; it is flattened.
        outputs: C.
        activation: of the hidden layers.
        depth: hidden layers; 0 gives a linear model.
        width: units of each.
        batch_norm: after each hidden linear layer.
        dropout: probability, in each hidden block.
        input_dropout: probability, on the input.
        dropout_first: drop before the activation instead of after it.
        norm_last: normalise after the activation instead of before it.
        bias: of every linear layer.
        bottleneck: makes the middle layer (the second of three), with whose units the next one goes on.
        zero_init: start all weights and biases at 0.

    Raises:
        ValueError: zero weights under ReLU, which never learn, or no middle layer for a bottleneck.
    """
    if bottleneck is not None and depth < 2:
        raise ValueError(f"bottleneck: there is no layer between others at depth {depth}: take 2 or more")
    drop = [partial(nn.Dropout, dropout)] if dropout else []
    hidden: list[nn.Module] = [nn.Flatten(), *([nn.Dropout(input_dropout)] if input_dropout else [])]
    units = math.prod(shape)
    for k in range(depth):
        made = bottleneck if k == depth // 2 else None
        layer = nn.Linear(units, width, bias=bias) if made is None else made(units, bias)
        units = layer.out_features
        norm = [partial(nn.BatchNorm1d, units)] if batch_norm else []
        order = order_of(norm, activation, drop, dropout_first=dropout_first, norm_last=norm_last)
        hidden += [layer, *(make() for make in order)]
    net = nn.Sequential(*hidden, nn.Linear(units, outputs, bias=bias))
    return zeroed(net) if zero_init else net


Make = Callable[[], nn.Module]


def order_of(
    norm: Sequence[Make], activation: Make, drop: Sequence[Make], *, dropout_first: bool, norm_last: bool
) -> list[Make]:
    """What follows a weight layer, in order; `norm` and `drop` hold one constructor or none."""
    before = [*(drop if dropout_first else []), *([] if norm_last else norm)]
    after = [*([] if dropout_first else drop), *(norm if norm_last else [])]
    return [*before, activation, *after]


def zeroed(net: nn.Sequential) -> nn.Sequential:
    """Set the weights and biases of all linear and convolutional layers to 0; norms stay.

    Raises:
        ValueError: a ReLU follows; its gain at 0 is 0, so nothing would ever move.
    """
    if any(isinstance(m, nn.ReLU) for m in net.modules()):
        raise ValueError("zero weights under relu never learn (its slope at 0 is 0): use tanh, or a random start")
    for m in net.modules():
        if isinstance(m, nn.Linear | nn.Conv2d):
            for p in m.parameters():
                nn.init.zeros_(p)
    return net


def linear(
    shape: tuple[int, ...],
    outputs: int,
    *,
    depth: int = 1,
    width: int = 1000,
    zero_init: bool = True,
) -> nn.Sequential:
    """The deep linear network of the Direct-Feedback-Alignment linear notebook: no activation, no bias, zero weights.

    There 10-1000-10, which learns a random matrix: 20,000 parameters.
    """
    return mlp(shape, outputs, activation=nn.Identity, depth=depth, width=width, bias=False, zero_init=zero_init)
