"""The verb `data`: what the data sets are, where they come from, whether the files here are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tyro
from pydantic import BaseModel, Field

from skipback.lab import data, spellings
from skipback.lab.data.base import Card
from skipback.lab.errors import LabError


class DataOptions(BaseModel):
    """The data sets: what they are, where they come from, whether the files here are whole."""

    action: tyro.conf.Positional[str] = Field("list", description="list, info, fetch, verify or export")
    names: tyro.conf.Positional[tuple[str, ...]] = Field(
        (), description="data sets (default: all; to verify: all that are here); to export: NAME FILE.npz|csv"
    )


def run(options: DataOptions) -> None:
    """Do what was asked.

    Raises:
        LabError: A name is unknown, a file cannot be had, or one that was asked for is missing or damaged.
    """
    actions: dict[str, Callable[[list[str]], None]] = {
        "list": _list,
        "info": _info,
        "fetch": _fetch,
        "verify": _verify,
    }
    asked = spellings.check("action", options.action, [*actions, "export"])
    if asked == "export":
        _export(options.names)
        return
    action = actions[asked]
    action([spellings.check("data set", name, data.names()) for name in options.names])


def _list(names: list[str]) -> None:
    head = ("name", "input", "outputs", "train", "test", "download", "title")
    rows = [head, *(_row(data.card(name)) for name in names or data.names())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(card: Card) -> tuple[str, ...]:
    shape = " x ".join(map(str, card.shape)) or "tokens"
    outputs = "/".join(map(str, card.outputs.values()))
    return card.name, shape, outputs, f"{card.train:,}", f"{card.test:,}", _size(card.download), card.title


def _info(names: list[str]) -> None:
    for card in map(data.card, names or data.names()):
        shape = f" of shape {card.shape}" if card.shape else ""
        valid = f", {card.valid:,} validation" if card.valid else ""
        unit = {data.Task.LANGUAGE: "tokens", data.Task.NODES: "nodes"}.get(card.tasks[0], "rows")
        _say(f"{card.name}: {card.title}\n  {card.homepage}\n  licence: {card.licence}\n  cite: {card.citation}")
        _say(f"  {card.train:,} training{valid} and {card.test:,} test {unit}{shape}")
        for task, outputs in card.outputs.items():
            _say(f"  {task}: {outputs} outputs")
        _say(f"  download: {_size(card.download)}" + (f", kept in {card.folder}/" if card.folder else ""))
        for trap in card.traps:
            _say(f"  trap: {trap}")


def _fetch(names: list[str]) -> None:
    if not names:
        largest = {card.folder: 0 for card in data.cards()}
        for card in data.cards():  # the sets of one folder share their files
            largest[card.folder] = max(largest[card.folder], card.download)
        raise LabError(f"data fetch: name the data sets (all together are {_size(sum(largest.values()))})")
    failed: dict[str, LabError] = {}
    for name in names:
        try:
            _say(f"{name}: {', '.join(dict.fromkeys(map(str, data.fetch(name)))) or 'nothing to fetch'}")
        except LabError as error:  # the sets after it may be had
            failed[name] = error
            _say(f"{name}: not fetched")
    if failed and len(names) == 1:
        raise failed[names[0]]
    if failed:
        reasons = "".join(f"\n{error}" for error in failed.values())  # each begins with its data set
        raise LabError(f"data fetch: {len(failed)} of {len(names)} not fetched ({', '.join(failed)}):{reasons}")


def _export(words: tuple[str, ...]) -> None:
    if len(words) != 2:
        raise LabError("data export: write skipback data export NAME FILE.npz, or FILE.csv")
    name, path = spellings.check("data set", words[0], data.names()), Path(words[1])
    from skipback.lab.data import export

    _say(f"{name}: {export.write(name, path)}")


def _verify(names: list[str]) -> None:
    """With names, a missing file is an error; without, whatever is here is checked."""
    broken = 0
    for name in names or data.names():
        checks = data.verify(name)
        here = names or not all(check.state is data.State.MISSING for check in checks)
        for check in checks if here else []:
            _say(f"{name}: {check.file}: {check.state}{f' ({check.reason})' if check.reason else ''}")
            broken += check.state is not data.State.OK
        if not checks:
            _say(f"{name}: carried in the package, or computed")
    if broken:
        raise LabError(f"{broken} files are missing or damaged: `skipback data fetch NAME` brings them")


def _size(count: int) -> str:
    """Bytes for people."""
    if not count:
        return "none"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _say(text: str) -> None:
    print(text)  # noqa: T201
