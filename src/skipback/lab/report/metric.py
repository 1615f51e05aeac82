"""What counts as the result of a run, and how results and costs are written as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

HUGE = 1e7
"""A result from here on is written with an exponent: the error of a run that diverges has up to 39 digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedMetric:
    """What counts as the result of a run, and which way is better."""

    name: str  # in metrics.jsonl and summary.json, behind the split
    word: str
    unit: str  # of a value
    points: str  # of a difference, where it has a unit of its own
    places: int  # decimals to show
    lower_is_better: bool = False
    split: str = "test"  # "valid": of training rows that were held out

    @property
    def key(self) -> str:
        """In metrics.jsonl and summary.json."""
        return f"{self.split}_{self.name}"

    def trained(self, record: object) -> float | None:
        """The same of the training rows: of all in eval mode, else as counted while it trained; None if neither is."""
        found = (getattr(record, f"{split}_{self.name}", None) for split in ("train_eval", "train"))
        return next((value for value in found if value is not None), None)

    @property
    def label(self) -> str:
        """With the split that it is of."""
        return f"{'validation' if self.split == 'valid' else self.split} {self.word}"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.lower_is_better else 1

    @property
    def axis(self) -> str:
        """What to write beside an axis."""
        return f"{self.label}, lower is better" if self.lower_is_better else f"{self.label} ({self.unit})"

    def fitted(self, values: Iterable[float]) -> ReportedMetric:
        """Decimals enough to show three digits of the smallest of these values."""
        sizes = [abs(value) for value in values if value]
        return replace(self, places=max(self.places, 2 - math.floor(math.log10(min(sizes))))) if sizes else self

    def text(self, value: float, half: float | None = None) -> str:
        """`95.83` or `95.83 ± 0.42`, with a real minus sign."""
        plain = f"{value:z.{self.places}f}" if abs(value) < HUGE else f"{value:.3g}"
        plain = plain.replace("-", "−")
        return plain if half is None else f"{plain} ± {self.half(half)}"

    def half(self, value: float) -> str:
        """Half an interval; never rounded to 0.00, which would look like certainty."""
        least = 10.0**-self.places
        if value >= HUGE:
            return f"{value:.3g}"
        return f"<{least:.{self.places}f}" if value < least / 2 else f"{value:.{self.places}f}"


ACCURACY = ReportedMetric(name="accuracy_percent", word="accuracy", unit="%", points="points", places=2)
MSE = ReportedMetric(name="mse", word="MSE", unit="", points="", places=4, lower_is_better=True)


def amounts(values: Sequence[float | None]) -> list[str]:
    """Costs as text with the same number of decimals, three digits for the smallest; nothing for None."""
    least = min((abs(value) for value in values if value), default=1.0)
    places = max(0, 2 - math.floor(math.log10(least)))
    return ["" if value is None else f"{value:,.{places}f}" for value in values]
