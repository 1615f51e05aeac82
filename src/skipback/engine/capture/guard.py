"""Guard: watches one step for operations of the host, which a recording cannot repeat.

It records them and lets the step run to its end: an interrupted step would leave some blocks updated and others not.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
ASKS = {
    aten._local_scalar_dense: "asks the device for a number (.item(), float(), int() or bool() of a tensor)",
    aten.item: "asks the device for a number (.item())",
    aten.is_nonzero: "asks the device for a truth (bool() of a tensor, in an `if`)",
    aten.equal: "asks the device whether tensors are equal (torch.equal)",
    aten.nonzero: "asks the device how many entries are not 0 (nonzero, where of one argument)",
    aten.masked_select: "asks the device how many entries a mask has (masked_select)",
    aten._unique2: "asks the device how many values differ (unique)",
    aten.lift_fresh: "makes a tensor from numbers of the host (torch.tensor)",
}
"""Operations in which the host waits for the device or sends data to it, and how users write them."""
MASKED = (aten.index, aten.index_put, aten.index_put_)
COPIES = (aten._to_copy, aten.copy_)
NOWHERE = torch.device("meta")
"""The device of tensors without data, which some steps use to compute a shape."""


class Guard(TorchDispatchMode):
    """Is on during one step, and records in `found` the operations in which the host took part.

    Args:
        device: where every operation has to run.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.found: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and record it if the host takes part."""
        asks = ASKS.get(func.overloadpacket) or _by_mask(func, args)
        if asks is not None:
            self._note(asks)
        result = func(*args, **(kwargs or {}))
        self._note_foreign_tensors(func, _tensors((args, kwargs)), alone=func.overloadpacket not in COPIES)
        self._note_foreign_tensors(func, [*_written(func, args), *_tensors(result)], alone=False)
        return result

    def _note_foreign_tensors(self, func: Any, tensors: list[Tensor], *, alone: bool) -> None:
        """Report tensors on another device.

        A 0-d CPU tensor that is only read is fine (`alone`): it is passed to the kernel as a scalar.
        """
        for tensor in tensors:
            if tensor.device not in (self.device, NOWHERE) and not (alone and tensor.dim() == 0):
                self._note(f"uses a tensor on {tensor.device}, not on {self.device} ({func.overloadpacket})")

    @property
    def said(self) -> str:
        """The error message: what was found, where, and what to do."""
        what = "; ".join(f"it {asks}, at {place}" for asks, place in self.found.items())
        return (
            f"{what}. A captured step runs without Python, so take this out of the loss, the network or the update; or "
            "train by learner.step. The batches so far have been trained"
        )

    def _note(self, what: str) -> None:
        self.found.setdefault(what, _place())


def _by_mask(func: Any, args: Any) -> str | None:
    """Whether an operation is x[mask], whose length the host reads from the device."""
    if func.overloadpacket not in MASKED:
        return None
    mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return "asks the device how many entries a mask has (x[mask])" if mask else None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any) -> list[Tensor]:
    """The tensors that an in-place operation overwrites."""
    pairs = zip(func._schema.arguments, args, strict=False)
    return [
        t for kind, given in pairs if kind.alias_info is not None and kind.alias_info.is_write for t in _tensors(given)
    ]


def _place() -> str:
    """File and line of the innermost call that is neither torch's nor of this file."""
    frame = sys._getframe()
    own = (__file__, torch.__path__[0])
    while frame.f_code.co_filename.startswith(own) and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
