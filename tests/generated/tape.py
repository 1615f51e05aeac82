"""Tape: where a generated network says which of its values could be the port of which block.

While nobody listens, each of these functions returns what it is given: the network is plain. On a `Tape` they say, in
the order of the forward pass, "this value belongs to the modules of this trail": the weight layer that was called last,
and the norms and containers after it. Each value that still belongs to a block is a candidate for its port. A tape that
was given the choice (block -> number of the candidate) cuts there: what flows on is detached, which is all that direct
feedback does to a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

_listening: list[Tape] = []


@dataclass(frozen=True)
class Form:
    """How samples lie in a value: the dimension of the batch, how many rows a sample has, and which they are."""

    batch: int = 0
    group: int = 1
    rows: Tensor | None = None


@dataclass
class Mark:
    """A value that could be the port of `owner`.

    Attributes:
        owner: name of the block.
        level: number of the candidate, counted from the block's own output.
        call: number of the call of the block in this pass.
        form: how samples lie in it.
        shape: of the value.
        edge: of the autograd graph.
        port: the value, where it was cut.
    """

    owner: str
    level: int
    call: int
    form: Form
    shape: tuple[int, ...]
    edge: GradientEdge | None
    port: Tensor | None = None


@dataclass
class Tape:
    """One pass.

    Attributes:
        blocks: names of the blocks; values that belong to none of them are not marked.
        choice: by block, the number of the candidate to cut at; `None` cuts nothing.
        tops: by block and call, the number of its last candidate: a call that has fewer than others is cut there.
        marks: all candidates, in order.
        trail: the modules that the last value belongs to, and the number of the next candidate of each.
        form: of what is marked next.
        calls: how often each module was called.
        last: by the id of what flowed on, its last mark.
        twins: by the id of what was detached beside a port, the attached tensor.
        kept: all that flowed on: an id is that of one tensor only as long as it lives.
    """

    blocks: frozenset[str] = frozenset()
    choice: Mapping[str, int] | None = None
    tops: Mapping[tuple[str, int], int] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    trail: dict[str, int] = field(default_factory=dict)
    form: Form = Form()
    calls: dict[str, int] = field(default_factory=dict)
    last: dict[int, Mark] = field(default_factory=dict)
    twins: dict[int, Tensor] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)

    def begin(self, name: str, *, keep: bool) -> None:
        """A module was called: a new trail, or one more on the one that there is."""
        if not keep:
            self.trail = {}
        self.trail.pop(name, None)
        self.trail[name] = 0
        self.calls[name] = self.calls.get(name, 0) + 1

    def value(self, value: Tensor) -> Tensor:
        """A value of the trail. Returns what flows on."""
        owner = next((name for name in reversed(self.trail) if name in self.blocks), None)
        level = self.trail.get(owner or "", 0)
        for name in self.trail:
            self.trail[name] += 1
        if owner is None or not value.requires_grad:
            return value
        mark = Mark(owner, level, self.calls[owner], self.form, tuple(value.shape), get_gradient_edge(value))
        self.marks.append(mark)
        flow = value
        top = self.tops.get((owner, mark.call), level)
        if self.choice is not None and min(self.choice.get(owner, -1), top) == level:
            mark.port, flow = value.clone(), value.detach().clone()  # what is written in place later is another tensor
        self.last[id(flow)] = mark
        self.kept.append(flow)
        return flow

    def beside(self, value: Tensor, other: Tensor) -> Tensor:
        """See the function."""
        mark = self.last.get(id(value))
        if mark is None or mark.port is None or other is value:
            return other
        flow = other.detach()
        self.twins[id(flow)] = other
        self.kept.append(flow)
        return flow

    def attached(self, value: Tensor) -> Tensor:
        """A value that the network returns, before the cut."""
        value = self.twins.get(id(value), value)
        mark = self.last.get(id(value))
        return value if mark is None or mark.port is None else mark.port


def _tape() -> Tape | None:
    return _listening[-1] if _listening else None


@contextmanager
def listening(tape: Tape, net: nn.Module) -> Iterator[Tape]:
    """Run `net` with the tape on. Members of an nn.Sequential cannot say anything, so they are hooked."""
    handles = [
        module.register_forward_hook(_said_by(name, module)) for name, module in net.named_modules() if _row(net, name)
    ]
    _listening.append(tape)
    try:
        yield tape
    finally:
        _listening.pop()
        for handle in handles:
            handle.remove()


def _row(net: nn.Module, name: str) -> bool:
    """Whether a module is a member of an nn.Sequential, and cannot speak for itself."""
    parent = net.get_submodule(name.rpartition(".")[0])
    own = type(net.get_submodule(name)).__module__.startswith("torch.nn")
    return bool(name) and type(parent) is nn.Sequential and own


def _said_by(name: str, module: nn.Module) -> Any:
    container = isinstance(module, nn.Sequential)
    matrix = not container and any(p.dim() >= 2 for p in module.parameters())
    some = any(True for _ in module.parameters())

    def hook(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        return weight(name, out) if matrix else norm(name, out) if some else point(out)

    return hook


# ----------------------------------------------------------------------------------------- what a network says


def weight(name: str, value: Tensor) -> Tensor:
    """What a weight layer returned."""
    tape = _tape()
    if tape is None:
        return value
    tape.begin(name, keep=False)
    return tape.value(value)


def norm(name: str, value: Tensor) -> Tensor:
    """What a module returned that is behind a weight layer, or around it."""
    tape = _tape()
    if tape is None:
        return value
    tape.begin(name, keep=True)
    return tape.value(value)


def point(value: Tensor) -> Tensor:
    """What a function without parameters returned."""
    tape = _tape()
    return value if tape is None else tape.value(value)


def beside(value: Tensor, other: Tensor) -> Tensor:
    """Another tensor of a module that has just been marked: detached where that was cut."""
    tape = _tape()
    return other if tape is None else tape.beside(value, other)


def trail() -> dict[str, int]:
    """The trail of the last value, for `join`."""
    tape = _tape()
    return {} if tape is None else dict(tape.trail)


def join(*trails: dict[str, int]) -> None:
    """The next value is made of several."""
    tape = _tape()
    if tape is not None:
        joined: dict[str, int] = {}
        for one in trails:
            for name, level in one.items():
                joined.pop(name, None)
                joined[name] = level
        tape.trail = joined


def form(batch: int = 0, group: int = 1, rows: Tensor | None = None) -> None:
    """How samples lie in what follows."""
    tape = _tape()
    if tape is not None:
        tape.form = Form(batch, group, rows)


def returned(value: Tensor) -> Tensor:
    """A hidden value that the network returns."""
    tape = _tape()
    return value if tape is None else tape.attached(value)
