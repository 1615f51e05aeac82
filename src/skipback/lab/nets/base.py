"""What the files of this floor share: what a network takes, its card, and the checks and joints that several use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the cards are read for `--help`, without paying for torch
    from torch import nn


class Takes(StrEnum):
    """What one input is."""

    NUMBERS = "numbers"  # a float tensor of any shape, flattened
    IMAGE = "images"  # numbers of shape (channels, height, width)
    COLUMNS = "columns"  # numbers of shape (columns,); the last ones may be category codes
    TOKENS = "tokens"  # whole numbers of shape (length,), each below the size of a vocabulary
    GRAPH = "graphs"  # numbers of shape (features,), one row for each node, and the edges beside them


GIVEN = {Takes.NUMBERS: (Takes.NUMBERS, Takes.IMAGE, Takes.COLUMNS)}
"""What a data set gives, to the kinds of network that can take it; tokens and graphs suit their own kind only."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One network of the table. Pure data: reading it imports nothing heavy.

    Attributes:
        line: what it is, in one line, with its paper or code base.
        at: "module:function" of its constructor, a function of (shape, outputs, activation=..., and its sizes).
        takes: what one input is.
        activation: a name in `ACTIVATIONS`, what its source has; `None` if there is nothing to choose.
        sizes: what the lab may set beside the activation, each with its default.
        fixed: what tells it from other networks of the same constructor.
        shape: of one input, at the source.
        outputs: C, at the source.
        rates: what each probability is of, where `dropout` may be a list with one for each.
        needs: what the data set must say, with the values of the source: the size of a vocabulary, say.
    """

    line: str
    at: str
    takes: Takes = Takes.IMAGE
    activation: str | None = "relu"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 32, 32)
    outputs: int = 10
    needs: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[str, ...] = ()

    @property
    def constructor(self) -> Callable[..., nn.Module]:
        """The function that builds it. Imports torch."""
        module, function = self.at.split(":")
        made: Callable[..., nn.Module] = getattr(importlib.import_module(f"skipback.lab.nets.{module}"), function)
        return made


def image(net: str, shape: tuple[int, ...], least: int, channels: int | None = None) -> tuple[int, int, int]:
    """The (channels, height, width) of an image.

    Args:
        net: its name, for the message.
        shape: of one input.
        least: pixels of the smallest side that the network can work on.
        channels: the only number of channels that it takes; `None` for any.

    Raises:
        ValueError: the inputs are no images, or too small, or have other channels.
    """
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"{net} needs images of at least {least} x {least} pixels, not inputs of shape {shape}: use mlp"
        )
    if channels is not None and shape[0] != channels:
        raise ValueError(f"{net} needs images with {channels} channels, not inputs of shape {shape}")
    return shape


def rates_of(dropout: float | Sequence[float], places: int, hidden: Sequence[int]) -> tuple[float, ...]:
    """The probability of each place where a network can drop.

    Args:
        dropout: one number, which is that of the hidden places, or one for each place.
        places: how many there are.
        hidden: those of the hidden layers, from 0.

    Raises:
        ValueError: the list has another length.
    """
    if isinstance(dropout, int | float):
        return tuple(float(dropout) if place in hidden else 0.0 for place in range(places))
    if len(dropout) != places:
        raise ValueError(f"dropout: one probability, or {places} of them, not {len(dropout)}")
    return tuple(dropout)
