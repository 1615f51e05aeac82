"""The configuration of one run: what the command line edits, `--config` fills and `config.json` keeps."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from skipback.lab import choices, data, nets, spellings, training
from skipback.lab.errors import LabError
from skipback.methods import TABLE as METHODS

CONTEXT = 64
"""Tokens in a window of a text, unless asked."""

OPTIONS = ("prepare", "augment", "validation")
"""What is done to the rows before they train."""

OPTIMIZERS = ("optimizer", "feedback_optimizer")
ROWS = ("validation", "align_on")

OF_FEEDBACK = ("feedback_lr", "feedback_decay", "feedback_optimizer")
"""Settings that are only of feedback that learns."""


Numbers = Annotated[str | None, tyro.conf.arg(metavar="K,K,...")]
"""Whole numbers, separated by commas, or none."""

Rates = Annotated[float | str, tyro.conf.arg(metavar="P,P,...")]
"""One probability, or several, separated by commas."""


def _one_of(names: Any) -> str:
    return ", ".join(names)


class Settings(BaseModel):
    """What all runs of a comparison share."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    net: str = Field("mlp", description="of `skipback list nets`")
    depth: int | None = Field(None, ge=0, le=10_000, description="hidden layers (mlp: 1)")
    width: int | None = Field(None, ge=1, le=1_000_000, description="units per hidden layer (mlp: 500)")
    activation: str | None = Field(None, description=_one_of(nets.ACTIVATIONS))
    bias: bool = Field(True, description="no weight layer has a bias")
    batch_norm: bool = Field(False, description="normalise each hidden layer")
    batch_norm_at: Numbers = Field(None, description="... only these, from 1 (nokland-conv)")
    norm_last: bool = Field(False, description="normalise after the activation (mlp)")
    dropout: Rates = Field(0.0, description="probability, in hidden layers; of conv nets also one for each place")
    dropout_first: bool = Field(False, description="drop before the activation (mlp)")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="probability, on the input of the mlp")
    zero_init: bool = Field(False, description="as --start zero: start all weights at 0")
    start: str | None = Field(None, description="weights: zero, normal:STD, prealigned[:METHOD], or a run's folder")
    bottleneck: int | None = Field(None, ge=1, le=1_000_000, description="units of the middle layer that pass (mlp)")
    bottleneck_form: str = Field("corrected", description=_one_of(choices.BOTTLENECKS))
    loss: str | None = Field(None, description="ce, bce, mse (default: ce; mse for values)")
    reduction: str | None = Field(
        None, description="of the loss over batch and outputs: mean, sum (default: mean; as published, its code's)"
    )
    optimizer: str = Field("adam", description=_one_of(choices.OPTIMIZERS))
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="learning rate")
    schedule: str | None = Field(
        None, description="step:S:G (lr times G every S epochs), exponential:G, inverse:D (lr/(1+D t)), auto"
    )
    weight_decay: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="L2, in the gradient (adamw: beside it, default .01)"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd and rmsprop")
    dampening: float = Field(0.0, ge=0, le=1, description="of sgd's momentum (Torch7's default: the momentum)")
    nesterov: bool = Field(False, description="sgd's momentum looks ahead")
    feedback_lr: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of feedback that learns; --schedule then leaves it alone"
    )
    feedback_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight decay of feedback that learns")
    feedback_optimizer: str | None = Field(None, description="of feedback that learns (default: --optimizer)")
    batch_size: int = Field(50, ge=1, description="samples per step")
    context: int | None = Field(None, ge=1, le=1_000_000, description="tokens per window, of texts (default 64)")
    epochs: int = Field(20, ge=1, le=1_000_000, description="passes over the training set")
    prepare: str | None = Field(
        None, description=f"{_one_of(choices.PREPARATIONS)}; or a chain, yuv+zca (default: as the data set)"
    )
    zca_epsilon: float = Field(0.1, gt=0, allow_inf_nan=False, description="added to variances of pixels 0..1")
    augment: str | None = Field(None, description=f"{_one_of(choices.AUGMENTS)}; or a chain, flip+resized-crop")
    validation: str | None = Field(None, description=f"score held-out rows: {_one_of(choices.SPLITS)}")
    held_out: int | float = Field(0.1, gt=0, allow_inf_nan=False, description="rows held out, or their share")
    split_seed: int = Field(1, ge=0, le=2**32 - 1, description="of random and stratified")
    distinct: bool = Field(False, description="equal rows stay on one side of the validation split")
    feedback: str | None = Field(None, description="of `skipback list draws` (default: the method's own)")
    signal: str | None = Field(None, description="of `skipback list signals`, for f3")
    anchor: int | None = Field(None, ge=1, description="plain backprop in every k-th training pass")
    as_published: bool = Field(False, description="the update of the original code")
    max_in_norm: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="cap of a column's norm (of a unit's outgoing weights), each step"
    )
    max_out_norm: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="cap of a row's norm (of a unit's incoming weights), each step"
    )
    adversarial: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="train on x + EPS sign(dL/dx), by exact backprop"
    )
    keep_clean_gradients: bool = Field(False, description="... and add the exact gradients of the clean batch")
    stop_train_error: float | None = Field(
        None, gt=0, lt=1, description="stop at this training error, a fraction, smoothed: m = .75 m + .25 error"
    )
    stop_change: float | None = Field(
        None, ge=0, lt=1, description="stop where the training error, a fraction, changes by no more in an epoch"
    )
    weight_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="of weights and dropout (default: --seed)")
    feedback_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="of feedback (default: --seed)")
    order_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="of the batch order (default: --seed)")
    limit: int | None = Field(None, ge=1, description="only the first N training rows")
    eval_every: int = Field(1, ge=1, description="epochs from one evaluation to the next")
    score_train: bool = Field(False, description="also score all training rows, in eval mode")
    align_on: str = Field("train", description="rows that the alignment is measured on: train, test, valid")
    align_rows: int = Field(256, ge=1, description="the first N of them")
    align_every: int | None = Field(None, ge=1, description="also at every N-th step, into alignment.jsonl")
    device: str = Field("auto", description=f"{_one_of(choices.DEVICES)}, cuda:N")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads, which help wide layers")
    precision: str = Field("auto", description=_one_of(choices.PRECISIONS))
    compile: bool = Field(False, description="convolutions and the like through torch.compile")

    @field_validator("net", "bottleneck_form", "loss", "reduction", *OPTIMIZERS, "signal", "device", "precision", *ROWS)
    @classmethod
    def _known(cls, value: str | None, info: Any) -> str | None:
        tables: dict[str, Any] = {
            "net": nets.TABLE,
            "bottleneck_form": choices.BOTTLENECKS,
            "loss": choices.LOSSES,
            "reduction": choices.REDUCTIONS,
            "align_on": choices.ROWS,
            "optimizer": choices.OPTIMIZERS,
            "feedback_optimizer": choices.OPTIMIZERS,
            "signal": choices.SIGNALS,
            "device": choices.device_names(value),
            "precision": choices.PRECISIONS,
            "validation": choices.SPLITS,
        }
        return value if value is None else spellings.check(info.field_name, value, tables[info.field_name])

    @field_validator("activation", "feedback")
    @classmethod
    def _with_parameters(cls, value: str | None, info: Any) -> str | None:
        """One spelling of each choice, so that two of them are never two runs."""
        forms = {"activation": nets.ACTIVATIONS, "feedback": choices.DRAWS}[info.field_name]
        return value if value is None else spellings.spelt(info.field_name, value, forms)

    @field_validator("dropout", mode="before")
    @classmethod
    def _rates(cls, value: Any) -> float | str:
        found = _listed(value, float, "a probability, or several with commas")
        if wrong := [rate for rate in found if not 0 <= rate < 1]:
            raise LabError(f"must be at least 0 and below 1, got {wrong[0]}")
        return found[0] if len(found) == 1 else ",".join(map(str, found))

    @field_validator("batch_norm_at", mode="before")
    @classmethod
    def _layers(cls, value: Any) -> str | None:
        if value is None:
            return None
        found = sorted(set(_listed(value, int, "hidden layers with commas, counted from 1")))
        return ",".join(map(str, found))

    @field_validator("start")
    @classmethod
    def _start(cls, value: str | None) -> str | None:
        return value if value is None else choices.start_of(value)

    @field_validator("prepare", "augment")
    @classmethod
    def _steps(cls, value: str | None, info: Any) -> str | None:
        tables: dict[str, Any] = {"prepare": choices.PREPARATIONS, "augment": choices.AUGMENTS}
        return value if value is None else choices.chain(info.field_name, value, tables[info.field_name])

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, values: Any) -> Any:
        """Fill the sizes of the net, and refuse those that it has not: a silently ignored size is a trap."""
        if not isinstance(values, dict):
            return values
        net = spellings.alike("net", str(values.get("net", "mlp")), nets.CARDS)
        card = nets.CARDS.get(net)
        if card is None:  # the field's own check says what is wrong
            return values
        own = {**card.sizes, **({} if card.activation is None else {"activation": card.activation})}
        chosen = {}
        for size in (*nets.SIZES, "activation"):
            default, usual = cls.model_fields[size].default, Settings.model_fields[size].default
            value = values.get(size, default)
            if size in own:
                chosen[size] = own[size] if value is None else value
            elif value in (default, usual):
                chosen[size] = usual  # `compare` has a depth and a width for the nets that have them
            else:
                raise LabError(f"{_flag(size)}: net {net!r} has no {_words(size)}")
        return {**values, **chosen}

    @model_validator(mode="before")
    @classmethod
    def _zero(cls, values: Any) -> Any:
        """`--start zero` is kept as `zero_init`, so that the two spellings are one run."""
        start = values.get("start") if isinstance(values, dict) else None
        if not isinstance(start, str) or spellings.alike("start", start, choices.STARTS) != "zero":
            return values
        return {**values, "start": None, "zero_init": True}

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.zero_init and self.start is not None:
            raise LabError(f"--start {self.start}: --zero-init is another start: leave one of them out")
        return self

    @model_validator(mode="after")
    def _places_of_dropout(self) -> Self:
        places, found = nets.CARDS[self.net].rates, self.sizes.get("dropout")
        if isinstance(found, tuple) and len(found) != len(places):
            several = f", or {len(places)} of them: on {', '.join(places)}" if places else ""
            raise LabError(f"--dropout {self.dropout}: net {self.net!r} takes one probability{several}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _windows(cls, values: Any) -> Any:
        """Fill the length of a text's windows, and refuse one for what is no text."""
        field = cls.model_fields.get("dataset")
        if field is None or not isinstance(values, dict):
            return values
        name = spellings.alike("data set", str(values.get("dataset", field.default)), data.names())
        if name not in data.names():  # the field's own check says what is wrong
            return values
        context = values.get("context")
        if data.Task.LANGUAGE in data.card(name).tasks:
            return {**values, "context": CONTEXT if context is None else context}
        if context is not None:
            raise LabError(f"--context: data set {name!r} is no text, which is read in windows")
        return values

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        """Refuse an option of a choice that was not made."""
        draws = self.validation is not None and choices.SPLITS[self.validation][1]
        for option, taken, needed in (
            ("held_out", self.validation, "--validation"),
            ("distinct", self.validation, "--validation"),
            ("split_seed", draws, "--validation random or stratified"),
            ("bottleneck_form", self.bottleneck, "--bottleneck"),
            ("norm_last", self.batch_norm, "--batch-norm"),
            ("batch_norm_at", self.batch_norm, "--batch-norm"),
            ("dropout_first", self.dropout, "--dropout"),
            ("zca_epsilon", "zca" in (self.prepare or "").split("+"), "--prepare zca"),
            ("keep_clean_gradients", self.adversarial, "--adversarial"),
        ):
            if not taken and getattr(self, option) != type(self).model_fields[option].default:
                raise LabError(f"{_flag(option)} says nothing without {needed}")
        return self

    @model_validator(mode="after")
    def _optimizers_have_their_options(self) -> Self:
        training.check(self)
        return self

    @model_validator(mode="after")
    def _a_bottleneck_stands_between_layers(self) -> Self:
        if self.bottleneck is None:
            return self
        depth, width = self.depth or 0, self.width or 0
        if depth < 2:
            raise LabError(f"--bottleneck {self.bottleneck}: no layer is between others at --depth {depth}: 2 or more")
        if self.bottleneck > width:
            raise LabError(f"--bottleneck {self.bottleneck}: at most the units of a hidden layer, --width {width}")
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """What the net's own function takes of these settings."""
        found = {size: getattr(self, size) for size in nets.CARDS[self.net].sizes}
        read = {"dropout": float, "batch_norm_at": int}
        lists = {size: read[size] for size, value in found.items() if isinstance(value, str) and size in read}
        if self.bottleneck is not None:
            found["bottleneck"] = choices.bottleneck(self.bottleneck_form, self.bottleneck, self.batch_size)
        return {**found, **{size: tuple(map(kind, found[size].split(","))) for size, kind in lists.items()}}


class Run(Settings):
    """One run: everything that decides its numbers."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")] = Field(
        "digits", description="of `skipback list data`"
    )
    method: str = Field("dfa", description=_one_of(METHODS))
    seed: int = Field(1, ge=0, le=2**31 - 1, description="of weights, feedback and batch order")

    @model_validator(mode="before")
    @classmethod
    def _reduced_as_published(cls, values: Any) -> Any:
        """Fill the reduction: the mean, or for an update as published that of the code which published it."""
        if not isinstance(values, dict) or values.get("reduction") is not None:
            return values
        name = values.get("method", cls.model_fields["method"].default)
        published = values.get("as_published") is True and name in METHODS
        return {**values, "reduction": choices.published_reduction(name) if published else "mean"}

    @field_validator("dataset")
    @classmethod
    def _dataset(cls, value: str) -> str:
        return spellings.check("data set", value, data.names())

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        return spellings.check("method", value, METHODS)

    @model_validator(mode="after")
    def _only_f3_has_signals(self) -> Run:
        if self.signal is not None and self.method != "f3":
            raise LabError(f"--signal {self.signal}: method {self.method!r} has no choice of signal")
        return self

    @model_validator(mode="after")
    def _bp_has_no_anchor(self) -> Run:
        if self.anchor is not None and self.method == "bp":
            raise LabError(f"--anchor {self.anchor}: method 'bp' is plain backprop in every pass already")
        return self

    @model_validator(mode="after")
    def _references_have_no_feedback_to_align_with(self) -> Run:
        if self.start == "prealigned" and self.method in ("bp", "shallow"):
            raise LabError(
                f"--start prealigned: method {self.method!r} has no feedback to align with; for that of another method "
                "write --start prealigned:principled_dfa"
            )
        return self

    @property
    def name(self) -> str:
        """The run folder's name: what tells it from the other runs of a comparison."""
        feedback = self.feedback and re.sub(r"[:=,]", "-", self.feedback)  # no file system forbids what is left
        parts = [self.method, self.signal, feedback, "published" if self.as_published else None]
        anchor = None if self.anchor is None else f"anchor{self.anchor}"
        return "-".join([*filter(None, [*parts, anchor]), f"seed{self.seed}"])


def usual() -> dict[str, Any]:
    """What a run has where its configuration, perhaps an older one, says nothing."""
    return {**{name: field.default for name, field in Run.model_fields.items()}, "reduction": "mean"}


def read(path: Path) -> dict[str, Any]:
    """Read a configuration from a .toml file or from the `config.json` of an earlier run.

    Raises:
        LabError: the file cannot be read, or is not valid TOML or JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise LabError(f"--config {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LabError(f"--config {path}: {error}") from None
    if not isinstance(values, dict):
        raise LabError(f"--config {path}: expected a table of settings, found {type(values).__name__}")
    return values


def explain(error: ValidationError) -> str:
    """One line for a pydantic error: the flag, what is wrong, and what was given."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "extra_forbidden":
        return f"{field}: no such setting"
    if first["type"] == "value_error":
        return f"{_flag(field)}: {message}" if field else message
    return f"{_flag(field)}: must be {message}, got {first['input']!r}"


def _listed(value: Any, kind: Any, what: str) -> list[Any]:
    """The numbers of one, of a text with commas, or of a list."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        return [kind(part) for part in parts if not isinstance(part, bool)] or [kind("")]
    except (TypeError, ValueError):
        raise LabError(f"must be {what}, got {value!r}") from None


def _words(field: str) -> str:
    return {"activation": "choice of activation", "bias": "choice of bias"}.get(field, field.replace("_", " "))


def _flag(field: str) -> str:
    if field == "bias":
        return "--no-bias"
    return "DATASET" if field == "dataset" else f"--{field.replace('_', '-')}"
