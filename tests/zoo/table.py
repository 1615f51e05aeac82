"""The table of the zoo: one row for each architecture, as JSON and as Markdown."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from entries import WAYS

from skipback.lab import machine

LIBRARIES = ("timm", "torchvision", "transformers", "torch-geometric")
Row = dict[str, Any]


def rows(verdicts: Iterable[Row]) -> list[Row]:
    """One row for each architecture, with its verdicts by way of training."""
    found: dict[tuple[str, str], Row] = {}
    for verdict in verdicts:
        rest = {key: value for key, value in verdict.items() if key not in ("library", "name", "way")}
        key = verdict["library"], verdict["name"]
        row = found.setdefault(key, {"library": key[0], "name": key[1], "ways": {}})
        row["ways"][verdict["way"]] = rest
    for row in found.values():  # processes end their tests in any order
        row["ways"] = {way: row["ways"][way] for way in WAYS if way in row["ways"]}
    return [found[key] for key in sorted(found)]


def counts(table: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How many are taught, refused and wrong, by way of training."""
    ways = [way for way in WAYS if any(way in row["ways"] for row in table)]
    return {way: dict(Counter(row["ways"][way]["verdict"] for row in table if way in row["ways"])) for way in ways}


def write(path: Path, table: Sequence[Row], command: str) -> None:
    """Keep it, with what a reader needs in order to repeat it."""
    environment = machine.describe(torch.device("cpu"), command)
    environment["libraries"] = {name: importlib.metadata.version(name) for name in LIBRARIES}
    text = json.dumps({"environment": environment, "counts": counts(table), "rows": table}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def markdown(table: Sequence[Row]) -> str:
    """What is printed: counts, and a line for each architecture."""
    kinds = ("taught", "refused", "wrong")
    lines = ["", "| trained by | taught | refused | wrong |", "|---|---|---|---|"]
    for way, found in counts(table).items():
        lines.append(f"| {way} | {' | '.join(str(found.get(kind, 0)) for kind in kinds)} |")
    lines += ["", "| architecture | blocks | head | largest block | s | verdict |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_line, table)])


def _line(row: Row) -> str:
    ways = row["ways"]
    dfa = ways.get("dfa") or next(iter(ways.values()))
    seconds = sum(found["seconds"] for found in ways.values())
    shares = ["" if dfa[key] is None else f"{dfa[key]:.0%}" for key in ("head", "largest")]
    blocks = "" if dfa["blocks"] is None else dfa["blocks"]
    said: dict[str, list[str]] = {}
    for way, found in ways.items():
        why = "; ".join(found["why"]).replace("|", "/")
        said.setdefault(f"**{found['verdict']}** {why}".strip() if why else found["verdict"], []).append(way)
    verdict = "<br>".join(f"{', '.join(names)}: {text}" for text, names in said.items())
    return f"| {row['library']} {row['name']} | {blocks} | {' | '.join(shares)} | {seconds:.1f} | {verdict} |"
