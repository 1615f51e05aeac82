"""The variants of one training step: plain backprop as people run it, and each method by its ways.

Each is a call without arguments, on a network of its own with the same weights and data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from skipback import precision
from skipback.advice import SkipbackWarning
from skipback.lab.bench.plain import backprop, checkpointed
from skipback.lab.bench.plain import compiled as by_compiler
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.taught import backward, step, steps
from skipback.lab.bench.timing import Variant

REFERENCE = "backprop"
ACCUMULATED = 4

MakeVariant = Callable[[], Variant]


def ways(shape: Shape, methods: Sequence[str], optimizer: str, *, compiled: bool = False) -> dict[str, MakeVariant]:
    """How to build each variant, by its name.

    Args:
        shape: network and data.
        methods: their names.
        optimizer: of `OPTIMIZERS`.
        compiled: also time `torch.compile` (minutes).
    """
    found: dict[str, MakeVariant] = {
        REFERENCE: lambda: backprop(shape, optimizer),
        f"{REFERENCE}, default optimizer": lambda: backprop(shape, optimizer, fused=None),
        f"{REFERENCE}, checkpointed": lambda: backprop(shape, optimizer, through=checkpointed),
        f"{REFERENCE}, accumulated over {ACCUMULATED}": lambda: backprop(shape, optimizer, parts=ACCUMULATED),
    }
    if compiled:
        found[f"{REFERENCE}, compiled"] = lambda: backprop(shape, optimizer, through=by_compiler)
    for name in methods:
        found |= of_method(shape, name, optimizer, compiled=compiled)
    if shape.device == "cpu" and precision.exact():
        fast = {name: make for name, make in found.items() if name == REFERENCE or name.endswith("step")}
        found |= {f"{name}, oneDNN float32": partial(_fast, make) for name, make in fast.items()}
    return found


def of_method(shape: Shape, name: str, optimizer: str, *, compiled: bool = False) -> dict[str, MakeVariant]:
    """The ways of one method, the best one first."""
    found = {f"{name} backward": lambda: backward(shape, name, optimizer)}
    if steps(name):
        found = {f"{name} step": lambda: step(shape, name, optimizer), **found}
        if shape.net == "mlp":  # elsewhere there is hardly a closed form to leave out
            found[f"{name} step, by autograd"] = lambda: step(shape, name, optimizer, closed_form=False)
        elif compiled:  # a closed form has nothing to gain from it
            found[f"{name} step, compiled"] = lambda: step(shape, name, optimizer, compile=by_compiler)
    return found


def built(makes: Mapping[str, MakeVariant]) -> tuple[dict[str, Variant], dict[str, str]]:
    """Build the variants, and call each once. Returns the calls, and why a method refuses, by variant."""
    calls, refused = dict[str, Variant](), dict[str, str]()
    for name, make in makes.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SkipbackWarning)  # of what will not learn: training says so
                call = make()
                call()
        except Exception as error:  # a method says what it cannot teach, and others must not wait for nothing
            if name == REFERENCE:
                raise
            refused[name] = reason(error)
        else:
            calls[name] = call
    return calls, refused


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _fast(make: Callable[[], Variant]) -> Variant:
    return through_onednn(make())


def through_onednn(call: Variant) -> Variant:
    """The same call by the float32 product that `skipback train` uses (`skipback.precision`)."""

    def fast() -> None:
        before = precision.product()
        precision.choose_product("bf16")
        try:
            call()
        finally:
            precision.choose_product(before)

    return fast
