"""The data floor: official files, checked, as tensors. `names()` and `cards()` import neither torch nor numpy."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from skipback.lab.data import (
    adult,
    cifar10,
    cifar100,
    digits,
    emnist,
    enwik8,
    fashion_mnist,
    kddcup99,
    mnist,
    planetoid,
    sgemm,
    shakespeare,
    stl10,
    susy,
    svhn,
    synthetic,
    wine_quality,
)
from skipback.lab.data.base import Archive, Card, DataError, Dataset, File, Graph, Package, Split, Task, Text
from skipback.lab.data.source import Check, Data, Source, State

__all__ = [
    "Archive",
    "Card",
    "Check",
    "DataError",
    "Dataset",
    "File",
    "Graph",
    "Package",
    "Split",
    "State",
    "Task",
    "Text",
    "card",
    "cards",
    "fetch",
    "graph",
    "here",
    "load",
    "names",
    "raw",
    "standard",
    "text",
    "verify",
]

_ROWS: dict[str, Source[Dataset]] = {
    "digits": digits.SOURCE,
    "mnist": mnist.SOURCE,
    "fashion-mnist": fashion_mnist.SOURCE,
    **emnist.SOURCES,
    "cifar10": cifar10.SOURCE,
    "cifar100": cifar100.SOURCE,
    "cifar100-coarse": cifar100.COARSE_SOURCE,
    "svhn": svhn.SOURCE,
    "svhn-extra": svhn.EXTRA,
    "stl10": stl10.SOURCE,
    "wine-quality": wine_quality.SOURCE,
    "wine-quality-unique": wine_quality.UNIQUE,
    **sgemm.SOURCES,
    "adult": adult.SOURCE,
    **kddcup99.SOURCES,
    "susy": susy.SOURCE,
    **synthetic.SOURCES,
}
_TEXTS: dict[str, Source[Text]] = {"tiny-shakespeare": shakespeare.SOURCE, **enwik8.SOURCES}
_GRAPHS: dict[str, Source[Graph]] = planetoid.SOURCES
_SOURCES: dict[str, Source[Any]] = {**_ROWS, **_TEXTS, **_GRAPHS}


def names() -> list[str]:
    """The names of all data sets, the carried one first."""
    return list(_SOURCES)


def card(name: str) -> Card:
    """What is known of a data set.

    Raises:
        DataError: No data set has this name; so in every function here.
    """
    return _source(name).card


def cards() -> list[Card]:
    """The cards of all data sets, in the order of `names`."""
    return [source.card for source in _SOURCES.values()]


def here(name: str, *, root: Path | None = None) -> bool:
    """Whether all files of a data set are on this machine. Their content is not looked at; `verify` does that."""
    return _source(name).here(root=root)


def load(name: str, *, task: Task | None = None, root: Path | None = None) -> Dataset:
    """Rows of inputs and targets as a network takes them (float32, standardised), downloaded first if need be.

    Args:
        name: One of `names()` whose task is classification or regression.
        task: One of the card's tasks; None takes its first.
        root: The folder that holds the data sets' folders. None: SKIPBACK_DATA, then the cache of the platform.

    Raises:
        DataError: The data set is a text or a graph, the card has no such task, or a file is missing, damaged or
            another version.
    """
    return _rows(name).load(task, root=root)


def raw(name: str, *, task: Task | None = None, root: Path | None = None) -> Dataset:
    """The same rows as the official files have them: images uint8 (N, C, H, W), tables in their own units.

    Raises:
        DataError: As `load`.
    """
    return _rows(name).raw(task, root=root)


def standard(name: str, rows: Dataset) -> Dataset:
    """Raw rows, all or some of them, as `load` would give them: standardised by those that train."""
    return _rows(name).standard(rows)


def text(name: str, *, root: Path | None = None) -> Text:
    """A text as tokens.

    Raises:
        DataError: The data set is no text, or a file is missing, damaged or another version.
    """
    return _of_kind(name, _TEXTS, "a text").load(root=root)


def graph(name: str, *, root: Path | None = None) -> Graph:
    """A graph whose nodes are classified.

    Raises:
        DataError: The data set is no graph, or a file is missing, damaged or another version.
    """
    return _of_kind(name, _GRAPHS, "a graph").load(root=root)


def fetch(name: str, *, root: Path | None = None) -> list[Path]:
    """The paths of the official files, downloading those that are missing; empty for a carried data set.

    Raises:
        DataError: A file is missing and no address gave it.
    """
    return _source(name).fetch(root=root)


def verify(name: str, *, root: Path | None = None) -> list[Check]:
    """The state of every official file, without downloading; empty for a carried data set, which `load` checks."""
    return _source(name).verify(root=root)


def _rows(name: str) -> Source[Dataset]:
    return _of_kind(name, _ROWS, "rows of inputs and targets")


def _of_kind(name: str, kind: dict[str, Source[Data]], what: str) -> Source[Data]:
    _source(name)
    if name in kind:
        return kind[name]
    reader = "text" if name in _TEXTS else "graph" if name in _GRAPHS else "load"
    raise DataError(f"data set {name!r} is not {what}: read it with skipback.lab.data.{reader}({name!r})")


def _source(name: str) -> Source[Any]:
    if name in _SOURCES:
        return _SOURCES[name]
    near = difflib.get_close_matches(name, _SOURCES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(f"unknown data set {name!r}; {hint}(choose from {', '.join(_SOURCES)})")
