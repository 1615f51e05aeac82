"""Strategies: how recipes are drawn. A case has up to three topics; all that no topic varies is ordinary.

Without topics every network would have some rare trait that is refused, and the ordinary ones would go untested.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from generated import methods
from generated.recipes import (
    ACTS,
    CALLS,
    CHECKPOINTS,
    HOMES,
    KINDS,
    LAYERS,
    NORMS,
    OUTS,
    PLACES,
    POOLS,
    SKIPS,
    STYLES,
    WHEN,
    WRAPS,
    Case,
    Out,
    Pass,
    Recipe,
    Stage,
)
from generated.settle import settled

TOPICS = (
    "act",
    "attach",
    "bare",
    "calls",
    "chance",
    "checkpoint",
    "dense",
    "dropout",
    "eval",
    "exit",
    "frozen",
    "home",
    "inplace",
    *["layer"] * 5,
    "loss",
    "norm",
    *["outputs"] * 3,
    *["passes"] * 2,
    *["place"] * 2,
    "sizes",
    *["skip"] * 3,
    "tied",
    "twice",
    "vae",
    *["when"] * 2,
)
DATA = ("flat", "flat", "image", "series", "series_first", "tokens", "frames")
COMMON = ("dfa", "dfa", "sdfa", "drtp", "f3", "dkp", "shallow")
"""Drawn in three of four cases; the rest is spread over all methods."""


@st.composite
def stages(draw: st.DrawFn, topics: frozenset[str], data: str) -> Stage:
    """One stage."""

    def some(topic: str, values: tuple[Any, ...]) -> Any:
        return draw(st.sampled_from((*values[1:], values[0]))) if topic in topics else values[0]

    layers = [layer for form in {data, "flat"} for layer in LAYERS[form] if layer not in ("bare", "bare_list", "vae")]
    layer = draw(st.sampled_from(sorted(layers))) if "layer" in topics else ""
    rare = [name for name in ("bare", "vae") if name in topics]
    if rare and draw(st.booleans()):
        layer = draw(st.sampled_from({"bare": ("bare", "bare_list"), "vae": ("vae",)}[rare[0]]))
    style = "inplace" if "inplace" in topics and draw(st.booleans()) else draw(st.sampled_from(STYLES[:2]))
    return Stage(
        layer=layer,
        act=draw(st.sampled_from(ACTS if "act" in topics else ACTS[1:3])),
        style=style,
        norm=some("norm", NORMS),
        dropout=some("dropout", (False, True)),
        place=some("place", PLACES),
        skip="inplace" if style == "inplace" and some("skip", (False, True)) else some("skip", SKIPS[:5]),
        since=some("skip", (0, 0, 2)),
        calls=some("calls", (1, 2, 3)),
        when=some("when", WHEN),
        checkpoint=some("checkpoint", CHECKPOINTS),
        frozen=some("frozen", (False, False, True)),
    )


@st.composite
def recipes(draw: st.DrawFn, topics: frozenset[str]) -> Recipe:
    """A network."""
    data = draw(st.sampled_from(DATA if "bare" not in topics and "vae" not in topics else DATA[:1]))
    count = draw(st.sampled_from((2, 3, 1, 4, 3)))
    size = draw(st.sampled_from((3, 4))) if "chance" in topics else 0
    more = draw(st.lists(outs(), min_size=1, max_size=2)) if "outputs" in topics else []
    return Recipe(
        data=data,
        stages=tuple(draw(stages(topics, data)) for _ in range(count)),
        pooled=draw(st.integers(0 if data == "frames" else 1, count)),
        pool="keep" if "dense" in topics else draw(st.sampled_from(POOLS[:3])),
        outputs=(
            Out(kind=draw(st.sampled_from(OUTS[:4] if "outputs" in topics else ("linear", "linear", "mlp")))),
            *more,
        ),
        wrap=draw(st.sampled_from(WRAPS if "outputs" in topics else WRAPS[:1])),
        home=draw(st.sampled_from(HOMES if "home" in topics else HOMES[:1])),
        loss="loss" in topics,
        twice="twice" in topics,
        exit="exit" in topics,
        tied="tied" in topics,
        width=size or 4,
        inputs=size or draw(st.sampled_from((4, 5))),
        length=size or 3,
        side=size or draw(st.sampled_from((3, 4))),
        seed=draw(st.integers(0, 99)),
    )


def outs() -> st.SearchStrategy[Out]:
    """One more output."""
    return st.builds(Out, st.sampled_from(OUTS), st.integers(1, 3), st.integers(0, 3))


@st.composite
def passes(draw: st.DrawFn, topics: frozenset[str], count: int, width: int) -> tuple[Pass, ...]:
    """The training passes."""
    ordinary = width if "chance" in topics else 4
    return tuple(
        Pass(
            batch=draw(st.integers(1, 5)) if "sizes" in topics else ordinary,
            length=draw(st.sampled_from((0, 2, 4))) if "sizes" in topics else 0,
            kind=draw(st.sampled_from(KINDS)) if "passes" in topics else "backward",
            seed=draw(st.integers(0, 9)),
        )
        for _ in range(count)
    )


@st.composite
def cases(draw: st.DrawFn, compiles: tuple[str, ...] = ("no",), only: tuple[str, ...] = ()) -> Case:
    """A network, and how it is trained.

    Args:
        draw: of hypothesis.
        compiles: when it is compiled, out of these.
        only: the methods to draw from; all by default.
    """
    count = draw(st.sampled_from((2, 3, 1, 4, 2)))
    topics = frozenset(draw(st.sampled_from(TOPICS)) for _ in range(count))
    common = only or (COMMON if draw(st.integers(0, 3)) else methods.ALL)
    method = draw(st.sampled_from(common))
    recipe = draw(recipes(topics))
    compile = draw(st.sampled_from(compiles))
    found = Case(
        recipe=recipe,
        method=method,
        lazy="attach" in topics and method not in methods.LEARNED and compile == "no" and draw(st.booleans()),
        compile=compile,
        call=draw(st.sampled_from(CALLS if "attach" in topics else CALLS[:1])),
        mode="eval" if "eval" in topics else "train",
        later="checkpoint" in topics and draw(st.booleans()),
        passes=draw(passes(topics, 3, recipe.width)),
    )
    return settled(found)
