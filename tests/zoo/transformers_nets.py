"""Models of transformers, from small random configurations: nothing is fetched."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import vision
from entries import CLASSES, Entry, Inputs, N
from torch import Tensor, nn

T, VOCABULARY, WIDTH = 8, 50, 32
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_size": 32,
    "patch_size": 8,
}
"""What is set wherever a configuration has it."""


def build(name: str, changes: dict[str, Any]) -> nn.Module:
    """A model by the name of its class."""
    vision.load()
    library = importlib.import_module("transformers")
    library.logging.set_verbosity_error()
    model: Any = getattr(library, name)
    net: nn.Module = model(_config(model.config_class, {"num_labels": CLASSES, **changes}))
    return net


def _config(kind: Any, changes: dict[str, Any]) -> Any:
    """A small configuration, without dropout, and with the changes."""
    default = kind()
    known = {**default.to_dict(), **{name: getattr(default, of, None) for name, of in default.attribute_map.items()}}
    dropout = {name: 0.0 for name, value in known.items() if "drop" in name and isinstance(value, float)}
    given = {name for name in SMALL if name in changes or default.attribute_map.get(name) in changes}
    small = {name: value for name, value in SMALL.items() if name in known and name not in given}
    inner = {name: _inside(default, name, value) for name, value in changes.items()}
    return kind(**{**small, **dropout, **inner})


def _inside(default: Any, name: str, value: Any) -> Any:
    """A configuration inside of another, given by its changes, is made small as well."""
    inside = getattr(default, name, None)
    return _config(type(inside), value).to_dict() if hasattr(inside, "attribute_map") else value


def tokens(length: int = T) -> Tensor:
    """Tokens, none of them special."""
    return torch.randint(3, VOCABULARY, (N, length))


def text() -> Inputs:
    """A batch of texts."""
    return (), {"input_ids": tokens()}


def pairs() -> Inputs:
    """A batch of texts, and of shorter ones that they are translated to."""
    return (), {"input_ids": tokens(), "decoder_input_ids": tokens(5)}


def entry(name: str, inputs: Callable[[], Inputs], labelled: bool = True, changes: Any = None, **more: Any) -> Entry:
    """A model, and what changes its configuration."""
    make = functools.partial(build, name, changes or {})
    return Entry(library="transformers", name=name, build=make, inputs=inputs, labelled=labelled, **more)
