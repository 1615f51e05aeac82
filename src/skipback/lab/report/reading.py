"""Run folders in, plain records out: which runs there are and what their files hold.

A run is finished when its `summary.json` exists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from skipback.lab.config import usual
from skipback.lab.errors import LabError
from skipback.lab.report.metric import ReportedMetric
from skipback.lab.states import DIVERGED, UNMOVED, state_of

LATER = (
    *("batch_norm", "dropout", "input_dropout", "zero_init", "prepare", "zca_epsilon", "augment"),
    *("validation", "held_out", "split_seed", "distinct", "anchor", "precision", "compile"),
    *("schedule", "weight_decay", "momentum", "dampening", "nesterov", "stop_train_error", "stop_change"),
    *("feedback_lr", "feedback_decay", "feedback_optimizer", "reduction", "max_in_norm", "max_out_norm"),
    *("adversarial", "keep_clean_gradients", "weight_seed", "feedback_seed", "order_seed", "limit"),
    *("eval_every", "score_train", "align_on", "align_rows", "align_every"),
    *("bias", "batch_norm_at", "norm_last", "dropout_first", "start", "bottleneck", "bottleneck_form"),
)
"""Settings that older run folders lack, where they had their usual value."""


def held(settings: Mapping[str, object], key: str) -> object:
    """The value of a setting; of one of `LATER` that is left out, its usual value."""
    return settings.get(key, usual()[key] if key in LATER else None)


class ReportError(LabError):
    """A run folder is missing or damaged. The message names the file, the place in it, and the fix."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    @classmethod
    def read(cls, value: Mapping[str, object], place: object) -> Self:
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ReportError(f"{place}: {name}: {first['msg']} (found {first['input']!r}).") from error


class Config(_Record, extra="allow"):
    """config.json: these three keys and whatever else the run was configured with."""

    dataset: str
    method: str
    seed: int


class Port(_Record):
    """The alignment of one port at one evaluation."""

    port: str
    cosine: FiniteFloat | None = None
    null_band: FiniteFloat | None = None
    verdict: str = ""


class Evaluation(_Record):
    """One line of metrics.jsonl."""

    epoch: int
    test_accuracy_percent: float | None = None
    test_mse: float | None = None
    valid_accuracy_percent: float | None = None
    valid_mse: float | None = None
    train_accuracy_percent: float | None = None
    train_eval_accuracy_percent: float | None = None
    train_eval_mse: float | None = None
    train_loss: float | None = None
    test_loss: float | None = None
    valid_loss: float | None = None
    alignment: tuple[Port, ...] = ()


class Summary(_Record, extra="allow"):
    """summary.json: what a finished run came to."""

    method_title: str = ""
    state: str | None = None  # folders of older versions do not say
    start: str | None = None  # of the weights, where a start at 0 was asked for
    test_accuracy_percent: float | None = None
    test_mse: float | None = None
    valid_accuracy_percent: float | None = None
    valid_mse: float | None = None
    train_accuracy_percent: float | None = None
    train_eval_accuracy_percent: float | None = None
    train_eval_mse: float | None = None
    train_seconds: float | None = None
    samples_per_second: float | None = None
    peak_memory_mib: float | None = None
    backprop_share: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRun:
    """One run folder."""

    path: Path
    config: Config
    env: Mapping[str, object]
    evaluations: tuple[Evaluation, ...]  # by epoch
    summary: Summary | None  # None: unfinished

    @property
    def settings(self) -> dict[str, object]:
        """The configuration without the seed: what an arm has in common.

        Of the settings that older folders lack only what is unusual: nothing else tells old runs from new ones.
        """
        held = self.config.model_dump(exclude={"seed"})
        return {key: value for key, value in held.items() if key not in LATER or value != usual()[key]}

    @property
    def epochs_reached(self) -> int:
        """The epoch of the last evaluation; 0 where there is none."""
        return self.evaluations[-1].epoch if self.evaluations else 0

    @property
    def split(self) -> str:
        """Whose scores are its results: those of the test split, or of training rows that were held out."""
        return "test" if self.settings.get("validation") is None else "valid"

    @property
    def state(self) -> str | None:
        """How it ended; None while it has not. Of an older folder as far as its losses tell."""
        if self.summary is None:
            return None
        return self.summary.state or state_of([e.model_dump(exclude_unset=True) for e in self.evaluations])

    def final(self, metric: ReportedMetric) -> float | None:
        """The result of a run that is over; None where that is none: it diverged, or nothing moved."""
        value: float | None = getattr(self.summary, metric.key, None)
        if value is None or not math.isfinite(value) or self.state in (DIVERGED, UNMOVED):
            return None
        return value


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every run folder among `paths` and inside them, however deep, in the order given, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        inside = sorted((file.parent for file in path.rglob("config.json")), key=_natural)
        runs = [path] if (path / "config.json").is_file() else inside
        if not runs:
            raise ReportError(
                f"{path}: no run here. A run folder holds a config.json; give it or the folder around it."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts seed-2 before seed-10, and what lies deeper where its folders are."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]


def read_run(path: Path) -> RecordedRun:
    """Read one run folder."""
    done = (path / "summary.json").exists()
    config = Config.read(_object(path / "config.json"), path / "config.json")
    held_out, rows = config.model_dump().get("validation") is not None, path / "metrics.jsonl"
    summary = Summary.read(_of_split(_object(path / "summary.json"), held_out), path / "summary.json") if done else None
    return RecordedRun(
        path=path,
        config=config,
        env=_object(path / "env.json") if (path / "env.json").exists() else {},
        evaluations=_evaluations(rows, done, held_out) if done or rows.exists() else (),
        summary=summary,
    )


def _of_split(record: dict[str, object], held_out: bool) -> dict[str, object]:
    """Scores of held-out rows by their name; older folders call them `test_*`."""
    if not held_out:
        return record
    return {f"valid_{key[5:]}" if key.startswith("test_") else key: value for key, value in record.items()}


def _evaluations(path: Path, done: bool, held_out: bool) -> tuple[Evaluation, ...]:
    """All evaluations by epoch; of an epoch evaluated twice (a resumed run) the later line counts."""
    *lines, last = _text(path).split("\n")
    if done:  # else a line without its end is still being written
        lines.append(last)
    found: dict[int, Evaluation] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = Evaluation.read(_of_split(_parse(line, path, number), held_out), f"{path}, line {number}")
            found[record.epoch] = record
    return tuple(found[epoch] for epoch in sorted(found))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read ({error}). Run again, or remove this folder.") from error


def _object(path: Path) -> dict[str, object]:
    return _parse(_text(path), path)


def _parse(text: str, path: Path, line: int | None = None) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise ReportError(f"{path}, {place}: damaged JSON ({error.msg}). Run again, or remove this folder.") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path}, line {line or 1}: expected a JSON object, found {type(value).__name__}.")
    return value
