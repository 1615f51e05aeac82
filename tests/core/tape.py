"""A CUDA graph on the CPU: it notes the operations of a call with the tensors they touched, and repeats those.

As on a GPU, Python runs once: numbers that it computed are baked in, each tensor that the call made keeps its place,
recording changes nothing, and what asks the host is refused. So a step that is right from this tape reads and writes
static tensors alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
REFUSED = {
    aten._local_scalar_dense,
    aten.item,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.lift_fresh,
}


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


class AskedError(RuntimeError):
    """The host was asked, which a stream that is recorded does not allow."""


class Notes(TorchDispatchMode):
    """On while a call is recorded."""

    def __init__(self):
        super().__init__()
        self.calls, self.kept = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket in REFUSED:
            raise AskedError(str(func))
        for tensor in _tensors((args, kwargs)):  # recording does nothing: all of them are put back
            self.kept.setdefault(_place(tensor), (tensor.untyped_storage(), tensor.untyped_storage().clone()))
        result = func(*args, **kwargs)
        given = {_place(tensor) for tensor in _tensors((args, kwargs))}
        made = [(i, out.detach()) for i, out in enumerate(_tensors(result)) if _place(out) not in given]
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        if made or writes:  # else it is a view
            self.calls.append((func, args, kwargs, made))
        return result


class Tape:
    """A `Recorder` on the CPU.

    Attributes:
        log: what was asked of it: "warm", "record", "replay".
    """

    def __init__(self):
        self.log = []

    def warm(self, call):
        self.log.append("warm")
        call()

    def record(self, call):
        self.log.append("record")
        state, notes = torch.get_rng_state(), Notes()
        try:
            with notes:
                call()
        finally:
            for storage, before in notes.kept.values():
                storage.copy_(before)
            torch.set_rng_state(state)
        return lambda: self._replay(notes.calls)

    @torch.no_grad()
    def _replay(self, calls):
        self.log.append("replay")
        for func, args, kwargs, made in calls:
            found = _tensors(func(*args, **kwargs))
            for i, kept in made:
                kept.copy_(found[i])
