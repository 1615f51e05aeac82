"""What the command line lets a person choose, each name mapped to an object once, here.

The tables are plain data and import no torch; the functions below turn a checked configuration into objects.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skipback.lab.errors import LabError, unknown
from skipback.lab.spellings import Form, alike, check, parse, spelt
from skipback.methods import TABLE as METHODS
from skipback.methods import page

if TYPE_CHECKING:
    import torch

    from skipback.core.method import Method
    from skipback.draws import Draw
    from skipback.lab.data.augment import Augment
    from skipback.lab.data.prepare import Preparation, Transform
    from skipback.lab.data.splits import Splitter
    from skipback.lab.losses import TaskLoss
    from skipback.lab.nets.bottleneck import Middle
    from skipback.lab.starts import Start
    from skipback.precision import Precision

TERNARY, BINOMIAL = (-1.0, 0.0, 1.0), (0.0, 1.0)

DRAWS: dict[str, Form] = {
    "uniform": Form("Uniform", takes=("bound",), example="uniform:1"),
    "zeros": Form("Zeros"),
    "kaiming": Form("KaimingUniform", takes=("a",), example="kaiming:0"),
    "kaiming_he": Form("KaimingUniform", {"a": 0.0}),
    "gaussian": Form("Gaussian", takes=("std",), example="gaussian:1"),
    "orthogonal": Form("Orthogonal", takes=("gain",), example="orthogonal:2"),
    "sparse": Form("Sparse", takes=("per_unit",), example="sparse:2"),
    "discrete": Form("DiscreteUniform", takes=("values", "scale"), example="discrete:0,1:scale=0.1"),
    "ternary": Form("DiscreteUniform", {"values": TERNARY}, takes=("scale",), example="ternary:0.1"),
    "binomial": Form("DiscreteUniform", {"values": BINOMIAL}, takes=("scale",), example="binomial:0.1"),
    "identity_pm": Form("IdentityRepeatPM"),
    "identity_repeat": Form("IdentityRepeat"),
    "identity_fill_zero": Form("IdentityFillZero"),
    "cartesian_product": Form("CartesianProduct", takes=("values", "scale"), example="cartesian_product:0,1:scale=0.1"),
    "repeat_line": Form("RepeatLine"),
    "constant": Form("Constant", takes=("scale",), example="constant:0.1"),
    "alternate_negative": Form("AlternateNegative", takes=("scale",), example="alternate_negative:0.1"),
    "chunked_negative": Form("ChunkedNegative", takes=("scale",), example="chunked_negative:0.1"),
}
"""The draws of the feedback: each a class of `skipback.draws`, and what of it can be said behind a colon."""

STARTS: dict[str, Form] = {
    "zero": Form("Zero"),
    "normal": Form("Normal", takes=("std",), example="normal:1"),
    "prealigned": Form("Prealigned", takes=("method",), example="prealigned:principled_dfa"),
}
"""The weights to start from that have a name; else it is the folder of a finished run."""

SIGNALS = (
    "delayed_error",
    "delayed_loss",
    "delayed_error_one_hot",
    "delayed_loss_one_hot",
    "delayed_error_softmax",
    "delayed_loss_softmax",
    "current_error",
    "one_hot_target",
    "zeros",
)

LOSSES = ("ce", "bce", "mse")
REDUCTIONS = ("mean", "sum")
ROWS = ("train", "test", "valid")
OPTIMIZERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "adam": ("Adam", ("weight_decay",)),
    "sgd": ("SGD", ("weight_decay", "momentum", "dampening", "nesterov")),
    "rmsprop": ("RMSprop", ("weight_decay", "momentum")),
    "adagrad": ("Adagrad", ("weight_decay",)),
    "adadelta": ("Adadelta", ("weight_decay",)),
    "adamax": ("Adamax", ("weight_decay",)),
    "adamw": ("AdamW", ("weight_decay",)),
    "nadam": ("NAdam", ("weight_decay",)),
    "radam": ("RAdam", ("weight_decay",)),
    "asgd": ("ASGD", ("weight_decay",)),
    "rprop": ("Rprop", ()),
    "adafactor": ("Adafactor", ("weight_decay",)),
}
"""Each optimizer of `torch.optim` that any network can be trained with, and which of our options it has."""

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "onednn", "bf16")

BOTTLENECKS = ("corrected", "published", "narrow")
"""The forms of the bottleneck study (see `skipback.lab.nets.bottleneck`)."""

SPLITS: dict[str, tuple[str, bool]] = {
    "first": ("First", False),
    "last": ("Last", False),
    "random": ("Shuffled", True),
    "stratified": ("Stratified", True),
}
"""Which rows are held out: the splitter, and whether it draws."""

PREPARATIONS = {
    "none": "rows",
    "scale": "rows",
    "simple": "rows",
    "columns": "tables",
    "channel": "images",
    "image": "images",
    "half": "images",
    "mnist": "images",
    "cifar10": "images",
    "cifar": "images",
    "imagenet": "images",
    "yuv": "images",
    "zca": "images",
}
"""Each preparation, and what it prepares. Several are a chain, `yuv+zca`."""

AUGMENTS: dict[str, tuple[tuple[str, ...], int]] = {
    "crop-flip": (("Crop", "Flip"), 5),
    "flip": (("Flip",), 1),
    "scaled-crop": (("ScaledCrop",), 9),
    "cutout": (("Cutout",), 17),
    "resized-crop": (("ResizedCrop",), 1),
}
"""The steps of each augmentation, and the least side (pixels) of an image that leaves them something to show.

Several are a chain, `flip+resized-crop`.
"""


class Augmentation(NamedTuple):
    """An augmentation of training images, and what belongs to it.

    Attributes:
        augment: of training images.
        plain: what images pass instead where nothing is random.
        least: side in pixels that an image must have.
        prepared: whether it acts on prepared images, where 0 is their mean, instead of on pixels, where it is black.
    """

    augment: Augment
    plain: Transform | None
    least: int
    prepared: bool


class Arithmetic(NamedTuple):
    """In which arithmetic a run computes.

    Attributes:
        prepare: sets the float32 product of this process, which scores and measures use too.
        step: of a training step; `None` for what `prepare` has set.
    """

    prepare: Callable[[torch.device], object]
    step: Precision | None


def method(
    name: str,
    *,
    as_published: bool,
    feedback: str | None,
    signal: str | None,
    loss: TaskLoss,
    samples: int,
    anchor: int | None = None,
) -> Method:
    """Build a method from names.

    Args:
        name: of the method.
        as_published: use the original code's convention instead of the library's.
        feedback: a draw, or `None` for the method's own.
        signal: one of `SIGNALS`, for methods that have a choice.
        loss: of the network; it fixes the link from output to prediction.
        samples: size of the training set, for methods with a memory.
        anchor: every how many training passes is plain backprop; `None` for none of them.

    Raises:
        LabError: the method has no such choice.
    """
    module = page(check("method", name, list(METHODS)))
    build = module.as_published if as_published else getattr(module, name)
    options: dict[str, Any] = {"memory": samples, "link": loss.link}
    if signal is not None and hasattr(module, "signals"):
        make = module.published_signals if as_published else module.signals
        options["signal"] = make(memory=samples, link=loss.link, loss=loss.of_prediction)[signal]
    takes = inspect.signature(build).parameters
    if feedback is not None and "feedback" in takes:
        from skipback.structures import with_draw

        try:  # the method's own kind of feedback, started by another draw
            options["feedback"] = with_draw(takes["feedback"].default, draw(feedback))
        except ValueError as error:
            raise LabError(f"--feedback {feedback}: method {name!r}: {error}") from None
    for flag, value in (("feedback", feedback), ("signal", signal)):
        if value is not None and flag not in takes:
            raise LabError(f"--{flag} {value}: method {name!r} has no choice of {flag}")
    built = build(**{key: value for key, value in options.items() if key in takes})
    return _anchored(built, anchor)


def _anchored(method: Any, anchor: int | None) -> Method:
    from skipback import anchored

    built: Method = method if anchor is None else anchored(method, every=anchor)
    return built


def draw(name: str) -> Draw:
    """The draw of a name and its parameters, `uniform:1`."""
    from skipback import draws

    chosen = parse("feedback", name, DRAWS)
    form = DRAWS[chosen.name]
    built: Draw = getattr(draws, form.function)(**{**form.options, **chosen.parameters})
    return built


def start_of(text: str) -> str:
    """The one spelling of a start: a name with its parameters, or the folder of a run as it was written.

    Raises:
        LabError: it is neither.
    """
    name = alike("start", text.split(":")[0], STARTS)
    if name in STARTS:
        kept = spelt("start", text, STARTS)
        if method := parse("start", text, STARTS).parameters.get("method"):
            return f"{name}:{check('method', method, METHODS)}"
        if kept == "normal":
            raise LabError("start 'normal': of which standard deviation? write normal:1")
        return kept
    if "/" in text or Path(text).is_dir():
        return text.rstrip("/")
    raise LabError(f"{unknown('start', text, list(STARTS))}, or the folder of a finished run")


def start(text: str | None, *, other: Callable[[str], Method], seed: int) -> Start:
    """The start of a spelling that `start_of` gave.

    Args:
        text: `None` for the weights that the network was built with.
        other: builds the method of a name, for a start that belongs to another method than the run's.
        seed: of that method's feedback.
    """
    from skipback.lab import starts

    if text is None:
        return starts.AsBuilt()
    if text.split(":")[0] not in STARTS:
        return starts.FromRun(Path(text))
    name, parameters = parse("start", text, STARTS)
    if name == "normal":
        return starts.Normal(parameters["std"])
    return starts.Prealigned(other(parameters["method"]) if parameters else None, seed)


def has_feedback(name: str, *, as_published: bool) -> bool:
    """Whether a method's feedback can be drawn another way."""
    module = page(name)
    build = module.as_published if as_published else getattr(module, name)
    return "feedback" in inspect.signature(build).parameters


def learns_feedback(name: str, *, as_published: bool) -> bool:
    """Whether a method's feedback learns."""
    from skipback.lab.losses import LOSSES

    plain = method(name, as_published=as_published, feedback=None, signal=None, loss=LOSSES["ce"], samples=1)
    return plain.base.learns_feedback


def device_names(name: str | None) -> tuple[str, ...]:
    """The devices, and a GPU by its number where one is asked for."""
    numbered = name is not None and re.fullmatch(r"cuda:\d{1,3}", name)
    return (*DEVICES, *((name,) if numbered and name is not None else ()))


def published_reduction(name: str) -> str:
    """Of the loss over batch and outputs, in the code that published a method: what its head is taught by."""
    found: str = getattr(page(name), "REDUCTION", "mean")
    return found


def precision(name: str) -> Arithmetic:
    """The arithmetic of a name. Weights are scored in float32, as they are stored, in whatever they were trained."""
    from skipback.lab import machine
    from skipback.precision import bf16

    table = {
        "auto": Arithmetic(machine.fast_float32, None),
        "float32": Arithmetic(machine.plain_float32, None),
        "onednn": Arithmetic(machine.onednn_float32, None),
        "bf16": Arithmetic(machine.fast_float32, bf16()),
    }
    return table[check("precision", name, list(PRECISIONS))]


def bottleneck(form: str, units: int, rows: int) -> Middle:
    """The middle layer of a form of the bottleneck study.

    Args:
        form: of `BOTTLENECKS`.
        units: those that pass.
        rows: samples in a batch.
    """
    from skipback.lab.nets.bottleneck import Masked, Narrow

    narrow = check("bottleneck form", form, BOTTLENECKS) == "narrow"
    return Narrow(units) if narrow else Masked(units, rows)


def splitter(name: str, *, held: int | float, seed: int, distinct: bool) -> Splitter:
    """The splitter of a name.

    Args:
        name: one of `SPLITS`.
        held: rows that are held out, or their share.
        seed: of those that draw.
        distinct: keep rows with equal inputs on one side.
    """
    from skipback.lab.data import splits

    kind, draws = SPLITS[check("validation split", name, list(SPLITS))]
    built: Splitter = getattr(splits, kind)(held=held, **({"seed": seed} if draws else {}))
    return splits.WithoutDuplicates(built) if distinct else built


def chain(what: str, text: str, known: Mapping[str, Any]) -> str:
    """The one spelling of a chain of names, `yuv+zca`.

    Raises:
        LabError: one is unknown or there twice, or `none` has company.
    """
    names = [check(what, name.strip(), known) for name in text.split("+")]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise LabError(f"{what} {text!r}: {twice} is there twice")
    if "none" in names and len(names) > 1:
        raise LabError(f"{what} {text!r}: none is the whole chain or no part of it")
    return "+".join(names)


def preparation(text: str, *, epsilon: float) -> Preparation:
    """The preparation of a name, or of a chain of them: each is fitted on what those before it give.

    `zca` scales pixels to 0..1 first. `yuv` alone is followed by `channel`; in a chain it is the colours only.

    Args:
        text: of `PREPARATIONS`, joined by `+`.
        epsilon: of the whitening, whose pixels lie in 0..1 here.
    """
    from skipback.lab.data import prepare

    table: dict[str, Preparation] = {
        "none": prepare.AsTheyAre(),
        "scale": prepare.Scale(),
        "simple": prepare.simple(),
        "columns": prepare.columns(),
        "channel": prepare.channel(),
        "image": prepare.image(),
        "half": prepare.HALF,
        "mnist": prepare.MNIST,
        "cifar10": prepare.CIFAR10,
        "cifar": prepare.CIFAR,
        "imagenet": prepare.IMAGENET,
        "yuv": prepare.Yuv(),
        "zca": prepare.Compose((prepare.Scale(), prepare.Zca(epsilon=epsilon))),
    }
    names = chain("preparation", text, PREPARATIONS).split("+")
    names = ["yuv", "channel"] if names == ["yuv"] else names
    steps = tuple(table[name] for name in names)
    return steps[0] if len(steps) == 1 else prepare.Compose(steps)


def augmentation(text: str) -> Augmentation:
    """The augmentation of a name, or of a chain of them, one after the other.

    Raises:
        LabError: a square that covers with the mean follows a crop, which pads with black: one acts on prepared images,
            the other on pixels.
    """
    from skipback.lab.data import augment

    names = chain("augmentation", text, AUGMENTS).split("+")
    kinds = [kind for name in names for kind in AUGMENTS[name][0]]
    if "Cutout" in kinds and (crop := next((kind for kind in kinds if kind.endswith("Crop")), None)):
        name = next(name for name in names if crop in AUGMENTS[name][0])
        raise LabError(f"{text!r}: cutout acts on prepared images and {name} on pixels: they do not go together")
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise LabError(f"{text!r}: {twice} is in two of them")
    if "ResizedCrop" in kinds and kinds[-1] != "ResizedCrop" and len(set(kinds) & {"Crop", "ScaledCrop"}):
        raise LabError(f"{text!r}: resized-crop makes images of another size, so it comes last")
    steps = tuple(getattr(augment, kind)() for kind in kinds)
    return Augmentation(
        augment=augment.Augments(steps) if len(steps) > 1 else steps[0],
        plain=augment.Resize() if "ResizedCrop" in kinds else None,
        least=max(AUGMENTS[name][1] for name in names),
        prepared="Cutout" in kinds,  # DeVries and Taylor cover with the mean
    )
