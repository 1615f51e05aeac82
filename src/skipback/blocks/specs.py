"""Specs: what the feedback of each port must fit, and which dimension of a port is the batch: found, not assumed.

Where sizes leave a doubt (a port without the output's batch in front, a width that equals the batch), the network runs
once more with one sample more, and what grows is the batch. A sequence is told by a pass with one position less.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks.cuts import Layout
from skipback.blocks.rows import PER_SAMPLE, PlaceRows, PortRows, PositionRows, SpreadRows
from skipback.blocks.trees import map_tensors, tensors


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """Where teaching arrives: the output of one block.

    Attributes:
        name: the block's name, as in `net.named_modules()`.
        shape: P, the shape of one row of the port.
        outputs: C, numbers per row at the network's output.
        dtype: what the feedback is stored in (the dtype of the network's parameters).
        device: where the port lives.
        rows: what a row of this port is: a sample, a position of a sequence, a place of an image.
        reader: weight of the `nn.Linear` fed by this port, used to initialise feedback from weights (FWM). `None` if
            another module reads the port, and always `None` after initialisation.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    dtype: torch.dtype
    device: torch.device
    rows: PortRows = PER_SAMPLE
    reader: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """D, the number of units of one row."""
        return math.prod(self.shape)

    def of_port(self, h: Tensor) -> Tensor:
        """A port, or its teaching or gradient, as rows (R, *P)."""
        return self.rows.of_port(h, self.shape)

    @property
    def positions(self) -> int:
        """1 where the port has several rows per sample, each taught by itself; else 0."""
        return int(not self.rows.per_sample)

    def check(self, port: Tensor, version: int, output: Sequence[int]) -> None:
        """Refuse a port that no longer fits. Costs no synchronisation, and nothing under torch.compile but guards.

        Raises:
            ValueError: its rows, or those of the output, are of another size.
            RuntimeError: it was changed in place since it had this version.
        """
        if not self.fits(port, output):
            raise ValueError(
                self.misfit(port, f"the output has shape {tuple(output)}", "the batch must come first and")
            )
        self.check_unchanged(port, version)

    def check_unchanged(self, port: Tensor, version: int) -> None:
        """Refuse a port that was changed in place since it had this version (-1 under torch.compile, which tells none).

        Raises:
            RuntimeError: it was.
        """
        if version >= 0 and port._version != version:
            raise RuntimeError(
                f"the output of block {self.name!r} was changed in place after the cut, which did not happen in the "
                "forward pass that found the blocks: attach with an example that takes the same path, in training mode"
            )

    def fits(self, port: Tensor, output: Sequence[int]) -> bool:
        """Whether this port, and an output of this shape, are those that its feedback was made for."""
        return self.rows.fits(port.shape, self.shape, output) and self.rows.outputs(output) == self.outputs

    def misfit(self, port: Tensor, other: str, law: str) -> str:
        """What to say of a port that does not fit its feedback."""
        each = "sample" if self.rows.per_sample else "position"
        shared = "" if self.positions else " (structures.PerPosition() teaches positions and places of any number)"
        return (
            f"port {self.name!r} has shape {tuple(port.shape)}, its feedback teaches {tuple(self.shape)} per {each} "
            f"from {self.outputs} numbers, and {other}: {law} other sizes must not change{shared}"
        )


Shapes = dict[str, Tensor]
"""By block, the port of one pass; under "" the output."""


def specs(
    net: nn.Module,
    layout: Layout,
    output: Sequence[int],
    grouped: Sequence[int],
    shared: bool,
    look: Callable[..., Shapes] | None,
) -> list[PortSpec]:
    """What the feedback of each port must fit.

    Args:
        net: the network: dtype and device of the feedback are those of its first parameter.
        layout: its blocks.
        output: the shape of the joined output.
        grouped: the same with one set of columns for all outputs of one head, which is what the feedback must fit.
        shared: all positions or places of a port are taught by one matrix.
        look: runs the network on the example with its inputs changed by a function; `None` if there is none.

    Raises:
        ValueError: the batch of a port is not found, or is its only dimension.
    """
    like, doubt = next(net.parameters()), _Doubt(look, output)
    readers = {cut.block: net.get_submodule(cut.place.module) for cut in layout.cuts if cut.place.before}
    found = []
    for segment in layout.segments[:-1]:
        reader = readers.get(segment.block)
        spec = spec_of(segment.block, segment.shape, grouped, like, shared, doubt)
        found.append(replace(spec, reader=reader.weight if isinstance(reader, nn.Linear) else None))
    return found


def spec_of(
    block: str,
    port: Sequence[int],
    output: Sequence[int],
    like: Tensor,
    shared: bool,
    doubt: _Doubt | None = None,
) -> PortSpec:
    """The spec of one port (see `specs`)."""
    rows = _rows(block, port, output, shared, doubt or _Doubt(None, output))
    return PortSpec(
        name=block,
        shape=rows.shape(port),
        outputs=rows.outputs(output),
        dtype=like.dtype,
        device=like.device,
        rows=rows,
    )


def _rows(block: str, port: Sequence[int], output: Sequence[int], shared: bool, doubt: _Doubt) -> PortRows:
    rows = doubt.batch(block, port) if output else None
    if rows is None:
        raise ValueError(
            f"port {block!r} has shape {tuple(port)} and the output {tuple(output)}: the first dimension of both must "
            "be the batch. Name other blocks with blocks=[...]"
        )
    if len(port) == 1:
        raise ValueError(
            f"port {block!r} has shape {tuple(port)}, one number per sample and no dimension for it: let the block "
            f"return {(*port, 1)}, or name other blocks with blocks=[...]"
        )
    if rows != PER_SAMPLE:
        return rows
    if len(output) == 3 and len(port) > 2 and port[1] == output[1] and doubt.positions(block):
        return PositionRows()
    if len(output) > 3 and len(port) in (2, len(output)):
        return PlaceRows()
    return SpreadRows() if shared and len(port) > 2 else PER_SAMPLE


def input_batch(look: Callable[..., Shapes], output: Sequence[int]) -> int:
    """Which dimension of the first input counts the samples: that which makes the output longer; 0 if none does.

    Args:
        look: runs the network on the example with its inputs changed by a function.
        output: the shape of the joined output.
    """
    doubt = _Doubt(look, output)
    grows = (dim for dim in (0, 1) if doubt.grows(dim))
    return next(grows, 0)


def is_time_first(look: Callable[..., Shapes], output: Sequence[int]) -> bool:
    """Whether an output (T, N, V) certainly counts samples in its second dimension.

    Another input for the first sample then changes what is said of that sample alone, and another input at the first
    position also what is said of other positions.
    """
    if len(output) != 3 or min(output[:2]) < 2:
        return False
    doubt = _Doubt(look, output)
    y = doubt.changed("same", lambda tree: tree)
    other = [doubt.changed(f"other{dim}", functools.partial(_repeated, dim)) for dim in (0, 1)]
    if y is None or other[0] is None or other[1] is None:
        return False
    times, samples = (other[0] != y).any(2).any(1), (other[1] != y).any(2).any(0)
    return bool(times[1:].any() and samples[0] and not samples[1:].any())


class _Doubt:
    """Answers by further passes, each made when it is first asked for."""

    def __init__(self, look: Callable[..., Shapes] | None, output: Sequence[int]) -> None:
        self.look, self.output = look, tuple(output)
        self.passes: dict[str, Shapes] = {}

    def batch(self, block: str, port: Sequence[int]) -> PortRows | None:
        """Where the batch of a port is; `None` if that is not found."""
        count = self.output[0]
        same = len(port) > 0 and port[0] == count
        if same and count not in (*port[1:], *self.output[1:]):
            return PER_SAMPLE
        for dim in (0, 1):
            if self.grows(dim):
                more = self._more(dim)
                return self._of(port, more[block]) if block in more else None
        return PER_SAMPLE if same and not self.passes.get("more0") else None

    def grows(self, dim: int) -> bool:
        """Whether the output has one sample more where the inputs are longer by one in this dimension."""
        more = self._more(dim)
        return bool(more) and _grown(self.output, more[""].shape) == (0, 1)

    def changed(self, name: str, change: Callable[[Any], Any]) -> Tensor | None:
        """The output of changed inputs; `None` if they fail, or make it larger or smaller."""
        found = self._pass(name, change)
        return found[""] if found and tuple(found[""].shape) == self.output else None

    def _more(self, dim: int) -> Shapes:
        return self._pass(f"more{dim}", functools.partial(_longer, dim))

    def _of(self, port: Sequence[int], longer: Tensor) -> PortRows | None:
        found = _grown(port, longer.shape)
        if found is None:
            return None
        dim, by = found
        frames = port[dim] // self.output[0]
        if port[dim] != frames * self.output[0] or by != frames:
            return None
        if frames == 1:
            return PortRows(batch=dim) if dim else PER_SAMPLE
        return PortRows(frames=frames) if dim == 0 and _is_sample_major(longer, frames) else None

    def positions(self, block: str) -> bool:
        """Whether port and output really share their second dimension, rather than by chance."""
        less = self._pass("less", _shorter)
        if not less or less[""].dim() != 3 or less[""].shape[1] == self.output[1]:
            return True  # of one length only: the equal sizes are all that can be known
        return block in less and less[block].dim() > 2 and less[block].shape[1] == less[""].shape[1]

    def _pass(self, name: str, change: Callable[[Any], Any]) -> Shapes:
        if name not in self.passes:
            try:
                self.passes[name] = {} if self.look is None else self.look(change)
            except Exception:  # a network of fixed sizes may fail anywhere: then nothing is known
                self.passes[name] = {}
        return self.passes[name]


def _grown(before: Sequence[int], after: Sequence[int]) -> tuple[int, int] | None:
    """The one dimension that grew, and by how much."""
    if len(before) != len(after):
        return None
    changed = [(i, b - a) for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return changed[0] if len(changed) == 1 else None


def _longer(dim: int, tree: Any) -> Any:
    """The first sample once more at the end of all inputs that have as many samples as the first one."""
    first = next(iter(t for t in tensors(tree) if t.dim() > dim), None)
    if first is None:
        raise ValueError("no input has this dimension")
    count = first.shape[dim]
    return map_tensors(
        tree, lambda t: torch.cat([t, t.narrow(dim, 0, 1)], dim) if t.dim() > dim and t.shape[dim] == count else t
    )


def _repeated(dim: int, tree: Any) -> Any:
    """The second entry of all inputs, along this dimension, also in the place of the first."""

    def repeated(t: Tensor) -> Tensor:
        if t.dim() <= dim or t.shape[dim] < 2:
            return t
        return torch.cat([t.narrow(dim, 1, 1), t.narrow(dim, 1, t.shape[dim] - 1)], dim)

    return map_tensors(tree, repeated)


def _shorter(tree: Any) -> Any:
    """One position less in all inputs that have as many as the first one."""
    first = next(iter(t for t in tensors(tree) if t.dim() > 1), None)
    if first is None or first.shape[1] < 2:
        raise ValueError("no input has positions")
    count = first.shape[1]
    return map_tensors(tree, lambda t: t.narrow(1, 0, count - 1) if t.dim() > 1 and t.shape[1] == count else t)


def _is_sample_major(port: Tensor, frames: int) -> bool:
    """Whether the frames of one sample lie together: then those of the repeated sample equal the first ones."""
    equal: bool = torch.allclose(port[-frames:], port[:frames], rtol=1e-3, atol=1e-5)
    return equal and not bool((port[:frames] == port[frames : 2 * frames]).all())
