"""Which runs belong together: runs that differ in nothing but the seed form an arm, and only they are averaged.

Arms on the same data set and net, with the same kind of result, share a section of the report.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from skipback.lab.report.metric import ACCURACY, MSE, ReportedMetric
from skipback.lab.report.reading import RecordedRun, held
from skipback.lab.report.stats import Difference, difference
from skipback.lab.states import UNMOVED

BACKPROP = "bp"
FLOOR = "shallow"
NET_KEYS = (
    *("dataset", "net", "depth", "width", "batch_norm", "dropout", "input_dropout", "zero_init"),
    *("bias", "batch_norm_at", "norm_last", "dropout_first", "bottleneck", "bottleneck_form"),
    *("prepare", "zca_epsilon", "augment", "validation", "held_out", "split_seed", "distinct"),
)
"""Runs that differ here are never compared with each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """The finished runs of one configuration, one per seed."""

    label: str  # the method, and what tells this arm from others of the same method
    method: str
    title: str
    settings: Mapping[str, object]
    runs: tuple[RecordedRun, ...]

    @property
    def floor(self) -> bool:
        """Whether the hidden blocks stay frozen."""
        return self.method == FLOOR and not self.anchored

    @property
    def anchored(self) -> bool:
        """Whether some training passes are plain backprop."""
        return self.settings.get("anchor") is not None

    def finals(self, metric: ReportedMetric) -> dict[int, float]:
        """Result by seed. Empty when any seed has none: a mean over the survivors would flatter the method."""
        values = {run.config.seed: run.final(metric) for run in self.runs}
        known = {seed: value for seed, value in values.items() if value is not None}
        return known if len(known) == len(values) else {}

    def lost(self, metric: ReportedMetric) -> str:
        """How many of its runs have no result, and why, in words; empty where all have one."""
        states = Counter(run.state for run in self.runs if run.final(metric) is None)
        return ", ".join(f"{count} of {len(self.runs)} {_no_result(state)}" for state, count in states.items())

    def mean(self, key: str) -> float | None:
        """The mean of a cost (seconds, samples per second, MiB) over the runs that recorded it."""
        values = [value for run in self.runs if (value := getattr(run.summary, key)) is not None]
        return fmean(values) if values else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """All that was run on one data set with one net: arms in the order of their first runs."""

    net: Mapping[str, object]  # the values of NET_KEYS
    metric: ReportedMetric
    arms: tuple[Arm, ...]
    unfinished: tuple[RecordedRun, ...]
    repeated: tuple[RecordedRun, ...]  # same configuration and seed as a run already counted

    @property
    def ranked(self) -> list[Arm]:
        """Best mean first; arms without a result last."""

        def rank(arm: Arm) -> float:
            finals = arm.finals(self.metric).values()
            return -self.metric.sign * fmean(finals) if finals else math.inf

        return sorted(self.arms, key=rank)

    @property
    def backprop(self) -> Arm | None:
        """The best arm of plain backprop: what the others are measured against."""
        return next((arm for arm in self.ranked if arm.method == BACKPROP and arm.finals(self.metric)), None)

    @property
    def floor(self) -> Arm | None:
        """The best arm whose hidden blocks stay frozen: what a method must beat to have taught them anything."""
        return next((arm for arm in self.ranked if arm.floor and arm.finals(self.metric)), None)

    def gap(self, arm: Arm, to: Arm | None) -> Difference | None:
        """How far an arm is from another one; None where one of them is missing or has no result."""
        if to is None or to is arm or not (ours := arm.finals(self.metric)):
            return None
        return difference(ours, to.finals(self.metric))


def _no_result(state: str | None) -> str:
    return "did not move" if state == UNMOVED else "diverged"  # a score that is not finite says so by itself


def sections(runs: Sequence[RecordedRun]) -> tuple[Section, ...]:
    """Group runs by data set, net and kind of result, in the order of their first run."""
    known = {_net(run): metric for run in reversed(runs) if (metric := _metric(run))}
    groups: dict[tuple[str, ReportedMetric], list[RecordedRun]] = {}
    for run in runs:
        metric = _metric(run) or known.get(_net(run), replace(ACCURACY, split=run.split))
        groups.setdefault((_net(run), metric), []).append(run)
    return tuple(_section(group, metric) for (_, metric), group in groups.items())


def _metric(run: RecordedRun) -> ReportedMetric | None:
    """Which result the run reports; None while it has reported none."""
    kinds = [replace(metric, split=run.split) for metric in (ACCURACY, MSE)]
    records = (run.summary, *reversed(run.evaluations))
    return next(
        (metric for record in records for metric in kinds if getattr(record, metric.key, None) is not None), None
    )


def _net(run: RecordedRun) -> str:
    return json.dumps([run.settings.get(key) for key in NET_KEYS])


def _identity(run: RecordedRun) -> str:
    """The settings as text; a key that is absent equals one that is not set."""
    known = {key: text for key, value in run.settings.items() if (text := shown(value)) != shown(None)}
    return json.dumps(known, sort_keys=True)


def _section(runs: Sequence[RecordedRun], metric: ReportedMetric) -> Section:
    """Sort the runs of one section into arms, unfinished runs and repetitions."""
    groups: dict[str, dict[int, RecordedRun]] = {}
    repeated = []
    for run in runs:
        if run.summary and groups.setdefault(_identity(run), {}).setdefault(run.config.seed, run) is not run:
            repeated.append(run)
    firsts = [next(iter(group.values())) for group in groups.values()]
    return Section(
        net={key: runs[0].settings.get(key) for key in NET_KEYS},
        metric=metric.fitted(value for run in runs if (value := run.final(metric)) is not None),
        arms=tuple(_arm(group, firsts) for group in groups.values()),
        unfinished=tuple(run for run in runs if not run.summary),
        repeated=tuple(repeated),
    )


def _arm(group: Mapping[int, RecordedRun], firsts: Sequence[RecordedRun]) -> Arm:
    """One arm; `firsts` holds one run of every arm of the section, to find out what tells this one apart."""
    runs = tuple(group[seed] for seed in sorted(group))
    method, summary, settings = runs[0].config.method, runs[0].summary, runs[0].settings
    assert summary is not None, "only finished runs are grouped"
    own = differing([other.settings for other in firsts if other.config.method == method])
    extra = ", ".join(_mark(key, held(settings, key)) for key in own if key != "anchor")
    # said even where all arms have it: without its anchor this is another method
    name = method if settings.get("anchor") is None else f"{method} anchored every {shown(settings['anchor'])}"
    return Arm(
        label=f"{name} ({extra})" if extra else name,
        method=method,
        title=summary.method_title,
        settings=settings,
        runs=runs,
    )


def _mark(key: str, value: object) -> str:
    """A setting in few words: text speaks for itself, and so does the name of what is on."""
    return value if isinstance(value, str) and value != "auto" else key if value is True else f"{key} {shown(value)}"


def differing(records: Sequence[Mapping[str, object]]) -> list[str]:
    """The keys that do not have the same value in all records, in the order of their first appearance."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [key for key in keys if len({shown(record.get(key)) for record in records}) > 1]


def shown(value: object) -> str:
    """A configuration value as a person writes it."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)
