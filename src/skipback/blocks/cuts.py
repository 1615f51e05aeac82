"""Cuts: the records of where a network is cut, and into what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Place:
    """A module at which every pass is cut.

    Attributes:
        module: its name.
        before: cut what enters it, rather than what leaves it.
        in_place: detach the tensor itself, so that all its readers get the detached value, also a skip connection.
        copy: what flows on is written in place later, so it must not share the port's memory.
        contiguous: what flows on is made contiguous. Backward of torch's group norm on the CPU crashes for an input
            in channels_last memory whose gradient is not asked for.
    """

    module: str
    before: bool
    in_place: bool = False
    copy: bool = False
    contiguous: bool = False


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One port as the pass that found the blocks met it.

    Attributes:
        block: name of the block that is taught here.
        place: where the graph is cut.
        position: of the port among the tensors that pass there.
    """

    block: str
    place: Place
    position: int = 0

    @property
    def module(self) -> str:
        """Name of the module that is hooked."""
        return self.place.module

    @property
    def before(self) -> bool:
        """Whether what enters the module is cut."""
        return self.place.before

    @property
    def copy(self) -> bool:
        """Whether what flows on is a copy."""
        return self.place.copy


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What one port teaches: the parameters its gradient reaches. The head is the segment of the output."""

    block: str
    shape: tuple[int, ...]
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class Owned:
    """What one tensor of the pass that found the blocks was made of, and the block that it is the port of.

    Attributes:
        module: where it passed.
        position: among the tensors there.
        parameters: names of those it depends on, up to the cut before.
        block: the block; `None` where another tensor stood for it.
    """

    module: str
    position: int
    parameters: frozenset[str]
    block: str | None


@dataclass(frozen=True)
class Path:
    """One way through a network: what each attached tensor is, in the order in which the pass was cut.

    Attributes:
        blocks: the block that each is the port of; `None` where another tensor stands for it.
        leads: the outputs that each leads to, by name; `None` for all.
    """

    blocks: tuple[str | None, ...]
    leads: tuple[frozenset[str] | None, ...]


@dataclass(kw_only=True)
class Layout:
    """Where a network is cut, and into which segments. The last segment is the head.

    Attributes:
        cuts: the ports that the pass which found the blocks met, in order.
        segments: what they teach.
        places: by module, where every pass is cut, also at modules that the first pass did not run.
        ports: by module and position, whether a tensor there is the value of a block.
        outputs: name and shape of each output that teaches.
        heads: modules that make the outputs, where modules are cut after their own output.
        groups: the outputs by the head that makes them: those of one head share the columns of the feedback.
        first: the way of the pass that found the blocks.
        sites: for each tensor of the first pass, at which call it was met, and its position there.
        returned: how many floating-point tensors the network returns, losses not counted.
        calls: the modules that the first pass called, in order.
        named: the user named the blocks.
        bare: by id, parameters that no module owns which was called.
        constants: by module and position, where values pass that are made of parameters alone, and are not cut.
        owned: which block each tensor of the first pass is the port of, to know it again when parameters were frozen.
        refused: why the network cannot be cut here after all; empty if it can. Methods that cut nothing do not mind.
        paths: the ways through the network that were read so far.
    """

    cuts: list[Cut]
    segments: list[Segment]
    places: dict[str, Place] = field(default_factory=dict)
    ports: dict[tuple[str, int], bool] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    heads: frozenset[str] = frozenset()
    groups: tuple[tuple[str, ...], ...] = ()
    first: Path = Path((), ())
    sites: tuple[tuple[int, int], ...] = ()
    returned: int = 1
    calls: tuple[str, ...] = ()
    named: bool = False
    bare: frozenset[int] = frozenset()
    constants: frozenset[tuple[str, int]] = frozenset()
    owned: tuple[Owned, ...] = ()
    refused: str = ""
    paths: dict[Any, Path] = field(default_factory=dict)
