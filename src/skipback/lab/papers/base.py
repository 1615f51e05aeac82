"""Papers as data: what was published, and the settings that should give it again.

A file of this folder is one paper: `PAPER`, `SEED`, `DEVIATIONS` and `TABLES`. Nothing here trains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from skipback.core.method import Paper
from skipback.lab.papers.scores import Score

GPU = "a GPU"
"""What a row needs that two CPU cores cannot train in hours."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One number to meet.

    Attributes:
        score: what it is of a run.
        value: the number; `None`: not known.
        source: where it stands.
        std: sample standard deviation over `n` runs, where it is known.
        n: runs that it is the mean of.
        at: the epoch after which it was read; `None`: the last one.
        exact: the original draws nothing that we do not draw too, so ours must agree in every digit of `value`.
        unverified: it is from memory, and nobody has held it against the paper.
        note: what a reader should know.
    """

    score: Score
    value: float | None = None
    source: str = "not known"
    std: float | None = None
    n: int = 1
    at: int | None = None
    exact: bool = False
    unverified: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a recipe, and what should come out.

    Attributes:
        label: what tells it from the other rows of its table.
        recipe: settings of a run by their names; `dataset` and `method` are among them.
        expected: what is known, and what is measured although nothing is known.
        verb: of the command line that trains it.
        typed: the command of one run, where it is not the verb with the recipe as flags.
        needs: what the machine must have, e.g. `GPU`; empty for a CPU.
        unavailable: why nobody can run it (data that cannot be had); empty for all others.
    """

    label: str
    recipe: Mapping[str, Any]
    expected: tuple[Expected, ...]
    verb: str = "train"
    typed: str = ""
    needs: str = ""
    unavailable: str = ""

    @property
    def slug(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower().replace("±", "pm")).strip("-")


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much of the gap between a floor and a ceiling a row closes: 100 (row - floor) / (ceiling - floor) percent.

    Attributes:
        label: of the line.
        of: label of the row.
        floor: label of the row at 0 percent.
        ceiling: label of the row at 100 percent.
        expected: its score is that of the three rows, its value is in percent.
    """

    label: str
    of: str
    floor: str
    ceiling: str
    expected: Expected


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a paper: a score of some rows, against the epoch or against a setting.

    Attributes:
        name: of the file.
        title: what it shows.
        score: on the y axis.
        rows: their labels; empty: all of the table.
        x: the setting on the x axis; `None`: the epoch.
        line: the setting whose values are the lines, where `x` is a setting.
        log: whether the setting is on a logarithmic axis; where x is the epoch, whether the score is.
    """

    name: str
    title: str
    score: Score
    rows: tuple[str, ...] = ()
    x: str | None = None
    line: str | None = None
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that belong together.

    Attributes:
        name: how it is asked for.
        title: what it is in the paper or its code.
        seeds: runs of each row, as published.
        first_seed: the lowest of them.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    seeds: int = 1
    first_seed: int = 1
    gaps: tuple[Gap, ...] = ()
    figures: tuple[Figure, ...] = ()

    def row(self, label: str) -> Row:
        """The row with a label."""
        return next(row for row in self.rows if row.label == label)


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """What differs from the original, and why it cannot or should not be the same.

    Attributes:
        number: by which rows and pages refer to it.
        text: one or two sentences.
        tables: names of the tables that it is about; empty: all.
    """

    number: int
    text: str
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The original code.

    Attributes:
        name: of the page in docs/seeds.
        url: where it is.
        commit: that was read.
    """

    name: str
    url: str
    commit: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One paper with its tables."""

    paper: Paper
    seed: Seed
    tables: tuple[Table, ...]
    deviations: tuple[Deviation, ...] = field(default=())

    @property
    def key(self) -> str:
        """By which it is asked for: the citation key."""
        return self.paper.key


def deviations(*texts: str | tuple[str, tuple[str, ...]]) -> tuple[Deviation, ...]:
    """Number the deviations of a paper: texts, or pairs of a text and the tables that it is about."""
    pairs = [(text, ()) if isinstance(text, str) else text for text in texts]
    return tuple(Deviation(number=k, text=text, tables=tuple(names)) for k, (text, names) in enumerate(pairs, start=1))


def by_epoch(score: Score, values: Mapping[int, float], source: str, *, last: int, n: int = 1) -> tuple[Expected, ...]:
    """One number for each epoch that is known, the last epoch first, known or not.

    Args:
        score: what the values are.
        values: by epoch.
        source: of all of them.
        last: epochs of the run.
        n: runs that each value is the mean of.
    """
    early = [Expected(score=score, value=v, source=source, at=e, n=n) for e, v in values.items() if e != last]
    final = Expected(score=score)
    if last in values:
        final = replace(final, value=values[last], source=source, n=n)
    return (final, *reversed(early))


def unknown(*scores: Score) -> tuple[Expected, ...]:
    """What is measured although nothing is known."""
    return tuple(Expected(score=score) for score in scores)
