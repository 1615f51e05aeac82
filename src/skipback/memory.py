"""The per-sample memory of delayed signals: one row (C numbers) per training sample, carried from visit to visit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Record = Callable[[Tensor, Tensor], Tensor]
"""(output, target) -> what is remembered of this visit; all three (N, C)."""
Initial = Callable[[Record, Tensor], Tensor]
"""(record, target) -> what stands in for the visit before the first one (N, C)."""

CHECKED_VISITS = 100
"""Batches whose inputs are compared with the visit before. Wrong ids show at once, and each check costs a sync."""


class Memory(nn.Module):
    """Rows M (samples, C), written at each training visit and read at the next one.

    Rows, which samples were seen, and a fingerprint of each sample's input are buffers: they move with `.to()` and are
    in `state_dict()`. A row is filled by `initial` at the first visit, so no pass over the data set is needed.

    Args:
        samples: number of training samples; ids are 0 .. samples - 1.
        outputs: C.
        record: what is remembered of a visit.
        initial: what stands in before the first visit.
        dtype: of the stored rows; half precision halves the memory.
        device: where the rows are stored; `None` follows the network.
    """

    rows: Tensor
    seen: Tensor
    prints: Tensor

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
        self.register_buffer("rows", torch.zeros(samples, outputs, dtype=dtype, device=device))
        self.register_buffer("seen", torch.zeros(samples, dtype=torch.bool, device=device))
        self.register_buffer("prints", torch.zeros(samples, dtype=torch.float32, device=device))
        self.checks_left = CHECKED_VISITS
        self.complete = False  # every sample was seen: spares the initial rows from then on
        self.left = samples  # visits before it is worth a look whether all were seen
        self.asks = True  # a read may ask the device whether it is complete; inside a captured step it may not

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        # .to(), .half(), .cuda() of the learner: the rows keep the dtype and the device that were asked for
        if self.pinned is None:
            for name in ("rows", "seen", "prints"):
                kept = getattr(self, name)
                setattr(self, name, kept.to(fn(kept).device))  # not through fn: half() and back would round the rows
        return self

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
        rows = self._pick(table, ids).to(target)
        rows = rows if rows.shape == target.shape else rows.reshape(target.shape)
        if self.complete or self._completed():
            return rows
        first = ~self.seen.index_select(0, ids).to(target.device).repeat_interleave(len(target) // len(ids))
        return torch.where(first.unsqueeze(1), self.initial(self.record, target), rows)

    def _completed(self) -> bool:
        """Whether every sample was seen, as far as is known: it takes a pass over all to know."""
        if self.asks and not torch.compiler.is_compiling() and self.left <= 0:
            self.complete, self.left = bool(self.seen.all()), len(self.seen)
        return self.complete

    def _pick(self, table: Tensor, ids: Tensor) -> Tensor:
        try:
            return table.index_select(0, ids)
        except IndexError:
            raise IndexError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}, but the memory was made for samples "
                f"0 to {len(self.rows) - 1}: pass memory=len(training set) and the index of each sample in it"
            ) from None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.complete, self.left = False, 0
        super()._load_from_state_dict(*args, **kwargs)

    def write(self, ids: Tensor, output: Tensor, target: Tensor) -> None:
        """Remember this visit: M[ids] = record(output, target)."""
        table = self.rows
        ids = ids.to(table.device, torch.int64)
        table.index_copy_(0, ids, self.record(output, target).reshape(ids.shape[0], -1).to(table))
        if not self.complete:
            self.seen.index_fill_(0, ids, True)
            if not torch.compiler.is_compiling():  # it would compile anew for each number
                self.left -= ids.shape[0]

    def check_views(self, ids: Tensor, x: Tensor) -> None:
        """Compare each input with the one of the visit before: a stored error belongs to one view of a sample.

        Raises:
            ValueError: the input of a known id has changed (augmentation, or ids that are not stable), or the ids are
                no row of whole numbers, one for each input.
        """
        if self.checks_left <= 0:
            return
        ids = _row(ids).to(self.rows.device, torch.int64)
        if len(ids) != len(x):
            raise ValueError(f"{len(ids)} ids came with {len(x)} inputs: pass one id for each sample")
        now, scale = _fingerprint(x.detach().flatten(1).to(self.prints.device, torch.float32))
        before = self._pick(self.prints, ids)
        seen = self.seen.index_select(0, ids) & (before != 0)  # a compiled pass writes rows, but takes no prints
        changed = seen & ((now - before).abs() > 1e-4 * scale)
        if bool(changed.any()):
            raise ValueError(
                f"the input of sample {int(ids[changed][0])} differs from its last visit: a delayed signal stores one "
                "error per sample, so each id must always bring the same input. Switch augmentation off, and pass the "
                "position of the sample in the unshuffled training set as its id"
            )
        self.prints.index_copy_(0, ids, torch.where(seen, before, now))
        self.checks_left -= int(seen.any())


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
