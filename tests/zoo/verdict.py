"""Verdict: what came of one architecture, trained one way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Verdict:
    """What came of one architecture, trained one way.

    Attributes:
        verdict: "taught", "refused" or "wrong".
        why: the sentence that refused, or what is wrong.
        blocks: how many are hidden.
        head: the share of the weights that the head holds.
        largest: the share of the weights that the largest hidden block holds.
        seconds: that attaching and all passes took.
        warned: what skipback warned of.
    """

    verdict: str
    why: list[str] = field(default_factory=list)
    blocks: int | None = None
    head: float | None = None
    largest: float | None = None
    seconds: float = 0.0
    warned: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)
