"""What stands around a weight layer: norm, activation, dropout, residual sum."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generated import layers, tape
from generated.recipes import Stage


def parts_of(s: Stage, i: int, o: int) -> dict[str, Any]:
    """All modules and parameters of a stage, by the name of their part."""
    found: dict[str, Any] = dict(layers.parts(s.layer, i, o))
    image = s.layer in ("conv", "down", "hourglass")
    if s.norm != "none":
        found["norm"] = nn.LayerNorm(o) if s.norm == "layer" else (nn.BatchNorm2d if image else nn.BatchNorm1d)(o)
    if s.style == "module" and s.act != "none":
        found["act"] = layers.MODULES[s.act](False)
    if s.skip == "project":
        found["project"] = nn.Conv2d(i, o, 1) if image else nn.Linear(i, o)
    return found


def body(owner: layers.Owner, k: int, s: Stage, x: Tensor, first: bool) -> Tensor:
    """The layer, its norm, activation and dropout."""
    y = layers.run(owner, k, s.layer, x, first)
    if s.norm != "none":
        y = tape.norm(owner.full(k, "norm"), _normed(s, owner.part(k, "norm"), y))
    if s.act != "none" or s.style == "inplace":
        y = tape.point(_active(owner, k, s, y))
    return tape.point(F.dropout(y, 0.25, owner.training)) if s.dropout else y


def summed(owner: layers.Owner, k: int, s: Stage, x: Tensor, y: Tensor) -> Tensor:
    """The residual sum of a stage."""
    if s.skip == "none":
        return y
    if s.skip == "inplace":
        y += x
        return tape.point(y)
    if s.skip == "concat":
        return tape.point(torch.cat([x, y], 1 if s.layer in ("conv", "hourglass") else -1))
    if s.skip == "project":
        left = tape.trail()
        x = tape.weight(owner.full(k, "project"), owner.part(k, "project")(x))
        tape.join(left, tape.trail())
    y = tape.point(x + y)
    return tape.point(layers.ACTS[s.act](y)) if s.skip == "post" and s.act != "none" else y


def _normed(s: Stage, module: nn.Module, y: Tensor) -> Tensor:
    """A layer norm of an image is over its channels."""
    if y.dim() == 4 and s.norm == "layer":
        return module(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return module(y)


def _active(owner: layers.Owner, k: int, s: Stage, y: Tensor) -> Tensor:
    if s.style == "module":
        return owner.part(k, "act")(y)
    return (layers.IN_PLACE if s.style == "inplace" else layers.ACTS)[s.act](y)
