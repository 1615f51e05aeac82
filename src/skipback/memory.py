"""The per-sample memory of delayed signals: one row (C numbers) per training sample, carried from visit to visit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Record = Callable[[Tensor, Tensor], Tensor]
"""(output, target) -> what is remembered of this visit; all three (N, C). Row n depends on sample n alone."""
Initial = Callable[[Record, Tensor], Tensor]
"""(record, target) -> what stands in for the visit before the first one (N, C). Row n depends on sample n alone."""

CHECKED_VISITS = 100
"""Batches whose inputs are compared with the visit before. Wrong ids show at once, and each check costs a sync."""

KEYS = {"rows": "rows", "seen": "seen", "fingerprints": "prints"}
"""The tensors of a memory, and their keys in `state_dict()`."""


class Memory(nn.Module):
    """Rows M (samples, C), written at each training visit and read at the next one.

    Rows, which samples were seen, and a fingerprint of each sample's input move with `.to()` and are in `state_dict()`.
    They are plain tensors, not buffers: each process remembers the samples that it saw, and DistributedDataParallel
    overwrites the buffers of all processes with those of rank 0. A row is filled by `initial` at the first visit, so no
    pass over the data set is needed.

    Args:
        samples: number of training samples; ids are 0 .. samples - 1.
        outputs: C.
        record: what is remembered of a visit.
        initial: what stands in before the first visit.
        dtype: of the stored rows; half precision halves the memory.
        device: where the rows are stored; `None` follows the network.

    Attributes:
        rows: M (samples, C).
        seen: which samples were written (samples,).
        fingerprints: one number for each sample's input (samples,); 0 before the first visit.
        all_seen: every sample was seen, so the initial rows are not computed any more.
        visits_until_rescan: samples to be written before `seen` is scanned again.
        may_sync: a read may wait for the device to ask whether all were seen; within a captured step it must not.
        input_checks_left: batches whose inputs are still to be compared with the visit before.
    """

    rows: Tensor
    seen: Tensor
    fingerprints: Tensor

    def __init__(
        self,
        samples: int,
        outputs: int,
        *,
        record: Record,
        initial: Initial,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.record, self.initial, self.pinned = record, initial, device
        self.rows = torch.zeros(samples, outputs, dtype=dtype, device=device)
        self.seen = torch.zeros(samples, dtype=torch.bool, device=device)
        self.fingerprints = torch.zeros(samples, dtype=torch.float32, device=device)
        self.input_checks_left = CHECKED_VISITS
        self.all_seen = False
        self.visits_until_rescan = samples
        self.may_sync = True
        self._read: tuple[Tensor, Tensor] | None = None  # what a compiled pass has read and not yet overwritten

    @property
    def tensors(self) -> list[Tensor]:
        """Rows, which samples were seen, and fingerprints."""
        return [getattr(self, name) for name in KEYS]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        # .to(), .half(), .cuda() of the learner: the rows keep the dtype and the device that were asked for
        if self.pinned is None:
            for name in KEYS:
                tensor = getattr(self, name)
                device = fn(tensor).device  # and no more of fn: half() and back would round the rows
                setattr(self, name, torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, key in KEYS.items():
            tensor = getattr(self, name)
            destination[prefix + key] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.all_seen, self.visits_until_rescan = False, 0
        with self._as_buffers():
            super()._load_from_state_dict(*args, **kwargs)

    @contextmanager
    def _as_buffers(self) -> Iterator[None]:
        """Inside, the tensors are buffers, so that torch's own code loads them: `strict`, `assign`, shapes and all."""
        self._buffers.update({key: self.__dict__.pop(name) for name, key in KEYS.items()})
        try:
            yield
        finally:
            self.__dict__.update({name: self._buffers.pop(key) for name, key in KEYS.items()})

    def read(self, ids: Tensor, target: Tensor) -> Tensor:
        """The rows of these samples (N, C), in the dtype and on the device of `target`; initial where unseen.

        For a sequence `target` is (N T, V), and so is what is returned, with C = T V.

        Raises:
            IndexError: an id lies outside 0 .. samples - 1.
            ValueError: there are not C numbers per id, or the ids are no row of whole numbers.
        """
        table = self.rows  # once: to get an attribute of a module takes as long as a small kernel
        ids = _row(ids).to(table.device, torch.int64)
        if target.numel() != ids.shape[0] * table.shape[1]:
            raise ValueError(
                f"{len(ids)} ids came with {target.numel()} numbers, but a sample has {table.shape[1]}: pass one "
                "id for each sample, and sequences of one length"
            )
        if torch.compiler.is_compiling():
            rows, seen = self._read = _read_rows(table, self.seen, ids)
            return self._filled(rows, seen, target)
        rows = picked(table, ids)
        return self._filled(rows, None if self.all_seen or self._scan() else self.seen.index_select(0, ids), target)

    def _filled(self, rows: Tensor, seen: Tensor | None, target: Tensor) -> Tensor:
        """The rows in the form of the target; initial where a sample was not seen."""
        rows = rows.to(target)
        rows = rows if rows.shape == target.shape else rows.reshape(target.shape)
        if seen is None:
            return rows
        first = ~seen.to(target.device).repeat_interleave(len(target) // max(len(seen), 1))
        return torch.where(first.unsqueeze(1), self.initial(self.record, target), rows)

    def _scan(self) -> bool:
        """Whether every sample was seen, as far as is known: it takes a pass over all to know."""
        if not self.all_seen and self.may_sync and self.visits_until_rescan <= 0:
            self.all_seen, self.visits_until_rescan = bool(self.seen.all()), len(self.seen)
        return self.all_seen

    def write(self, ids: Tensor, output: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Remember this visit: M[ids] = record(output, target).

        Args:
            ids: the samples (N,).
            output: (N, C); for a sequence (N T, V).
            target: of the same shape.
            mask: which rows of the output were taught, (N,) or (N T,), boolean. A row where it is False is not written,
                and a sample of which no row is written does not count as seen. Positions of a seen sample that were
                never written read 0. `None` writes all.
        """
        table = self.rows
        ids = ids.to(table.device, torch.int64)
        rows, seen = self.record(output, target).reshape(ids.shape[0], -1).to(table), None
        if mask is not None:
            ids, rows, seen = self._masked(ids, rows, mask.to(table.device))
        if self._read is not None and torch.compiler.is_compiling():
            rows, self._read = _after_reading(rows, *self._read), None
        table.index_copy_(0, ids, rows)
        if not self.all_seen:
            if seen is None:
                self.seen.index_fill_(0, ids, True)
            else:
                self.seen.index_copy_(0, ids, seen)
            if not torch.compiler.is_compiling():  # it would compile anew for each number
                self.visits_until_rescan -= ids.shape[0]

    def _masked(self, ids: Tensor, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ids to write, their rows, and whether they count as seen.

        A sample without a taught row is replaced by one with a taught row, so that an id that comes twice is written
        once; if there is none, by itself as it was. No `ids[mask]`, which waits for the device and does not compile.
        """
        if mask.dtype is not torch.bool or mask.shape[1:].numel() > 1 or mask.numel() % max(ids.shape[0], 1):
            raise ValueError(
                f"mask must be boolean, one entry for each of {ids.shape[0]} samples or of their positions, not "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
        positions = mask.reshape(ids.shape[0], -1)
        old = picked(self.rows, ids)
        rows = torch.where(positions.repeat_interleave(rows.shape[1] // positions.shape[1], 1), rows, old)
        taught = positions.any(1)
        places = torch.arange(ids.shape[0], device=ids.device)
        places = torch.where(taught, places, taught.to(torch.uint8).argmax())
        return ids[places], rows[places], picked(self.seen, ids)[places] | taught.any()

    def check_views(self, ids: Tensor, x: Tensor) -> None:
        """Compare each input with the one of the visit before: a stored error belongs to one view of a sample.

        Raises:
            ValueError: the input of a known id has changed (augmentation, or ids that are not stable), or the ids are
                no row of whole numbers, one for each input.
        """
        if self.input_checks_left <= 0:
            return
        ids = _row(ids).to(self.rows.device, torch.int64)
        if len(ids) != len(x):
            raise ValueError(f"{len(ids)} ids came with {len(x)} inputs: pass one id for each sample")
        now, scale = _fingerprint(x.detach().flatten(1).to(self.fingerprints.device, torch.float32))
        before = picked(self.fingerprints, ids)
        seen = self.seen.index_select(0, ids) & (before != 0)  # a compiled pass writes rows, but no fingerprints
        changed = seen & ((now - before).abs() > 1e-4 * scale)
        if bool(changed.any()):
            raise ValueError(
                f"the input of sample {int(ids[changed][0])} differs from its last visit: a delayed signal stores one "
                "error per sample, so each id must always bring the same input. Switch augmentation off, and pass the "
                "position of the sample in the unshuffled training set as its id"
            )
        self.fingerprints.index_copy_(0, ids, torch.where(seen, before, now))
        self.input_checks_left -= int(seen.any())


def picked(table: Tensor, ids: Tensor) -> Tensor:
    """Entries of a table that has one for each sample.

    Raises:
        IndexError: an id lies outside 0 .. samples - 1.
    """
    try:
        return table.index_select(0, ids)
    except IndexError:
        raise IndexError(
            f"ids reach from {int(ids.min())} to {int(ids.max())}, but the memory was made for samples "
            f"0 to {len(table) - 1}: pass memory=len(training set) and the index of each sample in it"
        ) from None


# A compiled forward pass reads rows and then overwrites them, and its backward pass needs what was read. The default
# backend would index again in there, after the write: it computes cheap operations of the forward pass a second time
# to save memory, and moves to the backward pass what only that one needs. It does neither with an operation that it
# does not know and that the forward pass needs, so compiled code reads by one such operation, and writes by another
# one that takes what was read.


@torch.library.custom_op("skipback::read_rows", mutates_args=())
def _read_rows(rows: Tensor, seen: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """rows[ids] and seen[ids]."""
    return picked(rows, ids), picked(seen, ids)


@_read_rows.register_fake
def _(rows: Tensor, seen: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    _check_compiler()
    return rows.new_empty(ids.shape[0], rows.shape[1]), seen.new_empty(ids.shape[0])


@torch.library.custom_op("skipback::after_reading", mutates_args=())
def _after_reading(rows: Tensor, read: Tensor, seen: Tensor) -> Tensor:
    """The rows to be written, once those of the visit before were read."""
    return rows.clone()


@_after_reading.register_fake
def _(rows: Tensor, read: Tensor, seen: Tensor) -> Tensor:
    return torch.empty_like(rows)


def _check_compiler() -> None:
    """Refuse settings of torch.compile under which a backward pass may compute any operation a second time."""
    config = torch._functorch.config
    budget, aggressive = config.activation_memory_budget, config.aggressive_recomputation
    if budget < 1 or aggressive or not config.ban_recompute_not_in_allowlist:
        raise RuntimeError(
            "torch.compile may compute any operation again in the backward pass (torch._functorch.config: "
            f"activation_memory_budget={budget}, aggressive_recomputation={aggressive}), and would read the rows of a "
            "delayed signal after they were overwritten: leave these settings at their defaults, or do not compile"
        )


def _row(ids: Tensor) -> Tensor:
    """The ids, if they are a row of whole numbers: others would be cut to such in silence."""
    if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.is_floating_point() or ids.dtype is torch.bool:
        found = f"shape {tuple(ids.shape)} and {ids.dtype}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise ValueError(
            "ids must be a tensor of shape (N,) and whole numbers, the index of each sample in the unshuffled training "
            f"set, not {found}"
        )
    return ids


def _fingerprint(x: Tensor) -> tuple[Tensor, Tensor]:
    """One number per input that a flip, a crop or other brightness alters, and the scale of its rounding error."""
    weights = torch.cos(torch.arange(x.shape[1], device=x.device, dtype=x.dtype))
    with torch.autocast(x.device.type, enabled=False):  # half precision would find every input changed
        return x @ weights, x.abs() @ weights.abs()
