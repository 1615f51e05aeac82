"""A comparison over settings: lists of values for any setting, and settings of one method alone.

    --depth 1,2 --feedback ternary,kaiming          lr = [1e-3, 1e-2]          [method.shallow]
                                                    (in a file)                lr = 1.5e-2

A list is an axis, and every combination is a run. What a file says of one method is for that method alone, and there
wins over the command line: it is the more particular of the two.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skipback.lab import config
from skipback.lab.config import Run, Settings
from skipback.lab.errors import LabError, unknown
from skipback.lab.records import Folder, read_json
from skipback.methods import TABLE as METHODS

Axes = dict[str, list[Any]]

OWN_COMMAS = ("dropout", "batch_norm_at")
"""Settings of which one value may have commas: their lists are written in a file, as lists of lists or of texts."""
NAMED = ("method", "seed", "signal", "feedback", "as_published", "anchor", "dataset")
"""What `Run.name` says already, or is the same for all runs of a comparison."""
SAME = ("epochs", "device", "threads", "precision", "compile")
"""A folder whose run differs in these alone is no other run's: it is refused, not passed by."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What varies.

    Attributes:
        axes: the values of settings that have several, for all methods.
        own: of each method, its own settings; a list among them is an axis.
    """

    axes: Axes = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def of_flags(argv: Sequence[str]) -> tuple[list[str], Axes]:
    """The flags with the first value of each list, and the lists. The last of a repeated flag counts, as always."""
    words, axes = [part for word in argv for part in _parted(word)], Axes()
    for at in range(len(words) - 1):
        name = words[at].removeprefix("--").replace("-", "_")
        if words[at].startswith("--") and name in Settings.model_fields and name not in OWN_COMMAS:
            axes.pop(name, None)
            values = _values(words[at + 1])
            if len(values) > 1:
                axes[name], words[at + 1] = values, values[0]
    return words, axes


def _parted(word: str) -> list[str]:
    """`--depth=1,2` as two words."""
    return word.split("=", 1) if re.match(r"--[\w-]+=", word) else [word]


def _values(text: str) -> list[str]:
    """The values of a list: numbers stand alone, and a name takes along the numbers behind it (discrete:0,1)."""
    found: list[str] = []
    for part in text.split(","):
        belongs = bool(found) and ":" in found[-1] and not part.strip()[:1].isalpha()
        if belongs:
            found[-1] += f",{part}"
        else:
            found.append(part.strip())
    return found


def of_file(values: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Sweep]:
    """What a file says of all runs, each list by its first value; and what varies.

    Raises:
        LabError: a table is for no method, or a list is empty.
    """
    plain = dict(values)
    tables = plain.pop("method") if isinstance(values.get("method"), dict) else {}
    for name, own in tables.items():
        if name not in METHODS or not isinstance(own, dict):
            raise LabError(f"--config {path}: [method.{name}]: {unknown('method', name, list(METHODS))}")
    axes = {key: value for key, value in plain.items() if key in Settings.model_fields and _is_axis(key, value)}
    for key, listed in [*axes.items(), *((k, v) for own in tables.values() for k, v in own.items())]:
        if listed == []:
            raise LabError(f"--config {path}: {key}: an empty list has no run")
    return {**plain, **{key: listed[0] for key, listed in axes.items()}}, Sweep(axes=axes, own=tables)


def _is_axis(key: str, value: Any) -> bool:
    if key in OWN_COMMAS:
        return isinstance(value, list) and any(isinstance(one, list | str) for one in value)
    return isinstance(value, list)


def runs(
    sweep: Sweep,
    fields: Mapping[str, Any],
    methods: Iterable[str],
    seeds: Iterable[int],
    fitted: Callable[[dict[str, Any], str], dict[str, Any]],
) -> list[Run]:
    """Every combination once, method by method, and in each the seeds.

    Args:
        sweep: what varies.
        fields: the settings that all share; a value of an axis replaces its own.
        methods: their names.
        seeds: of each combination.
        fitted: what a method takes of settings that not all have; of (settings, method).

    Raises:
        LabError: a value is refused.
    """
    found: dict[Run, None] = {}
    numbers = list(seeds)
    for method in methods:
        own = sweep.own.get(method, {})
        axes = {
            **{k: v for k, v in sweep.axes.items() if k not in own},
            **{k: v for k, v in own.items() if _is_axis(k, v)},
        }
        fixed = {key: value for key, value in own.items() if key not in axes}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            settings = {**fields, **chosen}
            settings = {**settings, **fitted(settings, method), **{k: chosen[k] for k in chosen if k in own}, **fixed}
            for seed in numbers:
                found[_run({**settings, "method": method, "seed": seed}, own)] = None
    return list(found)


def _run(settings: dict[str, Any], own: Mapping[str, Any]) -> Run:
    where = f"[method.{settings['method']}]: " if own else ""
    try:
        return Run(**settings)
    except ValidationError as error:
        raise LabError(f"{where}{config.explain(error)}") from None
    except LabError as error:
        raise LabError(f"{where}{error}") from None


def names(compared: Sequence[Run]) -> list[str]:
    """A folder name for each run: its own, and each setting in which the runs of its method differ."""
    told = {}
    for method in {run.method for run in compared}:
        dumps = [run.model_dump() for run in compared if run.method == method]
        told[method] = [key for key in dumps[0] if key not in NAMED and len({repr(d[key]) for d in dumps}) > 1]
    return [inserted(run, {key: getattr(run, key) for key in told[run.method]}) for run in compared]


def inserted(run: Run, settings: Mapping[str, Any]) -> str:
    """The run's name with these settings before its seed: dfa-depth2-seed1."""
    stem = run.name.removesuffix(f"-seed{run.seed}")
    return "-".join([stem, *(_said(key, value) for key, value in settings.items()), f"seed{run.seed}"])


def _said(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    return key + re.sub(r"[^\w.+-]", "-", str(value))  # no file system forbids what is left


def folder(out: Path, run: Run, name: str) -> Folder:
    """Where a run of a comparison is kept. If its name is that of another run, its own says what differs from that one.

    Args:
        out: of the comparison.
        run: a complete configuration.
        name: of the run.
    """
    path = out / name / "config.json"
    if not path.exists():
        return Folder(out / name)
    ours, held = run.model_dump(mode="json"), {**config.usual(), **read_json(path)}
    differing = [key for key in ours if ours[key] != held.get(key)]
    if not differing or any(key in SAME for key in differing):
        return Folder(out / name)
    added = "-".join(_said(key, ours[key]) for key in differing)
    return Folder(out / f"{name.removesuffix(f'-seed{run.seed}')}-{added}-seed{run.seed}")
