"""Which training rows are held out for validation, or for testing where a data set has no split of its own.

Each splitter is named after what it does; its docstring names the code base that splits so. A held-out row never
trains, and whatever is fitted (`skipback.lab.data.prepare`) is fitted on the kept rows alone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from skipback.lab.data.base import DataError, Dataset, Split
from skipback.renamed import renamed

__getattr__ = renamed(__name__, {"FeedbackTensors": "SplitRows", "Random": "Shuffled"})

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitRows:
    """The row numbers (int64) that train, and those that are held out; together each row once."""

    kept: Tensor
    held: Tensor


class Splitter(Protocol):
    """Divides rows by their inputs `x` (N, ...) and targets `t` (N, ...)."""

    def __call__(self, x: Tensor, t: Tensor, /) -> SplitRows:
        """Divide the rows."""


@dataclass(frozen=True, kw_only=True)
class First:
    """Hold out the first rows: `held` of them, or that share (rounded up)."""

    held: float

    def __call__(self, x: Tensor, t: Tensor) -> SplitRows:
        """Divide the rows; both parts keep their order."""
        count = held_rows(self.held, len(x))
        rows = torch.arange(len(x))
        return SplitRows(kept=rows[count:], held=rows[:count])


@dataclass(frozen=True, kw_only=True)
class Last:
    """Hold out the last rows: `held` of them, or that share (rounded up).

    dfa-torch (Nøkland 2016) with `-validate`: the last 10,000 training rows of MNIST and of CIFAR.
    """

    held: float

    def __call__(self, x: Tensor, t: Tensor) -> SplitRows:
        """Divide the rows; both parts keep their order."""
        count = len(x) - held_rows(self.held, len(x))
        rows = torch.arange(len(x))
        return SplitRows(kept=rows[:count], held=rows[count:])


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """Hold out random rows: `held` of them, or that share (rounded up).

    To the row what `train_test_split(test_size=held, random_state=seed)` of scikit-learn draws. F3 splits its tables
    so with 0.2 and seed 1; principled-dfa-training (Launay et al. 2020) holds out 0.15 without a fixed seed.
    """

    held: float
    seed: int

    def __call__(self, x: Tensor, t: Tensor) -> SplitRows:
        """Divide the rows; both parts in the drawn order."""
        count = held_rows(self.held, len(x))
        order = np.random.RandomState(self.seed).permutation(len(x))
        return _parts(order[count:], order[:count])


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """Hold out random rows so that every class keeps its share: `held` rows, or that share (rounded up).

    To the row what `train_test_split(..., stratify=labels)` of scikit-learn draws. F3 splits KDD Cup 99 so.
    """

    held: float
    seed: int

    def __call__(self, x: Tensor, t: Tensor) -> SplitRows:
        """Divide the rows by their labels `t` (N,); both parts in the drawn order.

        Raises:
            DataError: The targets are no labels, a class has one row only, or a part has fewer rows than classes.
        """
        if t.ndim != 1 or t.is_floating_point():
            raise DataError(f"a stratified split needs class labels (N,), got {t.dtype} of shape {tuple(t.shape)}")
        count = held_rows(self.held, len(x))
        _, labels, sizes = np.unique(t.cpu().numpy(), return_inverse=True, return_counts=True)
        if sizes.min() < 2 or min(count, len(x) - count) < len(sizes):
            raise DataError(
                f"a stratified split of {len(sizes)} classes needs two rows of each (the rarest has {sizes.min()}) and "
                f"at least {len(sizes)} rows on either side ({len(x) - count} and {count}); split at random instead"
            )
        return _parts(*_stratified(labels, sizes, count, np.random.RandomState(self.seed)))


@dataclass(frozen=True)
class WithoutDuplicates:
    """Divide the distinct inputs by another splitter, so that no held-out input also trains.

    Rows with equal inputs stay together, whatever their targets; a share is that of the distinct inputs, and the
    label of a group is that of its first row.
    """

    by: Splitter

    def __call__(self, x: Tensor, t: Tensor) -> SplitRows:
        """Divide the rows; both parts in the order of the rows."""
        group, first = groups(x)
        parts = self.by(x[first], t[first])
        held = torch.isin(group, parts.held)
        return SplitRows(kept=(~held).nonzero().squeeze(1), held=held.nonzero().squeeze(1))


def groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """The group (N,) of every row, equal inputs sharing one, and the first row (G,) of every group."""
    rows = np.ascontiguousarray((x + 0).cpu().numpy().reshape(len(x), -1))  # + 0: -0.0 and 0.0 are equal
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # groups are numbered as they come, not by their bytes
    return torch.from_numpy(np.argsort(order)[group.reshape(-1)]), torch.from_numpy(first[order])


def hold_out(data: Dataset, splitter: Splitter) -> Dataset:
    """The data set for choosing settings: it trains on the kept rows and is scored on the held-out ones.

    The official test rows are in neither. Held-out rows as loaded: fit what is to be fitted afterwards.
    """
    parts = splitter(data.train.x, data.train.t)
    return dataclasses.replace(data, train=_rows(data.train, parts.kept), test=_rows(data.train, parts.held))


def held_rows(held: float, rows: int) -> int:
    """How many of the rows are held out: `held` itself, or that share of them, rounded up as scikit-learn does.

    Raises:
        DataError: None would be held out, or none would train.
    """
    count = held if isinstance(held, int) else math.ceil(held * rows)
    if not 0 < count < rows:
        raise DataError(f"cannot hold out {held} of {rows} rows: give a number of rows below that, or a share below 1")
    return count


def _rows(split: Split, ids: Tensor) -> Split:
    return Split(x=split.x.index_select(0, ids), t=split.t.index_select(0, ids))


def _parts(kept: Ids, held: Ids) -> SplitRows:
    return SplitRows(
        kept=torch.from_numpy(np.asarray(kept, np.int64)), held=torch.from_numpy(np.asarray(held, np.int64))
    )


def _stratified(labels: Ids, sizes: Ids, count: int, random: np.random.RandomState) -> tuple[Ids, Ids]:
    """Kept and held rows: each class gives its share, and its rows in a random order of their own."""
    keep = _shares(sizes, len(labels) - count, random)
    hold = _shares(sizes - keep, count, random)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    shuffled = [rows[random.permutation(len(rows))] for rows in members]
    kept = np.concatenate([rows[:k] for rows, k in zip(shuffled, keep, strict=True)])
    held = np.concatenate([rows[k : k + h] for rows, k, h in zip(shuffled, keep, hold, strict=True)])
    return random.permutation(kept), random.permutation(held)


def _shares(sizes: Ids, count: int, random: np.random.RandomState) -> Ids:
    """Divide `count` rows over classes by their sizes: rounded down, the rest to the largest remainders.

    Equal remainders are broken at random; a draw is made even where nothing is to be broken, as scikit-learn does.
    """
    exact = sizes / sizes.sum() * count
    shares = np.floor(exact)
    remainders = exact - shares
    left = int(count - shares.sum())
    for value in np.unique(remainders)[::-1] if left else ():
        tied = np.flatnonzero(remainders == value)
        shares[random.choice(tied, size=min(len(tied), left), replace=False)] += 1
        left -= min(len(tied), left)
        if not left:
            break
    whole: Ids = shares.astype(np.int64)
    return whole
