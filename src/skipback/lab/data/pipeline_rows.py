"""Feeds: where batches come from. Rows live on the device, or stay in a file; either way they are taken by index.

A loader that works sample by sample costs more than the training step of a small network. Pixels can stay uint8, a
quarter of the memory, and are normalised as they are taken; augmentation is one call per batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from skipback.lab.data.augment import Augment
from skipback.lab.data.base import DataError
from skipback.lab.data.prepare import Transform

if TYPE_CHECKING:
    from numpy.typing import NDArray

Targets = Callable[[Tensor], Tensor]
"""Turns targets as stored into those that a loss takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Inputs x (B, ...), targets t (B, ...), and the samples' ids (B,): their positions in the unshuffled set.

    `ids` is `None` where a loader does not tell them; `more` is what the network takes beside x: the edges of a graph.
    """

    x: Tensor
    t: Tensor
    ids: Tensor | None
    more: tuple[Tensor, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All that the network takes."""
        return (self.x, *self.more)

    def __len__(self) -> int:
        return len(self.x)


class Feed(Protocol):
    """Where batches come from."""

    @property
    def numbered(self) -> bool:
        """Whether batches carry ids."""

    @property
    def augmented(self) -> bool:
        """Whether the same id brings another input each time."""

    def __len__(self) -> int:
        """How many samples there are."""

    def on(self, device: torch.device, targets: Targets) -> Feed:
        """The same feed with its batches on a device, and targets as a loss takes them."""

    def first(self, count: int) -> Batch:
        """The first samples, as stored: nothing random."""

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """All samples in their order, as stored: nothing random."""

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """All samples once, in a random order, augmented. The generator lives on the CPU."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexedRows:
    """A feed over rows that can be taken by index; how they are stored is what its two kinds differ in.

    Attributes:
        t: targets (N, ...) on the device.
        augment: maps images of an epoch, before the transform.
        plain: what images pass instead where nothing is random: `Resize(224)` for `ResizedCrop(224)`.
        transform: maps inputs to what the network takes; `None` leaves them as they are.
        drop_last: leave out the last batch of an epoch if it is smaller (principled-dfa-training does).
    """

    t: Tensor
    augment: Augment | None = None
    plain: Transform | None = None
    transform: Transform | None = None
    drop_last: bool = False

    numbered = True

    @property
    def augmented(self) -> bool:
        """Whether an epoch is augmented."""
        return self.augment is not None

    def __len__(self) -> int:
        return len(self.t)

    def first(self, count: int) -> Batch:
        """The first samples."""
        return self._stored(0, count)

    def take(self, ids: Tensor) -> Batch:
        """The samples of some ids (B,) on the device of the feed, as stored."""
        return Batch(x=self._mapped(self._plain(self._rows(ids))), t=self.t.index_select(0, ids), ids=ids)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """All samples in their order."""
        for start in range(0, len(self), batch_size):
            yield self._stored(start, start + batch_size)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """All samples once, in a random order, augmented.

        All random numbers are drawn here, from one generator: first the order, then those of the augmentation.
        """
        order = torch.randperm(len(self), generator=generator).to(self.t.device)
        numbers = self.augment.numbers if self.augment else 0
        u = torch.rand(len(self), numbers, generator=generator).to(self.t.device) if numbers else None
        for start in range(0, len(self), batch_size):
            ids = order[start : start + batch_size]
            if self.drop_last and len(ids) < batch_size:
                return
            x = self._rows(ids)
            if self.augment is not None:
                x = self.augment(x, x.new_empty(len(x), 0) if u is None else u[start : start + batch_size])
            yield Batch(x=self._mapped(x), t=self.t.index_select(0, ids), ids=ids)

    def _stored(self, start: int, stop: int) -> Batch:
        stop = min(stop, len(self))
        ids = torch.arange(start, stop, device=self.t.device)
        return Batch(x=self._mapped(self._plain(self._slice(start, stop))), t=self.t[start:stop], ids=ids)

    def _plain(self, x: Tensor) -> Tensor:
        return x if self.plain is None else self.plain(x)

    def _mapped(self, x: Tensor) -> Tensor:
        return x if self.transform is None else self.transform(x)

    def _rows(self, ids: Tensor) -> Tensor:
        raise NotImplementedError

    def _slice(self, start: int, stop: int) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Resident(IndexedRows):
    """Rows that live on the device: `x` (N, ...), uint8 or float32."""

    x: Tensor

    def on(self, device: torch.device, targets: Targets) -> Self:
        """The same feed on a device."""
        return dataclasses.replace(self, x=self.x.to(device), t=targets(self.t).to(device))

    def _rows(self, ids: Tensor) -> Tensor:
        return self.x.index_select(0, ids)

    def _slice(self, start: int, stop: int) -> Tensor:
        return self.x[start:stop]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapped(IndexedRows):
    """Rows that stay in a file (N, ...), mapped into memory: for sets that are larger than it."""

    x: NDArray[Any]

    @classmethod
    def open(cls, path: Path, t: Tensor, **options: Any) -> Mapped:
        """Map the array of a `.npy` file.

        Args:
            path: the file; pickled objects in it are refused.
            t: the targets (N, ...).
            options: the fields of `IndexedRows`.

        Raises:
            DataError: The file is missing, is no array, or has another number of rows.
        """
        try:
            x = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be mapped as an array: {error}") from error
        if not isinstance(x, np.ndarray) or len(x) != len(t):
            raise DataError(f"{path}: expected one array with {len(t)} rows, as there are targets")
        return cls(x=x, t=t, **options)

    def on(self, device: torch.device, targets: Targets) -> Self:
        """The same feed, its batches on a device."""
        return dataclasses.replace(self, t=targets(self.t).to(device))

    def _rows(self, ids: Tensor) -> Tensor:
        wanted = ids.cpu().numpy()
        order = np.argsort(wanted)  # the file is read from front to back
        rows = np.empty((len(wanted), *self.x.shape[1:]), self.x.dtype)
        rows[order] = self.x[wanted[order]]
        return torch.from_numpy(rows).to(self.t.device)

    def _slice(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(self.x[start:stop])).to(self.t.device)
