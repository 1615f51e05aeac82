"""Shrink: the smallest recipe that still fails in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from generated.recipes import Case, Out, Pass, Recipe, Stage
from generated.settle import settled

TRIES = {"no": 300}
"""Of one shrink; of a network that is compiled again at each try, fewer."""


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The smallest case that is reached by single simplifications which all fail."""
    tries, case = 0, settled(case)
    while True:
        for candidate in smaller(case):
            tries += 1
            if tries > TRIES.get(case.compile, 40):
                return case
            if fails(candidate):
                case = candidate
                break
        else:
            return case


def smaller(case: Case) -> Iterator[Case]:
    """Cases that are simpler by one thing each, the most by which one gets simpler first."""
    seen = {case}
    for one in _simpler(case):
        candidate = settled(one)
        if candidate not in seen and size(candidate) < size(case):
            seen.add(candidate)
            yield candidate


def size(case: Case) -> int:
    """How much there is to read."""
    recipe = case.recipe
    return (
        30 * (len(recipe.stages) + len(case.passes) + len(recipe.outputs))
        + 10 * sum(_said(one, "seed") for one in (case, recipe, *recipe.stages, *recipe.outputs, *case.passes))
        + sum(one.seed for one in (recipe, *case.passes))
    )


def _said(value: Any, *but: str) -> int:
    plain = type(value)()
    held = ("recipe", "stages", "passes", "outputs", *but)
    names = [f.name for f in dataclasses.fields(value) if f.name not in held]
    return sum(getattr(value, name) != getattr(plain, name) for name in names)


def _simpler(case: Case) -> Iterator[Case]:
    recipe = case.recipe
    for fewer in _without(case.passes):
        yield replace(case, passes=fewer)
    for fewer in _without(recipe.stages):
        yield replace(case, recipe=replace(recipe, stages=fewer, pooled=min(recipe.pooled, len(fewer))))
    for fewer in _without(recipe.outputs):
        yield replace(case, recipe=replace(recipe, outputs=fewer))
    for plainer in _plainer(case, Case()):
        yield plainer
    for plainer in _plainer(recipe, Recipe()):
        yield replace(case, recipe=plainer)
    for k, stage in enumerate(recipe.stages):
        for plainer in _plainer(stage, Stage()):
            yield replace(case, recipe=replace(recipe, stages=_put(recipe.stages, k, plainer)))
    for k, out in enumerate(recipe.outputs):
        for plainer in _plainer(out, Out()):
            yield replace(case, recipe=replace(recipe, outputs=_put(recipe.outputs, k, plainer)))
    for k, one in enumerate(case.passes):
        for plainer in _plainer(one, Pass()):
            yield replace(case, passes=_put(case.passes, k, plainer))


def _without(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if len(items) > 1:
        yield from (items[:k] + items[k + 1 :] for k in range(len(items)))


def _put(items: tuple[Any, ...], k: int, item: Any) -> tuple[Any, ...]:
    return (*items[:k], item, *items[k + 1 :])


def _plainer(value: Any, plain: Any) -> Iterator[Any]:
    """The same with one field at its default, or a smaller seed."""
    for field in dataclasses.fields(value):
        now, default = getattr(value, field.name), getattr(plain, field.name)
        if field.name == "seed":
            yield from (replace(value, seed=less) for less in (0, 1, 2, now // 2) if less < now)
        elif now != default and field.name not in ("recipe", "stages", "passes", "outputs"):
            yield replace(value, **{field.name: default})
    if isinstance(value, Recipe) and value.data == "flat" and value.inputs != value.width:
        yield replace(value, inputs=value.width)
