"""Generated networks: a trunk, its heads, and what holds the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from generated import body, tape
from generated.outputs import cross_entropy, wrapped
from generated.recipes import Out, Recipe
from generated.settle import places, width_into
from generated.trunk import Trunk, row


def _at(recipe: Recipe, k: int) -> int:
    """D of what left stage k, as a row per sample."""
    return width_into(recipe, k + 1, recipe.stages) if recipe.form(k) == "flat" else _structured(recipe, k)


def _structured(recipe: Recipe, k: int) -> int:
    unpooled = replace(recipe, pool="mean")  # an auxiliary head takes the mean over the places
    return width_into(unpooled, k + 1, recipe.stages)


def _made(recipe: Recipe, out: Out) -> nn.Module:
    """The module of an output."""
    C, width = out.width, width_into(recipe, len(recipe.stages), recipe.stages)
    if out.kind == "mlp":
        return nn.Sequential(nn.Linear(width, recipe.width), nn.Tanh(), nn.Linear(recipe.width, C))
    if out.kind in ("hidden", "echo"):
        return nn.Identity()
    if out.kind == "teacher":
        size = recipe.inputs * (places(recipe, ()) if recipe.data != "flat" else 1)
        return nn.Sequential(nn.Flatten(), nn.Linear(size, C), nn.Tanh(), nn.Linear(C, C)).requires_grad_(False)
    if out.kind == "aux":
        return nn.Linear(_at(recipe, out.at), C)
    if recipe.dense and recipe.data == "image":
        return nn.Conv2d(width, C, 1)
    return nn.Linear(width, {"squeeze": 1, "view": 2 * C}.get(out.kind, C))


class Heads:
    """What a network does with what its trunk found. Mixed into the two kinds of network."""

    recipe: Recipe
    heads: nn.ModuleList

    def make_heads(self, recipe: Recipe) -> None:
        self.heads = nn.ModuleList([_made(recipe, out) for out in recipe.outputs])
        if recipe.exit:
            self.early = nn.Linear(_at(recipe, 0), recipe.outputs[0].width)

    def answer(self, run: Callable[[Tensor], Any], x: Tensor, labels: Tensor | None) -> Any:
        recipe = self.recipe
        last, states, extras = run(x)
        if recipe.exit and bool(x.sum() > 0):
            return wrapped(recipe, [self.early(self._row(0, states[0]))], None)
        outs = [self._head(0, last)]
        if recipe.twice:
            other = x.flip(1) if recipe.data == "tokens" else -0.5 * x
            outs.append(self._head(0, run(other)[0]))
        outs += [self._other(k, out, x, last, states) for k, out in enumerate(recipe.outputs[1:], 1)]
        outs += [tape.returned(extra) for extra in extras]
        return wrapped(recipe, outs, None if labels is None else cross_entropy(outs[0], labels))

    def _head(self, k: int, x: Tensor) -> Tensor:
        kind, y = self.recipe.outputs[k].kind, self.heads[k](x)
        return y.squeeze(-1) if kind == "squeeze" else y.view(len(y), 2, -1) if kind == "view" else y

    def _other(self, k: int, out: Out, x: Tensor, last: Tensor, states: Sequence[Tensor]) -> Tensor:
        if out.kind == "hidden":
            return tape.returned(states[out.at])
        if out.kind == "teacher":
            return self.heads[k](x.transpose(0, 1) if self.recipe.data == "series_first" else x)
        if out.kind == "echo":
            return x
        return self._head(k, self._row(out.at, states[out.at]) if out.kind == "aux" else last)

    def _row(self, k: int, x: Tensor) -> Tensor:
        """The mean of a state over its places."""
        if self.recipe.form(k) == "flat":
            return x
        return x.mean((2, 3)) if x.dim() == 4 else x.mean(0 if self.recipe.data == "series_first" else 1)


class Net(Trunk, Heads):
    """A generated network whose own forward runs the stages."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.make_heads(recipe)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        return self.answer(self.run, x, labels)


class Nested(nn.Module, Heads):
    """A generated network with a trunk of its own."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe, self.trunk = recipe, Trunk(recipe, "trunk.")
        self.make_heads(recipe)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        return self.answer(self.trunk, x, labels)


def chain(recipe: Recipe) -> nn.Sequential:
    """A network that is an nn.Sequential and nothing else."""
    modules: list[nn.Module] = []
    for k, s in enumerate(recipe.stages):
        if k == recipe.pooled and recipe.data != "flat":
            modules.append(nn.Flatten())
        made = row(s, body.parts_of(s, width_into(recipe, k, recipe.stages), recipe.width))
        modules += [nn.Sequential(*made)] if s.place == "sequential" else made
    if recipe.pooled == len(recipe.stages) and recipe.data != "flat":
        modules.append(nn.Flatten())
    return nn.Sequential(*modules, _made(recipe, recipe.outputs[0]))


def built(recipe: Recipe) -> nn.Module:
    """The network of a resolved recipe, in float64."""
    torch.manual_seed(recipe.seed)
    kind = {"sequential": chain, "nested": Nested}.get(recipe.home, Net)
    net = kind(recipe).double()
    for k, s in enumerate(recipe.stages):
        if s.frozen and recipe.home != "sequential":
            for p in parameters_of(net, recipe, k):
                p.requires_grad_(False)
    return net


def switch(net: nn.Module, *, late: bool | None = None, checkpointing: bool | None = None) -> None:
    """Let the late stages run, or not; switch checkpointing."""
    for module in net.modules():
        if isinstance(module, Trunk):
            module.late = module.late if late is None else late
            module.checkpointing = module.checkpointing if checkpointing is None else checkpointing


def parameters_of(net: nn.Module, recipe: Recipe, k: int) -> list[nn.Parameter]:
    """The parameters of stage k."""
    if recipe.home == "sequential":
        return _of_chain(net, recipe, k)
    trunk = net.trunk if isinstance(net, Nested) else net
    held = [trunk.part(i, part) for i, part in trunk.names if i == k and part != "ps"]
    held += list(getattr(trunk, trunk.names[k, "ps"])) if (k, "ps") in trunk.names else []
    return [p for one in held for p in ([one] if isinstance(one, nn.Parameter) else one.parameters())]


def _of_chain(net: nn.Sequential, recipe: Recipe, k: int) -> list[nn.Parameter]:
    place = 0
    for j, s in enumerate(recipe.stages):
        place += j == recipe.pooled and recipe.data != "flat"
        made = 1 if s.place == "sequential" else 1 + (s.norm != "none") + (s.act != "none") + s.dropout
        if j == k:
            return [p for module in net[place : place + made] for p in module.parameters()]
        place += made
    return []
