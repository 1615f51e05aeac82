"""What a table compares: one number of a run, read from a row of its metrics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override


@dataclass(frozen=True, kw_only=True)
class Score(ABC):
    """One number of a run.

    Attributes:
        name: in tables.
        unit: of a value, e.g. "%".
        places: decimals to show.
    """

    name: str
    unit: str = ""
    places: int = 2

    @abstractmethod
    def of(self, row: Mapping[str, Any]) -> float | None:
        """The number in a row of metrics: NaN where it is not finite there; `None` where it was not measured."""


def _number(value: float | None) -> float:
    """NaN for the null that files have instead."""
    return math.nan if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class Value(Score):
    """A value of the row as it is, times a factor.

    Attributes:
        key: of the row.
        factor: what it is multiplied with.
    """

    key: str
    factor: float = 1.0

    @override
    def of(self, row: Mapping[str, Any]) -> float | None:
        return self.factor * _number(row[self.key]) if self.key in row else None


@dataclass(frozen=True, kw_only=True)
class Wrong(Score):
    """An error rate: 100 percent less an accuracy.

    Attributes:
        key: of the accuracy.
    """

    key: str

    @override
    def of(self, row: Mapping[str, Any]) -> float | None:
        return 100 - _number(row[self.key]) if self.key in row else None


@dataclass(frozen=True, kw_only=True)
class Cosine(Score):
    """The cosine between the teaching and the exact gradient at one port.

    Attributes:
        port: its place, from the input on; negative: from the output.
        key: "cosine", the mean over samples, or "batch_cosine", that of the means over samples.
    """

    port: int
    key: str = "cosine"

    @override
    def of(self, row: Mapping[str, Any]) -> float | None:
        ports = row.get("alignment") or []
        at = self.port + len(ports) if self.port < 0 else self.port
        return _number(ports[at].get(self.key)) if 0 <= at < len(ports) else None


ACCURACY = Value(name="test accuracy", unit="%", key="test_accuracy_percent")
TRAIN_ACCURACY = Value(name="training accuracy", unit="%", key="train_accuracy_percent")
ERROR = Wrong(name="test error", unit="%", key="test_accuracy_percent")
TRAIN_ERROR = Wrong(name="training error", unit="%", key="train_accuracy_percent")
MSE = Value(name="test MSE", places=4, key="test_mse")


def cosine(port: int, name: str = "") -> Cosine:
    """The cosine at a port, counted from 1 at the input (or from -1 at the output)."""
    place = f"port {port}" if port > 0 else "last port" if port == -1 else f"port {-port} from the output"
    return Cosine(name=f"cosine, {name or place}", places=3, port=port - 1 if port > 0 else port)
