"""The table of networks: plain PyTorch modules that know nothing of methods. One card and one file each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from skipback.lab.nets.base import GIVEN, Card, Takes
from skipback.lab.nets.cards import CARDS
from skipback.lab.spellings import Form, parse

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ACTIVATIONS", "CARDS", "SIZES", "TABLE", "Card", "Takes", "build", "unit"]

ACTIVATIONS: dict[str, Form] = {
    "tanh": Form("Tanh"),
    "relu": Form("ReLU"),
    "sigmoid": Form("Sigmoid"),
    "gelu": Form("GELU"),
    "elu": Form("ELU", takes=("alpha",), example="elu:0.5"),
    "leaky-relu": Form("LeakyReLU", takes=("negative_slope",), example="leaky-relu:0.5"),
    "identity": Form("Identity"),
}
"""The activations: each a class of `torch.nn`, and what of it can be said behind a colon."""

TABLE = {name: card.line for name, card in CARDS.items()}
"""Name and line of each network."""

SIZES = tuple(dict.fromkeys(size for card in CARDS.values() for size in card.sizes))
"""All sizes that the lab may set, for one network or another."""


def build(
    name: str,
    shape: tuple[int, ...],
    outputs: int,
    *,
    activation: str | None = None,
    given: Takes = Takes.NUMBERS,
    **sizes: Any,
) -> nn.Module:
    """Build a network of the table.

    Args:
        name: of the table.
        shape: of one input.
        outputs: C, numbers per sample at the output (logits, no final activation).
        activation: a name in `ACTIVATIONS` and its parameters; `None` takes that of the network's source.
        given: what the data set gives: numbers, tokens or a graph.
        sizes: what else the network's own function takes (depth and width for `mlp`), and what its card `needs`.

    Raises:
        ValueError: the network takes something else than the data set gives, or the inputs do not fit it.
    """
    card = CARDS[name]
    if card.takes not in GIVEN.get(given, (given,)):
        fit = ", ".join(n for n, c in CARDS.items() if c.takes in GIVEN.get(given, (given,)))
        raise ValueError(f"net {name!r} takes {card.takes}, and this data set gives {given}: choose one of {fit}")
    chosen = card.activation and (activation or card.activation)
    units = {"activation": unit(chosen)} if chosen else {}
    return card.constructor(shape, outputs, **{**card.fixed, **units, **sizes})


def unit(text: str) -> Callable[[], nn.Module]:
    """The constructor of an activation, of its name and parameters: `leaky-relu:0.5`.

    Raises:
        LabError: there is no such activation, or it has no such parameter.
    """
    from torch import nn

    chosen = parse("activation", text, ACTIVATIONS)
    made: Callable[..., nn.Module] = getattr(nn, ACTIVATIONS[chosen.name].function)
    return partial(made, **chosen.parameters) if chosen.parameters else made
