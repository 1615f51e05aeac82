"""Verdicts: what became of a case."""

from __future__ import annotations

from dataclasses import dataclass, field

from generated.recipes import Case, written


@dataclass(frozen=True)
class Failure:
    """What must not be: a kind, of few, and where or how much."""

    kind: str
    detail: str


@dataclass
class Verdict:
    """What became of a case.

    Attributes:
        case: as it was settled.
        taught: how many passes were right.
        refused: the sentence of a refusal that ended it, if one did.
        where: "attach", or the number of the pass that was refused.
        asked: the sentences of refusals that were due.
        failures: what must not be.
        reading: what the library chose where the equations leave it open.
        ports: by block, the candidate that is its port.
    """

    case: Case
    taught: int = 0
    refused: str = ""
    where: str = ""
    asked: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reading: str = ""
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """What it counts as: "failed", "refused" or "taught"."""
        return "failed" if self.failures else "refused" if self.refused else "taught"

    def fail(self, kind: str, detail: str) -> None:
        """Note what must not be."""
        self.failures.append(Failure(kind, detail))

    def __str__(self) -> str:
        lines = [written(self.case), *(f"  {f.kind}: {f.detail}" for f in self.failures)]
        return "\n".join([*lines, f"  refused at {self.where}: {self.refused}"] if self.refused else lines)
