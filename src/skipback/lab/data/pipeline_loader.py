"""Any `DataLoader` as a feed: the batches that it would give, with the samples' ids where they can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as Items

from skipback.lab.data.base import DataError
from skipback.lab.data.pipeline_rows import Batch, Targets
from skipback.lab.data.source import identity

# What makes a loader, apart from its data set, its collate function and how it draws batches.
_KEPT = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
)


class Loaded:
    """A feed from a loader whose batches are (x, t), or (x, t, ids).

    Of a data set that is indexed, the ids are the indices that the loader's sampler draws. A stream has none unless it
    gives them. Batch size, order and augmentation are the loader's own. A run resumes to the same bits if the loader
    draws from torch's global generator, which it does unless it was given one.

    Args:
        loader: the loader; it is not changed.
        samples: how many samples an epoch has; only needed for a stream that does not say.
    """

    def __init__(self, loader: DataLoader[Any], *, samples: int | None = None) -> None:
        self.loader, self.samples = loader, samples
        self.device = torch.device("cpu")
        self.targets: Targets = identity
        self._first: Batch | None = None
        self._all = False  # whether that is all that there is
        indexed = not isinstance(loader.dataset, IterableDataset) and loader.batch_sampler is not None
        self._numbered = _with_indices(loader) if indexed else None

    @property
    def numbered(self) -> bool:
        """Whether batches carry ids; of a stream, this takes one batch."""
        return self._numbered is not None or self.first(1).ids is not None

    @property
    def augmented(self) -> bool:
        """Nobody can tell from outside: a memory checks the inputs themselves."""
        return False

    def __len__(self) -> int:
        if self.samples is not None:
            return self.samples
        try:
            return len(self.loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            raise DataError(
                f"{type(self.loader.dataset).__name__} does not say how many samples it has: pass samples="
            ) from None

    def on(self, device: torch.device, targets: Targets) -> Loaded:
        """The same feed, its batches on a device."""
        other = Loaded(self.loader, samples=self.samples)
        other.device, other.targets = device, targets
        return other

    def first(self, count: int) -> Batch:
        """The first samples that the loader gave when it was asked; kept, so that they stay the same.

        Torch's global random state is as before.
        """
        if self._first is None or (len(self._first) < count and not self._all):
            self._first = self._look(count)
        x, t, ids = self._first.x, self._first.t, self._first.ids
        return Batch(x=x[:count], t=t[:count], ids=None if ids is None else ids[:count])

    def _look(self, count: int) -> Batch:
        parts: list[Batch] = []
        with torch.random.fork_rng(devices=[]):
            for batch in self._batches():
                parts.append(batch)
                if sum(map(len, parts)) >= count:
                    break
            else:
                self._all = True
        if not parts:
            raise DataError("the DataLoader gives no batch")
        ids = None if parts[0].ids is None else torch.cat([part.ids for part in parts if part.ids is not None])
        return Batch(x=torch.cat([part.x for part in parts]), t=torch.cat([part.t for part in parts]), ids=ids)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """All samples, in the loader's batches. Torch's global random state is as before."""
        del batch_size
        with torch.random.fork_rng(devices=[]):
            yield from self._batches()

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """All samples as the loader draws them: the batch size and the randomness are its own."""
        del batch_size, generator
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        if self._numbered is None:
            for parts in self.loader:
                yield self._batch(parts, None)
            return
        for ids, parts in self._numbered:
            yield self._batch(parts, ids)

    def _batch(self, parts: Any, ids: Tensor | None) -> Batch:
        x, t, *given = _parts(parts)
        ids = given[0] if given else ids
        on = self.device
        return Batch(
            x=x.to(on, non_blocking=True),
            t=self.targets(t).to(on, non_blocking=True),
            ids=None if ids is None else ids.to(on, non_blocking=True),
        )


def _parts(parts: Any) -> Sequence[Tensor]:
    """The tensors of a batch.

    Raises:
        DataError: They are not (x, t) or (x, t, ids) with as many rows each.
    """
    right = isinstance(parts, list | tuple) and len(parts) in (2, 3) and all(isinstance(p, Tensor) for p in parts)
    if not right or len({len(p) for p in parts}) != 1:
        found = [tuple(getattr(p, "shape", ())) or type(p).__name__ for p in parts] if right else type(parts).__name__
        raise DataError(f"a batch of a DataLoader must be tensors (x, t) or (x, t, ids) of as many rows, got {found}")
    if len(parts) == 3 and (parts[2].ndim != 1 or parts[2].dtype != torch.int64):
        raise DataError(f"ids must be int64 of shape (B,), got {parts[2].dtype} of shape {tuple(parts[2].shape)}")
    return list(parts)


class _Numbered(Items[Any]):
    """A data set whose batches know their indices."""

    def __init__(self, items: Items[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __getitems__(self, indices: list[int]) -> tuple[list[int], Any]:
        many = getattr(self.items, "__getitems__", None)
        return indices, many(indices) if many else [self.items[k] for k in indices]


class _Collate:
    """The loader's collate function, the indices carried past it. A class, so that worker processes can have it."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, batch: tuple[list[int], Any]) -> tuple[Tensor, Any]:
        indices, items = batch
        return torch.as_tensor(indices, dtype=torch.int64), self.collate(items)


def _with_indices(loader: DataLoader[Any]) -> DataLoader[Any]:
    collate: Any = _Collate(loader.collate_fn)  # takes what __getitems__ gives, which torch's types say is a list
    options = {name: getattr(loader, name) for name in _KEPT}
    return DataLoader(_Numbered(loader.dataset), batch_sampler=loader.batch_sampler, collate_fn=collate, **options)
