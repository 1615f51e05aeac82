"""The lines of a table: what was published, what came out here, and whether the two agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from statistics import fmean, stdev
from typing import Any

from skipback.lab.papers.base import Expected, Gap, Row, Table
from skipback.lab.records import read_json, read_jsonl
from skipback.lab.report.student import t_quantile
from skipback.lab.reproduce.jobs import Job
from skipback.lab.states import DIVERGED, UNMOVED

GAP = "gap closed, %"
"""What stands in the place of a score."""
NO_RESULT = (DIVERGED, UNMOVED)
"""How a run can end that is said beside its numbers."""
TWO = 0.9772498680518208
"""The probability that a normal number is less than two standard deviations above its mean."""
FEWEST = 3
"""Runs from which a published deviation is taken as it is: of two it says too little."""


class Agreement(StrEnum):
    """Whether a line agrees with its paper."""

    DIGITS = "to the digit"
    WITHIN = "within 2 std"
    OFF = "off"
    ONE = "one run, no spread"
    NOT_FINITE = "no finite value"
    UNKNOWN = "nothing to compare"
    NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run: the numbers of it that its row compares.

    Attributes:
        seed: of the run.
        values: by the name of a score and the epoch (`None`: the end of a finished run); `None` for what is not finite.
            What was not reached, or not measured, is not in it.
        about: where it ran, how long, and whether it is finished.
    """

    seed: int
    values: Mapping[tuple[str, int | None], float | None]
    about: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One number of a row beside its paper's.

    Attributes:
        label: of the row.
        expected: what was published.
        values: ours, by seed.
        reached: runs that came so far; those without a value had no finite one: they have diverged.
        trained: epochs of our runs, where they are fewer than published; else `None`.
        ended: how many of our runs are in a state that is no result: diverged, or nothing moved.
        percent: whether it is a share of a gap.
    """

    label: str
    expected: Expected
    values: Mapping[int, float]
    reached: int
    trained: int | None = None
    ended: Mapping[str, int] = field(default_factory=dict)
    percent: bool = False

    @property
    def mean(self) -> float | None:
        """Ours."""
        return fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation of ours; `None` below two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        known = self.mean is not None and self.expected.value is not None
        return self.mean - self.expected.value if known else None  # type: ignore[operator]

    @property
    def allowed(self) -> float | None:
        """Two standard deviations of the difference of two means: k sqrt(s² / n + s_p² / m).

        s and n are ours, s_p and m the paper's. Where one of the two deviations is not known, the other stands for it.
        k is 2, and more where few runs tell the deviation: Student's t at the same probability (n = 3: 4.5).
        """
        theirs = self.expected.std if self.expected.n >= FEWEST else None
        known = [n - 1 for s, n in ((self.std, len(self.values)), (theirs, self.expected.n)) if s is not None]
        if not known or not self.values:
            return None
        ours = self.std if self.std is not None else theirs
        theirs = theirs if theirs is not None else ours
        assert ours is not None
        assert theirs is not None
        spread = math.sqrt(ours**2 / len(self.values) + theirs**2 / self.expected.n)
        return t_quantile(TWO, sum(known)) * spread + self._rounding

    @property
    def _rounding(self) -> float:
        """Half a unit of the last place that the paper prints."""
        return 0.5 * 10.0**-self.places

    @property
    def _to_the_digit(self) -> bool:
        """Whether every run of ours, rounded as the published value is, is that value."""
        value = self.expected.value
        assert value is not None
        decimals = -int(Decimal(repr(value)).as_tuple().exponent)
        return all(round(ours, decimals) == value for ours in self.values.values())

    @property
    def places(self) -> int:
        """Decimals to show."""
        return 0 if self.percent else self.expected.score.places

    @property
    def verdict(self) -> Agreement:
        """Whether ours agrees."""
        if not self.reached:
            return Agreement.NOT_RUN
        if len(self.values) < self.reached:
            return Agreement.NOT_FINITE
        if self.difference is None:
            return Agreement.UNKNOWN
        if self.expected.exact:
            return Agreement.DIGITS if self._to_the_digit else Agreement.OFF
        if self.allowed is None:
            return Agreement.ONE
        return Agreement.WITHIN if abs(self.difference) <= self.allowed else Agreement.OFF

    @property
    def what(self) -> str:
        """The score, and when it was read."""
        name = GAP if self.percent else self.expected.score.name
        if self.expected.at is not None:
            return f"{name}, epoch {self.expected.at}"
        return f"{name}, epoch {self.trained}" if self.trained is not None else name


def record(job: Job) -> Outcome | None:
    """What the folder of a job holds; `None` if it was not begun.

    Raises:
        LabError: a file of it is damaged.
    """
    path = job.place / "metrics.jsonl"
    if not path.exists():
        return None
    rows = {row["epoch"]: row for row in read_jsonl(path)}
    summary, last = job.folder.summary, rows[max(rows)] if rows else {}
    found: dict[int | None, dict[str, Any]] = {None: {**summary, **last}} if summary is not None else {}
    found.update(rows)
    measured = {(e.score.name, e.at): e.score.of(found[e.at]) for e in job.row.expected if e.at in found}
    env = job.place / "env.json"
    return Outcome(
        seed=job.seed,
        values={key: value if math.isfinite(value) else None for key, value in measured.items() if value is not None},
        about=_about(summary, last, read_json(env) if env.exists() else {}),
    )


def _about(summary: Mapping[str, Any] | None, last: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    state = "unfinished" if summary is None else summary.get("state", "finished")
    where = ("commit", "skipback", "torch", "processor", "device", "threads", "started", "command")
    return {
        "state": state,
        "reached": last.get("epoch", 0),
        "seconds": last.get("train_seconds"),
        **{key: env[key] for key in where if key in env},
    }


def of_row(row: Row, records: Sequence[Outcome], *, trained: int | None = None) -> list[Line]:
    """All lines of a row.

    Args:
        row: of a table.
        records: its runs.
        trained: their epochs, where they are fewer than published: what comes at the end is then not compared.
    """
    lines = [_line(row.label, expected, records) for expected in row.expected if _comes(expected, trained)]
    if trained is not None:
        told = {line.expected.score for line in lines if line.expected.at == trained}
        short = [e.score for e in row.expected if e.at is None and e.score not in told]
        lines += [
            _line(row.label, Expected(score=score, note=f"of {row.recipe.get('epochs')} epochs"), records, trained)
            for score in short
        ]
    return lines


def _comes(expected: Expected, trained: int | None) -> bool:
    return trained is None or (expected.at is not None and expected.at <= trained)


def _line(label: str, expected: Expected, records: Sequence[Outcome], trained: int | None = None) -> Line:
    key = (expected.score.name, expected.at)
    found = {record.seed: record.values[key] for record in records if key in record.values}
    return Line(
        label=label,
        expected=expected,
        values={seed: value for seed, value in found.items() if value is not None},
        reached=len(found),
        trained=trained,
        ended=Counter(state for record in records if (state := record.about.get("state")) in NO_RESULT),
    )


def of_gap(gap: Gap, lines: Sequence[Line]) -> Line:
    """The share of a gap that a row closes, seed by seed, where the three rows have the seed.

    Args:
        gap: of a table.
        lines: of the table.
    """
    score = gap.expected.score
    ends = {line.label: line for line in lines if line.expected.at is None and line.expected.score == score}
    three = [ends[label] for label in (gap.of, gap.floor, gap.ceiling) if label in ends]
    of, floor, ceiling = (line.values for line in three) if len(three) == 3 else ({}, {}, {})
    seeds = [seed for seed in of if seed in floor and seed in ceiling and ceiling[seed] != floor[seed]]
    closed = {seed: 100 * (of[seed] - floor[seed]) / (ceiling[seed] - floor[seed]) for seed in seeds}
    short = {line.trained for line in three if line.trained is not None}
    expected = Expected(score=score, note="fewer epochs than published") if short else gap.expected
    trained = max(short, default=None)
    return Line(label=gap.label, expected=expected, values=closed, reached=len(closed), trained=trained, percent=True)


def shown(table: Table, lines: Sequence[Line]) -> list[Line]:
    """The lines that a person reads: of each score of each row the last that is known, and the last that was run."""
    kept: list[Line] = []
    for row in table.rows:
        own = [line for line in lines if line.label == row.label and not line.percent]
        for score in dict.fromkeys(line.expected.score for line in own):
            kept += _last([line for line in own if line.expected.score == score])
    return [*kept, *(line for line in lines if line.percent)]


def _last(lines: Sequence[Line]) -> list[Line]:
    """The line of the end; with it the latest epoch that is known, where the end is not."""
    end = [line for line in lines if line.expected.at is None]
    if any(line.expected.value is not None for line in end):
        return end
    known = [line for line in lines if line.expected.value is not None]
    ran = [line for line in known if line.reached] or known
    latest = max(ran, key=lambda line: line.expected.at or 0, default=None)
    return ([] if latest is None else [latest]) + end
