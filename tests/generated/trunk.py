"""The trunk of a generated network: its stages, written in one forward, or as modules with a forward of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generated import body, layers, tape
from generated.recipes import Recipe, Stage
from generated.settle import width_into


class Block(nn.Module):
    """A stage with a forward of its own: norm, activation and residual sum are inside. A pair has two weight layers."""

    def __init__(self, s: Stage, i: int, o: int, path: str) -> None:
        super().__init__()
        self.s, self.path = s, path
        for k in range(2 if s.place == "pair" else 1):
            for name, part in body.parts_of(s, o if k else i, o).items():
                if not (k and name == "project"):
                    setattr(self, f"{name}{k or ''}", part)

    def part(self, k: int, part: str) -> Any:
        return getattr(self, f"{part}{k or ''}")

    def full(self, k: int, part: str) -> str:
        return f"{self.path}.{part}{k or ''}"

    def forward(self, x: Tensor, first: bool = False) -> Tensor:
        y = body.body(self, 0, self.s, x, first)
        if self.s.place == "pair":
            y = body.body(self, 1, self.s, y, first)
        return tape.norm(self.path, body.summed(self, 0, self.s, x, y))


def row(s: Stage, parts: dict[str, Any]) -> list[nn.Module]:
    """The members of an nn.Sequential that does what a stage does."""
    act = [layers.MODULES[s.act](s.style == "inplace")] if s.act != "none" else []
    return [parts["layer"], *([parts["norm"]] if "norm" in parts else []), *act, *([nn.Dropout(0.25)] * s.dropout)]


class Trunk(nn.Module):
    """The stages of a recipe.

    Attributes:
        late: whether the stages that run "later" run now.
        checkpointing: whether the stages that are to be checkpointed are.
    """

    def __init__(self, recipe: Recipe, prefix: str = "") -> None:
        super().__init__()
        self.recipe, self.prefix, self.late, self.checkpointing = recipe, prefix, False, True
        self.names: dict[tuple[int, str], str] = {}
        if recipe.data == "tokens":
            self.embed = nn.Embedding(recipe.inputs, recipe.width)
        for k, s in enumerate(recipe.stages):
            self._make(k, s, width_into(recipe, k, recipe.stages), recipe.width)
        if recipe.tied:
            self.part(1, "layer").weight = self.part(0, "layer").weight

    def _make(self, k: int, s: Stage, i: int, o: int) -> None:
        if s.place in ("module", "pair"):
            self._hold(k, "block", Block(s, i, o, self.prefix + self._name(k, "block")))
            return
        parts = body.parts_of(s, i, o)
        if s.place == "sequential":
            self._hold(k, "block", nn.Sequential(*row(s, parts)))
            parts = {name: part for name, part in parts.items() if name == "project"}
        if s.layer == "bare_list":
            self._hold(k, "ps", nn.ParameterList([parts.pop("w"), parts.pop("b")]))
        for name, part in parts.items():
            self._hold(k, name, part)

    def _name(self, k: int, part: str) -> str:
        return f"{part}s.{k}" if self.recipe.home == "list" and part not in ("w", "b", "ps") else f"s{k}_{part}"

    def _hold(self, k: int, part: str, held: nn.Module | nn.Parameter) -> None:
        self.names[k, part] = name = self._name(k, part)
        if "." not in name:
            setattr(self, name, held)
            return
        held_list = getattr(self, f"{part}s", None)
        if held_list is None:
            held_list = nn.ModuleList()
            setattr(self, f"{part}s", held_list)
        held_list.extend(nn.Identity() for _ in range(k - len(held_list)))
        held_list.append(held)

    def part(self, k: int, part: str) -> Any:
        if part in ("w", "b") and (k, "ps") in self.names:
            return getattr(self, self.names[k, "ps"])[part == "b"]
        head, _, place = self.names[k, part].partition(".")
        held = getattr(self, head)
        return held[int(place)] if place else held

    def full(self, k: int, part: str) -> str:
        return self.prefix + self.names[k, part]

    def forward(self, x: Tensor) -> Any:
        """For a trunk that is a module of its own: what leaves it is a block's too, if it is one."""
        last, states, extras = self.run(x)
        last = tape.norm(self.prefix[:-1], last)
        return last, [tape.beside(last, t) for t in states], [tape.beside(last, t) for t in extras]

    def run(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What leaves the last stage, what leaves each stage, and what a bottleneck shows."""
        self.first, self.group, extras = int(self.recipe.data == "series_first"), 1, []
        whole, x = x, self._enter(x)
        states: list[Tensor] = []
        for k, s in enumerate(self.recipe.stages):
            if k == self.recipe.pooled:
                x = self.pool(x)
            if s.layer == "vae":
                x, shown = self._bottleneck(k, s, x)
                extras += shown
            else:
                x = self._stage(k, s, x, whole, states)
            states.append(x)
        if self.recipe.pooled == len(states) and not self.recipe.dense:
            x = self.pool(x)
        return x, states, extras

    def _enter(self, x: Tensor) -> Tensor:
        if self.recipe.data == "tokens":
            return tape.weight(f"{self.prefix}embed", self.embed(x))
        if self.recipe.data == "frames":
            self.group = x.shape[1]
            x = x.flatten(0, 1)
        tape.form(self.first, self.group)
        return x

    def _stage(self, k: int, s: Stage, x: Tensor, whole: Tensor, states: list[Tensor]) -> Tensor:
        left_out = (
            (s.when == "drop" and self.training and bool(torch.rand(()) < 0.5))
            or (s.when == "gate" and bool(whole.sum() <= 0))
            or (s.when == "later" and not self.late)
        )
        if left_out:
            return x
        for _ in range(s.calls):
            x = self._checked(k, s, x)
        return tape.point(x + states[k - s.since]) if s.since else x

    def _checked(self, k: int, s: Stage, x: Tensor) -> Tensor:
        if s.checkpoint == "no" or not self.checkpointing:
            return self._once(k, s, x)
        return checkpoint(partial(self._once, k, s), x, use_reentrant=s.checkpoint == "reentrant")

    def _once(self, k: int, s: Stage, x: Tensor) -> Tensor:
        if s.place in ("module", "pair"):
            return self.part(k, "block")(x, bool(self.first))
        if s.place == "sequential":
            y = tape.norm(self.full(k, "block"), self.part(k, "block")(x))
        else:
            y = body.body(self, k, s, x, bool(self.first))
        return body.summed(self, k, s, x, y)

    def _bottleneck(self, k: int, s: Stage, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A textbook VAE's: mean and log-variance are returned as well."""
        mean = tape.weight(self.full(k, "m"), self.part(k, "m")(x))
        left = tape.trail()
        log = tape.weight(self.full(k, "l"), self.part(k, "l")(x))
        tape.join(left, tape.trail())
        return tape.point(mean + torch.randn_like(mean) * torch.exp(log / 2)), [mean, log]

    def pool(self, x: Tensor) -> Tensor:
        """A row of numbers per sample."""
        recipe, group = self.recipe, self.group
        if recipe.data == "flat":
            return x
        if recipe.data == "frames" and recipe.pool != "flatten":
            x = tape.point(x.mean((2, 3)))
        x = x.transpose(0, 1) if self.first else x
        x = x.unflatten(0, (-1, group)) if group > 1 or recipe.data == "frames" else x
        self.first = 0
        tape.form()
        return tape.point(_pooled(recipe, x))


def _pooled(recipe: Recipe, x: Tensor) -> Tensor:
    if recipe.pool == "flatten":
        return x.flatten(1)
    if recipe.data == "image":
        return x.mean((2, 3))
    return x[:, -1] if recipe.pool == "last" else x.mean(1)
