"""Settle: what cannot hold together in a recipe is changed to what can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from generated.recipes import LAYERS, Case, Out, Recipe, Stage

COMPOUND = ("gated", "experts", "vae", "hourglass", "attention", "mha", "encoder", "conv1d")
RECURRENT = ("lstm", "gru", "gru_first", "rnn_loop", "cell_loop")
BARE = ("bare", "bare_list")
EARLY = ("drtp", "f3")
"""Methods whose signal is known before the output."""


def places(recipe: Recipe, stages: Sequence[Stage]) -> int:
    """How many places a sample has where it is pooled."""
    side = (recipe.side + 1) // 2 if any(s.layer == "down" for s in stages) else recipe.side
    lengths = {"image": side**2, "frames": recipe.length * side**2, "flat": 1}
    return lengths.get(recipe.data, recipe.length)


def width_into(recipe: Recipe, k: int, stages: Sequence[Stage]) -> int:
    """D of what enters stage k, or the heads, when the stages before it are these."""
    width = recipe.width if recipe.data == "tokens" else recipe.inputs
    for j in range(k + 1):
        if j == recipe.pooled and recipe.data != "flat" and recipe.pool == "flatten":
            width *= places(recipe, stages)
        if j < k:
            width = recipe.width + (width if stages[j].skip == "concat" else 0)
    return width


def resolved(recipe: Recipe) -> Recipe:
    """The same, with what cannot hold together settled."""
    pooled = 0 if recipe.data == "flat" else min(recipe.pooled, len(recipe.stages))
    pool = "mean" if recipe.data == "frames" and recipe.pool == "keep" else recipe.pool
    recipe = replace(
        recipe, pool=pool, pooled=len(recipe.stages) if pool == "keep" and recipe.data != "flat" else pooled
    )
    stages: list[Stage] = []
    for k, s in enumerate(recipe.stages):
        width = width_into(recipe, k, stages)
        one = _skips(_layer(recipe, s, k, width, down=any(b.layer == "down" for b in stages)), k, width == recipe.width)
        since = one.since if _reaches(recipe, stages, one, k) else 0
        # reentrant checkpointing gives no gradients at all where its input needs none
        needs = recipe.data == "tokens" or any(b.when == "always" and not b.frozen for b in stages)
        checkpoint = "plain" if one.checkpoint == "reentrant" and not needs else one.checkpoint
        stages.append(replace(one, since=since, checkpoint=checkpoint))
    return _around(replace(recipe, stages=tuple(stages)))


def _layer(recipe: Recipe, s: Stage, k: int, width: int, *, down: bool) -> Stage:
    """The layer, where it stands, and its norm."""
    form = recipe.form(k)
    layer = s.layer if s.layer in LAYERS[form] else LAYERS[form][0]
    if layer == "down" and (down or recipe.dense):
        layer = "conv"
    if layer in ("mha", "encoder") and width != recipe.width:
        layer = "attention"
    if recipe.data == "series_first" and form != "flat" and layer in ("lstm", "gru"):
        layer = "gru_first"
    alone = layer in COMPOUND + RECURRENT + BARE
    place = "parent" if layer in (*BARE, "vae") or (alone and s.place in ("sequential", "pair")) else s.place
    norm = "layer" if s.norm == "batch" and (form not in ("flat", "image") or recipe.twice) else s.norm
    if place == "sequential" and norm == "layer" and form in ("image", "frames"):
        norm = "none"  # it would be over the channels, which takes two permutes
    if layer == "experts":
        norm = "none"
    writes = layer not in COMPOUND + RECURRENT and norm == "none"
    style = "functional" if s.style == "inplace" and not writes else s.style
    return replace(s, layer=layer, place=place, norm=norm, style=style)


def _skips(s: Stage, k: int, same: bool) -> Stage:
    """What goes around the layer: residual sums, calls, conditions, checkpointing."""
    same = same and s.layer not in ("down", "vae")
    skip = s.skip if same or s.skip in ("project", "concat") else "none"
    repeated = s.calls > 1 or s.when != "always"
    if s.layer in ("down", "vae") or (skip == "concat" and repeated):
        skip = "none"
    if skip == "inplace" and (s.act != "none" or s.dropout or s.norm != "none" or s.layer in COMPOUND + RECURRENT):
        skip = "add"
    return replace(
        s,
        skip=skip,
        calls=s.calls if same and skip != "concat" else 1,
        when=s.when if same and skip != "concat" else "always",
        checkpoint=s.checkpoint if k and s.layer != "vae" else "no",
        frozen=s.frozen and s.layer != "vae",
    )


def _reaches(recipe: Recipe, stages: Sequence[Stage], s: Stage, k: int) -> bool:
    """Whether what left the stage `since` before can be added to what leaves this one."""
    j = k - s.since
    if not s.since or j < 0 or s.layer == "vae":
        return False
    forms = recipe.form(j) == recipe.form(k) or recipe.data == "flat"
    between = [*stages[j + 1 :], s]
    return forms and s.skip != "concat" and stages[j].skip != "concat" and all(b.layer != "down" for b in between)


def _around(recipe: Recipe) -> Recipe:
    """The same, with outputs, wrapping and home settled."""
    first, rest = _outputs(recipe)
    bottleneck = any(s.layer == "vae" for s in recipe.stages)
    early_exit = recipe.exit and recipe.data not in ("tokens", "frames")
    early_exit = early_exit and not (recipe.dense or bottleneck or recipe.loss or rest or recipe.twice)
    twice = recipe.twice and not bottleneck
    loss = recipe.loss and first.kind in ("linear", "mlp") and first.width > 1 and not twice
    several = bool(rest) or twice or loss or bottleneck
    row = all(map(_in_a_row, recipe.stages)) and recipe.pool == "flatten"
    chain = row and not (several or early_exit or recipe.tied) and first.kind == "linear"
    chain = chain and recipe.data in ("flat", "image") and recipe.wrap == "tensor"
    return replace(
        recipe,
        outputs=(replace(first, kind="linear") if early_exit else first, *rest),
        wrap="tuple" if several and recipe.wrap == "tensor" else recipe.wrap,
        home="attributes" if recipe.home == "sequential" and not chain else recipe.home,
        loss=loss,
        twice=twice,
        exit=early_exit,
        tied=recipe.tied and _alike(recipe),
    )


def _outputs(recipe: Recipe) -> tuple[Out, list[Out]]:
    first, *others = recipe.outputs
    heads = ("linear",) if recipe.dense else ("linear", "squeeze", "view", "mlp")
    first = first if first.kind in heads else replace(first, kind="linear")
    rest = []
    for out in others:
        at = min(out.at, len(recipe.stages) - 1)
        flat = recipe.data != "frames" or at >= recipe.pooled
        heads_too = out.kind in heads or (out.kind == "aux" and not recipe.dense and flat) or out.kind == "echo"
        if heads_too or (out.kind == "hidden" and flat) or (out.kind == "teacher" and recipe.data != "tokens"):
            rest.append(replace(out, at=at))
    return first, rest


def _in_a_row(s: Stage) -> bool:
    """Whether a stage can be members of an nn.Sequential."""
    once = not s.since and s.calls == 1 and s.when == "always" and s.checkpoint == "no" and s.skip == "none"
    return once and s.layer in ("linear", "conv", "down") and s.place in ("parent", "sequential", "module")


def _alike(recipe: Recipe) -> bool:
    """Whether the first two stages can have one weight."""
    two = recipe.stages[:2]
    plain = all(s.layer == "linear" and s.place == "parent" and s.skip != "concat" for s in two)
    return len(two) == 2 and plain and recipe.data == "flat" and recipe.inputs == recipe.width


def settled(case: Case) -> Case:
    """A case whose recipe is resolved, and whose passes its network can run."""
    recipe = resolved(case.recipe)
    batch_norm = case.mode == "train" and any(s.norm == "batch" for s in recipe.stages)
    fixed = recipe.pool == "flatten" or recipe.data in ("flat", "image")
    fixed = fixed or any(out.kind == "teacher" for out in recipe.outputs)
    passes = tuple(
        replace(
            one,
            batch=max(one.batch, 2) if batch_norm or one.kind == "rows" else one.batch,
            length=0 if fixed or one.length == recipe.length else one.length,
            kind=_kind(case, recipe, one.kind, last=k + 1 == len(case.passes)),
        )
        for k, one in enumerate(case.passes)
    )
    call = "learner" if case.call == "net" and case.method in EARLY else case.call
    return replace(case, recipe=recipe, passes=passes, call=call, mode="train" if case.compile != "no" else case.mode)


def _kind(case: Case, recipe: Recipe, kind: str, *, last: bool) -> str:
    several = recipe.wrap != "tensor" or recipe.loss
    if kind == "rows" and case.method == "f3" and not last:
        return "backward"  # whether a row that was left out is remembered is not said anywhere
    if kind == "step" and (several or case.mode == "eval" or case.compile != "no"):
        return "backward"
    if kind == "create_graph" and case.method in ("bp", "shallow"):
        return "backward"
    if kind in ("create_graph", "twice") and case.compile != "no":
        return "backward"  # the compiler's own backward runs once
    return "backward" if kind in ("twice", "rows") and recipe.loss else kind
