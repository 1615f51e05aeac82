"""Features: the words by which networks are counted."""

from __future__ import annotations

from collections.abc import Iterator

from generated.methods import ALL
from generated.recipes import Case, Recipe, Stage
from generated.settle import EARLY

__all__ = ["ALL", "features", "ordinary"]


def features(case: Case) -> list[str]:
    """All that a case has, sorted. `case` is settled."""
    recipe = case.recipe
    found = {f"method {case.method}", f"data {recipe.data}", f"home {recipe.home}", f"stages {len(recipe.stages)}"}
    for k, s in enumerate(recipe.stages):
        found |= set(_of_stage(recipe, s, k))
    found |= set(_of_net(recipe)) | set(_of_training(case))
    return sorted(found)


def _of_stage(recipe: Recipe, s: Stage, k: int) -> Iterator[str]:
    yield f"layer {s.layer}"
    yield f"place {s.place}"
    yield f"activation {s.style if s.act != 'none' else 'none'}"
    yield from (f"{field} {getattr(s, field)}" for field in ("norm", "skip") if getattr(s, field) != "none")
    yield from (word for word, has in (("dropout", s.dropout), ("long skip", s.since), ("frozen", s.frozen)) if has)
    if s.calls > 1:
        yield "called several times"
    if s.when != "always":
        yield f"runs sometimes: {s.when}"
    if s.checkpoint != "no":
        yield f"checkpoint {s.checkpoint}"


def _of_net(recipe: Recipe) -> Iterator[str]:
    for out in recipe.outputs:
        yield f"output {out.kind}"
    yield "several outputs" if recipe.wrap != "tensor" else "one output"
    if recipe.wrap != "tensor":
        yield f"in a {recipe.wrap}"
    words = {"loss inside": recipe.loss, "trunk runs twice": recipe.twice, "early exit": recipe.exit}
    words |= {"tied weights": recipe.tied, "dense output": recipe.dense}
    words["no skip, one call"] = all(s.skip == "none" and not s.since and s.calls == 1 for s in recipe.stages)
    yield from (word for word, has in words.items() if has)


def _of_training(case: Case) -> Iterator[str]:
    sizes = {(one.batch, one.length or case.recipe.length) for one in case.passes}
    chance = case.recipe.data != "flat" and case.recipe.width == case.recipe.inputs == case.recipe.length
    words = {"eval mode": case.mode == "eval", "attached without example": case.lazy, "sizes change": len(sizes) > 1}
    words |= {"sizes agree by chance": chance, "checkpointing comes later": case.later and _checkpoints(case)}
    yield from (word for word, has in words.items() if has)
    yield from (f"pass {one.kind}" for one in case.passes)
    if case.compile != "no":
        yield f"compile {case.compile}"
    yield f"call {case.call}"


def _checkpoints(case: Case) -> bool:
    return any(s.checkpoint != "no" for s in case.recipe.stages)


def ordinary(case: Case) -> bool:
    """Whether a refusal would be a fault: nothing but layers in a row, and one output, trained in the usual way."""
    recipe = case.recipe
    plain = all(
        s.skip == "none"
        and not s.since
        and s.calls == 1
        and s.when == "always"
        and s.checkpoint == "no"
        and s.layer in ("linear", "conv", "down", "lstm", "gru", "encoder", "mha", "gated")
        for s in recipe.stages
    )
    net = plain and len(recipe.outputs) == 1 and not (recipe.loss or recipe.twice or recipe.exit or recipe.tied)
    sizes = not any(one.length for one in case.passes)
    usual = case.compile == "no" and case.mode == "train" and all(one.kind != "create_graph" for one in case.passes)
    forward = case.method not in ("fdfa", "grape") or all(s.layer in ("linear", "conv", "gated") for s in recipe.stages)
    form = recipe.data in ("flat", "image", "series", "tokens") and not (recipe.dense and case.method in EARLY)
    return net and sizes and usual and forward and form and recipe.wrap == "tensor"
