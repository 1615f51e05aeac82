"""Survey: many networks, what became of each, and the smallest recipe of each kind of failure."""

from __future__ import annotations

import logging
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from generated import recipes
from generated.features import features, ordinary
from generated.prove import prove
from generated.recipes import Case, written
from generated.settle import settled
from generated.shrink import shrunk
from generated.strategies import cases
from generated.verdict import Failure

SHRUNK = 120
"""Failures that are shrunk at most."""


@dataclass(frozen=True)
class Result:
    """What became of one network, small enough to send to another process."""

    text: str
    outcome: str
    taught: int
    refused: str
    where: str
    asked: tuple[str, ...]
    failures: tuple[Failure, ...]
    features: tuple[str, ...]


def read(text: str) -> Case:
    """The case that `written` wrote."""
    return eval(text, vars(recipes))  # our own words, not a stranger's


def result(case: Case) -> Result:
    """Prove one case. A fault of the tests themselves is a failure too."""
    words = tuple(features(case))
    try:
        verdict = prove(case)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        failure = Failure("harness", f"{type(error).__name__}: {error} at {last.filename}:{last.lineno}"[:200])
        return Result(written(case), "failed", 0, "", "", (), (failure,), words)
    failures = tuple(verdict.failures)
    if verdict.outcome == "refused" and ordinary(case):
        failures = (Failure("refused, though ordinary", verdict.refused),)
    outcome = "failed" if failures else verdict.outcome
    asked = tuple(verdict.asked)
    return Result(written(case), outcome, verdict.taught, verdict.refused, verdict.where, asked, failures, words)


def drawn(number: int, count: int, compiles: tuple[str, ...] = ("no",)) -> list[Result]:
    """The results of `count` networks, drawn from the seed `number`."""
    found: list[Result] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(compiles))
    def draw(case: Case) -> None:
        found.append(result(case))

    draw()
    return found


def quiet() -> None:
    """One thread a process, and no word of the compiler's on each break of a graph."""
    torch.set_num_threads(1)
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)


def kind(failure: Failure) -> str:
    """What tells one failure from another."""
    raised = failure.kind.startswith("raises") or failure.kind == "harness" or failure.kind.startswith("refused")
    return f"{failure.kind}: {failure.detail}" if raised else failure.kind


# -------------------------------------------------------------------------------------------------------- the causes


@dataclass
class Cause:
    """A kind of failure, the smallest recipe that has it, and how many networks share what that recipe is made of.

    Attributes:
        kind: see `kind`.
        recipe: the smallest.
        traits: what sets it apart from the plainest network.
        detail: of its failure.
        seen: all that networks had which were shrunk to it: a failure with something new is shrunk as well.
        count: of networks.
    """

    kind: str
    recipe: str
    traits: tuple[str, ...]
    detail: str
    seen: set[str]
    count: int = 0

    def covers(self, one: Result) -> bool:
        """Whether a failure of this kind is taken for the same without looking."""
        return set(self.traits) <= set(one.features) and set(one.features) <= self.seen


PLAIN = frozenset(features(settled(Case())))
COUNTED = ("stages", "data", "in a")
"""Words that say little about why something fails."""


def causes(results: Sequence[Result]) -> list[Cause]:
    """Shrink failures, but for those that are made of what an earlier one was shrunk to."""
    found: list[Cause] = []
    tries = 0
    for one in results:
        for name in dict.fromkeys(map(kind, one.failures)):
            known = next((c for c in found if c.kind == name and c.covers(one)), None)
            if known is None and tries < SHRUNK:
                tries += 1
                cause = _cause(one, name)
                known = next((c for c in found if (c.kind, c.recipe) == (name, cause.recipe)), None)
                found += [] if known else [cause]
                known = known or cause
                known.seen |= set(one.features)
            if known is not None:
                known.count += 1
    return sorted(found, key=lambda cause: -cause.count)


def smallest(one: Result, name: str) -> str:
    """The smallest recipe that fails by this kind."""

    def fails(case: Case) -> bool:
        return name in map(kind, result(case).failures)

    return written(shrunk(read(one.text), fails))


def _cause(one: Result, name: str) -> Cause:
    text = smallest(one, name)
    again = result(read(text))
    details = [f.detail for f in again.failures if kind(f) == name]
    traits = tuple(w for w in again.features if w not in PLAIN and not w.startswith(COUNTED))
    return Cause(name, text, traits, details[0] if details else "does not come back", set())


# -------------------------------------------------------------------------------------------------------- the table


def table(results: Sequence[Result]) -> dict[str, Any]:
    """What is written of a survey, but for the causes."""
    outcomes = Counter(one.outcome for one in results)
    by_feature: dict[str, Counter[str]] = defaultdict(Counter)
    for one in results:
        for word in one.features:
            by_feature[word][one.outcome] += 1
    count = max(len(results), 1)
    return {
        "networks": len(results),
        **{outcome: outcomes[outcome] for outcome in ("taught", "refused", "failed")},
        "share_refused": round(outcomes["refused"] / count, 4),
        "share_failed": round(outcomes["failed"] / count, 4),
        "passes_taught": sum(one.taught for one in results),
        "ordinary": _ordinary(results),
        "features": {word: _row(counts) for word, counts in sorted(by_feature.items())},
        "refusals": list(_sentences(results)),
        "asked": dict(Counter(sentence for one in results for sentence in one.asked).most_common()),
    }


def _row(counts: Counter[str]) -> dict[str, int]:
    return {"networks": counts.total(), **{o: counts[o] for o in ("taught", "refused", "failed")}}


def _ordinary(results: Iterable[Result]) -> dict[str, int]:
    """Those that may not be refused: layers in a row, one output, the usual loop."""
    return _row(Counter(one.outcome for one in results if ordinary(read(one.text))))


def _sentences(results: Iterable[Result]) -> Iterator[dict[str, Any]]:
    by_sentence: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in results:
        if one.refused:
            by_sentence[one.refused, "attach" if one.where == "attach" else "a pass"].append(one.text)
    for (sentence, where), texts in sorted(by_sentence.items(), key=lambda item: -len(item[1])):
        yield {"sentence": sentence, "at": where, "count": len(texts), "example": min(texts, key=len)}
