"""Recipes: small frozen descriptions from which a network, and the way it is trained, are built.

A recipe prints as the expression that makes it (`written`), so a failure is reproduced by pasting what was printed.
Fields that cannot hold together are settled by `settle.resolved`, not refused: any values make a network that plain
backprop trains.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

FLAT = ("linear", "bare", "bare_list", "gated", "experts", "vae")
IMAGE = ("conv", "down", "hourglass")
SERIES = ("linear", "conv1d", "lstm", "gru", "gru_first", "rnn_loop", "cell_loop", "attention", "mha", "encoder")
LAYERS = {"flat": FLAT, "image": IMAGE, "frames": IMAGE, "series": SERIES, "series_first": SERIES, "tokens": SERIES}
"""The layers that a stage may have, by the form of what it takes."""

ACTS = ("none", "relu", "tanh", "gelu", "sigmoid")
STYLES = ("functional", "module", "inplace")
NORMS = ("none", "layer", "batch")
PLACES = ("parent", "sequential", "module", "pair")
SKIPS = ("none", "add", "post", "project", "concat", "inplace")
WHEN = ("always", "drop", "gate", "later")
CHECKPOINTS = ("no", "reentrant", "plain")
OUTS = ("linear", "squeeze", "view", "mlp", "aux", "hidden", "teacher", "echo")
WRAPS = ("tensor", "tuple", "list", "dict", "dataclass", "nested")
HOMES = ("attributes", "list", "nested", "sequential")
POOLS = ("mean", "last", "flatten", "keep")
KINDS = ("backward", "twice", "rows", "create_graph", "step")
COMPILES = ("no", "before", "attach", "after")
CALLS = ("learner", "net", "given")


def written(value: object) -> str:
    """A recipe as the expression that makes it, without what is the default."""
    if isinstance(value, tuple):
        inner = ", ".join(map(written, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    plain = type(value)()
    fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    said = [f"{name}={written(v)}" for name, v in fields if v != getattr(plain, name)]
    return f"{type(value).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class Written:
    """A record that prints as the expression that makes it, without what is the default."""

    def __repr__(self) -> str:
        return written(self)


@dataclass(frozen=True, repr=False)
class Stage(Written):
    """A weight layer, and what stands between it and the next one.

    Attributes:
        layer: see `LAYERS`.
        act: the activation.
        style: of the activation: a function, a module, or one that writes in place.
        norm: between the two.
        dropout: whether one follows.
        place: "parent" (the network's own forward), "sequential", "module" (with a forward of its own) or "pair" (such
            a module with two weight layers).
        skip: "add" x + f(x); "post" act(x + f(x)); "project" P x + f(x); "concat" [x, f(x)]; "inplace" f(x) += x.
        since: adds what left the stage so many stages before; 0 adds nothing.
        calls: how often the stage runs in a row, with the same weights.
        when: "drop" (left out at random in training); "gate" (only where the batch sums to more than 0); "later" (only
            after the first pass).
        checkpoint: activation checkpointing of the stage.
        frozen: whether its parameters are not trained.
    """

    layer: str = "linear"
    act: str = "tanh"
    style: str = "functional"
    norm: str = "none"
    dropout: bool = False
    place: str = "parent"
    skip: str = "none"
    since: int = 0
    calls: int = 1
    when: str = "always"
    checkpoint: str = "no"
    frozen: bool = False


@dataclass(frozen=True, repr=False)
class Out(Written):
    """One output.

    Attributes:
        kind: "linear" (N, C), "squeeze" (N,), "view" (N, 2, C) or "mlp" (a hidden layer and a linear one), heads;
            "aux", a linear head on what left stage `at`; "hidden", that value itself; "teacher", a frozen branch;
            "echo", the input.
        width: C.
        at: which stage, for "aux" and "hidden".
    """

    kind: str = "linear"
    width: int = 3
    at: int = 0


@dataclass(frozen=True, repr=False)
class Recipe(Written):
    """A network.

    Attributes:
        data: "flat" (N, D), "image" (N, D, H, H), "frames" (N, T, D, H, H), "series" (N, T, D), "series_first"
            (T, N, D), or "tokens" (N, T).
        stages: in order.
        pooled: how many of them see the form of the data; the others see a row of numbers per sample.
        pool: what makes the row; "keep" leaves the form to the outputs, which are dense then.
        outputs: in order; the first one is a head.
        wrap: what holds them.
        home: "attributes", "list" (nn.ModuleList), "nested" (a trunk of its own) or "sequential" (one nn.Sequential).
        loss: whether the network is given labels and also returns the cross-entropy of its first output.
        twice: the trunk runs on the input and on another view of it, and the first head on both.
        exit: whether it returns early, from a head of its own after the first stage, where the batch sums to over 0.
        tied: whether the second stage has the weight of the first.
        width: D of the stages.
        inputs: D of the input.
        length: T.
        side: H.
        seed: of the weights and the data.
    """

    data: str = "flat"
    stages: tuple[Stage, ...] = (Stage(),)
    pooled: int = 0
    pool: str = "mean"
    outputs: tuple[Out, ...] = (Out(),)
    wrap: str = "tensor"
    home: str = "attributes"
    loss: bool = False
    twice: bool = False
    exit: bool = False
    tied: bool = False
    width: int = 4
    inputs: int = 5
    length: int = 3
    side: int = 4
    seed: int = 0

    def form(self, k: int) -> str:
        """The form of what stage k takes."""
        return self.data if k < self.pooled else "flat"

    @property
    def dense(self) -> bool:
        """Whether the outputs have the form of the data."""
        return self.pool == "keep" and self.data not in ("flat", "frames")


@dataclass(frozen=True, repr=False)
class Pass(Written):
    """One training pass.

    Attributes:
        batch: N.
        length: T, for series; 0 is that of the recipe.
        kind: "backward"; "twice" (two losses, each with a backward); "rows" (the loss leaves the first row out);
            "create_graph"; "step" (`learner.step`).
        seed: of the batch, and of what the network draws.
    """

    batch: int = 4
    length: int = 0
    kind: str = "backward"
    seed: int = 0


@dataclass(frozen=True, repr=False)
class Case(Written):
    """A network, and how it is trained.

    Attributes:
        recipe: the network.
        method: the name of its page.
        lazy: attach without an example, so that the blocks are found in the first pass.
        compile: "before" (compiled and run, then the module is attached); "attach" (the compiled module is attached);
            "after" (attached, then compiled).
        call: "learner", "net", or "given" (the network, inside `learner.given`).
        mode: "train" or "eval".
        later: whether checkpointing is switched on after attach only.
        passes: in order.
    """

    recipe: Recipe = Recipe()
    method: str = "dfa"
    lazy: bool = False
    compile: str = "no"
    call: str = "learner"
    mode: str = "train"
    later: bool = False
    passes: tuple[Pass, ...] = (Pass(), Pass(seed=1))
