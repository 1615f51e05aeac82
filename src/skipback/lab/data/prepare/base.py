"""What a preparation is, and how it meets a data set: fitted on the training rows, applied to both splits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from skipback.lab.data.base import Dataset, Split

CHUNK = 4096
"""Rows that are transformed at once: float64 copies of a whole image set would not fit beside it."""


class Transform(Protocol):
    """Maps rows x (N, ...), of any type, to float32 rows."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map the rows; `x` itself is never changed."""


class Preparation(Protocol):
    """What can be fitted on training rows."""

    def fit(self, x: Tensor, /) -> Transform:
        """The transform whose statistics are those of the rows x (N, ...)."""


@dataclass(frozen=True)
class AsTheyAre:
    """No preparation: the numbers of the official files, as float32. It is its own transform: nothing is fitted."""

    def fit(self, x: Tensor) -> AsTheyAre:
        """Nothing to fit."""
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """The same rows in float32."""
        return x.to(torch.float32)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """Transforms, one after the other."""

    parts: tuple[Transform, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Map the rows."""
        for part in self.parts:
            x = part(x)
        return x


@dataclass(frozen=True)
class Compose:
    """Preparations, one after the other: each is fitted on what those before it give."""

    steps: tuple[Preparation, ...]

    def fit(self, x: Tensor) -> Composed:
        """Fit all steps on the training rows."""
        parts: list[Transform] = []
        for k, step in enumerate(self.steps):
            parts.append(step.fit(x))
            if k + 1 < len(self.steps):  # nobody needs what the last one gives
                x = in_chunks(parts[-1], x)
        return Composed(parts=tuple(parts))


def in_chunks(transform: Transform, x: Tensor, rows: int = CHUNK) -> Tensor:
    """All rows transformed, some at a time: only the float32 result is as large as the set."""
    if len(x) <= rows:
        return transform(x)
    return torch.cat([transform(part) for part in x.split(rows)])


def prepared(data: Dataset, preparation: Preparation) -> Dataset:
    """The data set with inputs in float32, transformed by what its training rows alone have fitted."""
    transform = preparation.fit(data.train.x)
    train, test = (Split(x=in_chunks(transform, split.x), t=split.t) for split in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test)
