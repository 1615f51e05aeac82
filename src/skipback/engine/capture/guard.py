"""Guard: watches one step for what a recording cannot repeat, because the host takes part in it.

It notes, and lets the step run to its end: a step that is stopped half way would leave some blocks changed.
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
"""Operations in which the host waits for the device, or feeds it, and what people call them."""
MASKED = (aten.index, aten.index_put, aten.index_put_)
COPIES = (aten._to_copy, aten.copy_)
NOWHERE = torch.device("meta")
"""Tensors without numbers, which some steps ask for a shape."""


class Guard(TorchDispatchMode):
    """On during one step; `found` says what the host did in it.

    Args:
        device: where everything has to happen.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.found: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operation if the host takes part, and do it."""
        asks = ASKS.get(func.overloadpacket) or _by_mask(func, args)
        if asks is not None:
            self._note(asks)
        result = func(*args, **(kwargs or {}))
        self._look(func, _tensors((args, kwargs)), alone=func.overloadpacket not in COPIES)
        self._look(func, [*_written(func, args), *_tensors(result)], alone=False)
        return result

    def _look(self, func: Any, tensors: list[Tensor], *, alone: bool) -> None:
        """Note tensors elsewhere; but a lone number that is only read goes along with the kernel, as a constant."""
        for tensor in tensors:
            if tensor.device not in (self.device, NOWHERE) and not (alone and tensor.dim() == 0):
                self._note(f"uses a tensor on {tensor.device}, not on {self.device} ({func.overloadpacket})")

    @property
    def said(self) -> str:
        """What was seen, and what to do."""
        what = "; ".join(f"it {asks}, at {place}" for asks, place in self.found.items())
        return (
            f"{what}. A captured step runs without Python, so take this out of the loss, the network or the update; or "
            "train by learner.step. The batches so far have been trained"
        )

    def _note(self, what: str) -> None:
        self.found.setdefault(what, _place())


def _by_mask(func: Any, args: Any) -> str | None:
    """x[mask] is as long as the mask has entries, so the host waits for their number."""
    if func.overloadpacket not in MASKED:
        return None
    mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return "asks the device how many entries a mask has (x[mask])" if mask else None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any) -> list[Tensor]:
    """What an operation in place changes."""
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
