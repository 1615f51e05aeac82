"""Flags: tyro reads them and prints the help, pydantic judges the values, and every complaint is one line.

tyro would build the pydantic model itself, but then shows a rejected value as a box of ten lines. So it gets a plain
record with the same fields, and the model is built from that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Sequence
from itertools import dropwhile, pairwise, takewhile
from operator import not_
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from skipback.lab import config
from skipback.lab.errors import LabError

Names = Annotated[str, tyro.conf.arg(metavar="A,B,...")]
"""Names, separated by commas."""

Model = TypeVar("Model", bound=BaseModel)

FIRST = ("dataset", "runs", "action", "method", "methods", "seed", "seeds", "epochs", "out")
"""What a person looks for first in a help text."""

COLUMN = 24
"""Characters: with one flag that is longer, tyro puts a line break after many."""

GROUPS: dict[str, tuple[str, ...]] = {
    "network": (
        *("net", "depth", "width", "activation", "bias", "batch_norm", "batch_norm_at", "norm_last"),
        *("dropout", "input_dropout", "dropout_first", "start", "zero_init", "bottleneck", "bottleneck_form"),
    ),
    "teaching": ("feedback", "signal", "anchor", "as_published", "feedback_lr", "feedback_decay", "feedback_optimizer"),
    "training": (
        *("loss", "reduction", "batch_size", "lr", "schedule", "optimizer", "momentum", "dampening", "nesterov"),
        *("weight_decay", "max_in_norm", "max_out_norm", "adversarial", "keep_clean_gradients"),
        *("stop_train_error", "stop_change", "weight_seed", "feedback_seed", "order_seed"),
    ),
    "data": (
        *("limit", "context", "prepare", "zca_epsilon", "augment", "validation", "held_out", "split_seed"),
        "distinct",
    ),
    "recording": ("eval_every", "score_train", "align_on", "align_rows", "align_every"),
    "machine": ("device", "threads", "precision", "compile", "together"),
}
"""The headings of a long help text, and the settings below them; all other flags stand above."""


def parse(model: type[Model], verb: str, argv: Sequence[str], *, values: dict[str, Any] | None = None) -> Model:
    """Read the flags of one verb. `--config FILE` fills what the flags leave open.

    Args:
        model: of the verb.
        verb: its name.
        argv: the flags.
        values: what the file says, where somebody has read it already.

    Raises:
        LabError: a flag is unknown, a value is refused, or the file cannot be read.
    """
    form = _form(model)
    path = _path(argv) if "config" in model.model_fields else None
    default = _filled(form, _file(model, path, values)) if path else None
    how = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    with _one_line(verb):
        filled: Any = tyro.cli(form, prog=f"skipback {verb}", args=argv, default=default, config=how)
    try:
        return model.model_validate(_flat(filled))
    except ValidationError as error:
        raise LabError(config.explain(error)) from None


def _form(model: type[BaseModel]) -> type[Any]:
    """A plain record of a model's fields; those below a heading lie in a record of their own."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {"": [], **{heading: [] for heading in GROUPS}}
    headings = {name: heading for heading, names in GROUPS.items() for name in names}
    grouped = issubclass(model, config.Settings)
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in FIRST):
        groups[headings.get(name, "") if grouped else ""].append(_flag(name, field))
    top = groups.pop("")
    for heading, flags in groups.items():
        order = GROUPS[heading].index
        part = _record(heading, sorted(flags, key=lambda flag: order(flag[0])), "")
        if flags:
            top.append((heading, part, dataclasses.field(default_factory=part)))
    return _record(model.__name__, top, model.__doc__)


def _record(name: str, fields: list[tuple[str, Any, Any]], text: str | None) -> type[Any]:
    """A dataclass with this docstring."""
    made = dataclasses.make_dataclass(name, fields)
    made.__doc__ = text
    made.__module__ = "builtins"  # of all others tyro reads and parses the source for help texts, which takes 0.2 s
    return made


def _filled(form: type[Any], values: dict[str, Any]) -> Any:
    """The record with these values."""
    own = {
        field.name: _filled(field.type, values) if field.name in GROUPS else values[field.name]  # type: ignore[arg-type]
        for field in dataclasses.fields(form)
    }
    return form(**own)


def _flat(filled: Any) -> dict[str, Any]:
    """The values of a record, those below headings among them."""
    values = dataclasses.asdict(filled)
    for heading in GROUPS:
        if isinstance(values.get(heading), dict):  # a flag of another verb may be called as a heading is
            values |= values.pop(heading)
    return values


def _flag(name: str, field: FieldInfo) -> tuple[str, Any, Any]:
    """A field of the plain record: the model's type, default and description. An empty default is not worth showing."""
    kinds = {int: "INT", float: "FLOAT", Path: "PATH", str: "NAME"}
    metavar = next((kinds[kind] for kind in kinds if field.annotation in (kind, kind | None)), None)
    if metavar is not None and len(f"--{name} {metavar}") > COLUMN:
        metavar = metavar[0]
    hint = "" if field.default in (None, (), False) or field.default is True else None
    argument = tyro.conf.arg(help=field.description, metavar=metavar, help_behavior_hint=hint)
    default = dataclasses.field() if field.is_required() else dataclasses.field(default=field.default)
    return name, Annotated[field.annotation, argument, *field.metadata], default


def _path(argv: Sequence[str]) -> Path | None:
    """The file of `--config FILE` or `--config=FILE`, the last of them as with every flag."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    found = [value for flag, value in pairwise(words) if flag == "--config"]
    return Path(found[-1]) if found else None


def file_of(argv: Sequence[str]) -> tuple[dict[str, Any], Path | None]:
    """What the file of `--config` says, and where it is.

    Raises:
        LabError: it cannot be read.
    """
    path = _path(argv)
    return (config.read(path) if path else {}), path


def _file(model: type[Model], path: Path, values: dict[str, Any] | None) -> dict[str, Any]:
    """The settings of `--config`, judged now so that a complaint names the file. A run's own name may say too much."""
    values = config.read(path) if values is None else values
    surplus = set(config.Run.model_fields) - set(model.model_fields)  # `compare` takes a run's settings, not its method
    try:
        return model.model_validate({k: v for k, v in values.items() if k not in surplus}).model_dump()
    except ValidationError as error:
        raise LabError(f"--config {path}: {config.explain(error)}") from None


def _complaint(box: str) -> str:
    """What tyro's box complains of: its lines between title and first rule, and of the rest the nearest flag.

    Where the terminal has no characters for a box, a rule is made of hyphens, and there is one below the title.
    """
    title, *rest = [line.strip(" │╭╮╰╯─") for line in box.splitlines()] or [""]
    lines = [line if line.strip("-") else "" for line in rest]
    text = " ".join(takewhile(bool, dropwhile(not_, lines))).removeprefix("Error parsing ") or title
    near = next((line.split()[0] for line in lines if line.startswith("--")), None)
    if near and text.startswith("Unrecognized"):
        return f"{text}; did you mean {near}?"
    text = text.replace("invalid literal for int() with base 10:", "must be a whole number, got")
    return text.replace("could not convert string to float:", "must be a number, got")


@contextlib.contextmanager
def _one_line(verb: str) -> Any:
    """Turn tyro's box into the one line that all our errors are."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        raise LabError(f"{_complaint(said.getvalue())} (see skipback {verb} --help)") from None
    finally:
        sys.stderr.flush()
