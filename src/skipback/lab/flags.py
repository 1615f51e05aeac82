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


def parse(model: type[Model], verb: str, argv: Sequence[str]) -> Model:
    """Read the flags of one verb. `--config FILE` fills what the flags leave open.

    Raises:
        LabError: a flag is unknown, a value is refused, or the file cannot be read.
    """
    fields = sorted(model.model_fields.items(), key=lambda item: item[0] not in FIRST)
    form = dataclasses.make_dataclass(model.__name__, [_flag(name, field) for name, field in fields])
    form.__doc__ = model.__doc__
    path = _path(argv) if "config" in model.model_fields else None
    default = form(**_file(model, path)) if path else None
    with _one_line(verb):
        filled: Any = tyro.cli(
            form, prog=f"skipback {verb}", args=argv, default=default, config=(tyro.conf.FlagCreatePairsOff,)
        )
    try:
        return model.model_validate(dataclasses.asdict(filled))
    except ValidationError as error:
        raise LabError(config.explain(error)) from None


def _flag(name: str, field: FieldInfo) -> tuple[str, Any, Any]:
    """A field of the plain record: the model's type, default and description. An empty default is not worth showing."""
    kinds = {int: "INT", float: "FLOAT", Path: "PATH", str: "NAME"}
    metavar = next((kinds[kind] for kind in kinds if field.annotation in (kind, kind | None)), None)
    hint = "" if field.default in (None, (), False) or field.default is True else None
    argument = tyro.conf.arg(help=field.description, metavar=metavar, help_behavior_hint=hint)
    default = dataclasses.field() if field.is_required() else dataclasses.field(default=field.default)
    return name, Annotated[field.annotation, argument, *field.metadata], default


def _path(argv: Sequence[str]) -> Path | None:
    """The file of `--config FILE` or `--config=FILE`, the last of them as with every flag."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    found = [value for flag, value in pairwise(words) if flag == "--config"]
    return Path(found[-1]) if found else None


def _file(model: type[Model], path: Path) -> dict[str, Any]:
    """The settings of `--config`, judged now so that a complaint names the file. A run's own name may say too much."""
    values = config.read(path)
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
