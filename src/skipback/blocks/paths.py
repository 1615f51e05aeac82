"""Paths: read one pass. Which block does each tensor belong to, which outputs teach, does a value jump over a cut?

Every new way through a network is read once, and refused if backprop would pass a cut: a layer that the first pass did
not run, a hook that did not run (compiled, exchanged), a skip connection that is there only sometimes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from skipback.blocks.constants import is_made_of
from skipback.blocks.cuts import Layout, Owned, Path, Place
from skipback.blocks.passes import Behind, Met, Pass
from skipback.blocks.trees import named_outputs


class Reading:
    """What a pass met, read.

    Args:
        run: the pass.
        outputs: the floating-point tensors that the network returned, by name.
        frozen: the parameters, by id, that are not trained. A block is named after what is trained in it.
        owned: which block each tensor of the pass that found the blocks is the port of.

    Attributes:
        reached: what stands behind each tensor that was met.
        values: what tells whether two of them are the same value.
        blocks: the name of the block that each is the port of; `None` where another tensor stands for it.
        heads: modules that were cut, and turned out to make the outputs.
        returned: how many outputs there are, losses not counted.
        outputs: those of the outputs that require grad.
        behind: what stands behind each of them.
        bare: parameters that no module owns which was called.
    """

    def __init__(
        self,
        run: Pass,
        outputs: Mapping[str, Tensor],
        frozen: frozenset[int] = frozenset(),
        owned: Sequence[Owned] = (),
    ) -> None:
        self.run = run
        self.reached = [run.behind(met.tensor) for met in run.met]
        self.values = [(met.tensor.grad_fn, met.tensor.output_nr) for met in run.met]
        self.blocks = _blocks(run, self.reached, self.values, frozen, owned)
        self.heads: frozenset[str] = frozenset()
        self.returned = sum(t.dim() > 0 for t in outputs.values())
        self.outputs = {name: t for name, t in outputs.items() if t.requires_grad}
        self.behind = {name: run.behind(t) for name, t in self.outputs.items()}
        self.bare: list[nn.Parameter] = []

    @property
    def places(self) -> Sequence[Place]:
        """Where the pass was cut."""
        return self.run.places

    @property
    def hidden(self) -> list[int]:
        """The numbers of the tensors that are ports."""
        return [k for k, block in enumerate(self.blocks) if block is not None and unit_of(block) not in self.heads]

    @property
    def tops(self) -> list[Tensor]:
        """What modules of the head returned, where modules are cut after their own output."""
        return [met.tensor for met in self.run.met if met.place.module in self.heads]

    @property
    def teaching(self) -> list[str]:
        """The outputs whose errors are sent: no loss, and no hidden block's own value."""
        return [name for name, t in self.outputs.items() if t.dim() > 0 and not self.is_local(name)]

    def is_local(self, name: str) -> bool:
        """Whether an output is the value of one hidden block: its gradient stays in that block."""
        if any(self.outputs[name] is self.run.met[k].flow for k in self.hidden):
            return True
        mine = self.behind[name]
        owners = [self.reached[k] for k in self.hidden if not mine.operations.isdisjoint(self.reached[k].operations)]
        return any(set(mine.parameters) <= set(port.parameters) for port in owners)

    def leading(self, name: str) -> set[int]:
        """The numbers of the tensors that an output is computed from, directly or through other blocks."""
        found: set[int] = set()
        stack = list(self.behind[name].reads)
        while stack:
            k = stack.pop()
            if k not in found:
                found.add(k)
                stack.extend(self.reached[k].reads)
        return found

    def joins_bare(self) -> bool:
        """Whether a matrix that no module owns which was called stands in one block with a matrix of one that was."""
        own = {id(p) for name in set(self.run.calls) for p in self.run.net.get_submodule(name).parameters()}
        groups = [*(self.reached[k] for k in self.hidden), self.run.behind(*self.outputs.values())]
        return any(len({id(p) in own for p in group.mixed}) > 1 for group in groups)

    def mixes_widths(self) -> bool:
        """Whether ports of one block differ in width, as where a cell's state is joined with its next input."""
        found: dict[str, set[object]] = {}
        for k in self.hidden:
            shape = self.run.met[k].tensor.shape
            found.setdefault(str(self.blocks[k]), set()).add((len(shape), shape[1 if len(shape) > 3 else -1 :][:1]))
        return any(len(widths) > 1 for widths in found.values())

    def crosses(self, *, among_ports: bool = True) -> bool:
        """Whether the graphs behind two ports, or a port and the head, share an operation: a value jumped over a cut.

        Tensors that pass one place together are ports of one block. Parameters may be shared, and values made of them.
        """
        groups: dict[object, set[Node]] = {}
        for k in self.hidden:
            key = (self.run.met[k].calls, unit_of(str(self.blocks[k])))
            groups.setdefault(key, set()).update(self.reached[k].operations)
        outputs = [t for name, t in self.outputs.items() if not self.is_local(name)]
        head = self.run.behind(*outputs, *self.tops).operations
        made, seen = self.run.behind(*self.run.passed).operations, set[Node]()
        for group in groups.values():
            common = (group & head) | (group & seen if among_ports else set())
            if not all(is_made_of(operation, made) for operation in common):
                return True
            seen |= group
        return False


def unit_of(block: str) -> str:
    """The module of a block: a second tensor that it returns is taught under a name like "lstm[1]"."""
    return block.partition("[")[0]


def _blocks(
    run: Pass, reached: Sequence[Behind], values: Sequence[object], frozen: frozenset[int], owned: Sequence[Owned]
) -> list[str | None]:
    seen: set[object] = set()
    covered: dict[tuple[int, str], set[int]] = {}
    found: list[str | None] = []
    owners, known = _Owners(run, frozen), _Known(run.net, owned)
    for met, behind, value in zip(run.met, reached, values, strict=True):
        parameters = {id(p) for p in behind.parameters}
        block = known.block(met, parameters)
        unit = owners.of(met.calls, met.place, parameters) if block is None else unit_of(block)
        before = covered.setdefault((met.calls, unit), set())
        again = value in seen or (before and parameters <= before)
        found.append(None if again else block or (f"{unit}[{met.position}]" if before else unit))
        seen.add(value)
        before |= parameters
    return found


class _Owners:
    """The module that a tensor is the value of: what is cut before a module belongs to the last one that it teaches.

    The last in the order of first calls: each state of a cell of several modules belongs to the same one. A module that
    is frozen is taught nothing: it is taken only where all are.
    """

    def __init__(self, run: Pass, frozen: frozenset[int]) -> None:
        self.run, self.frozen = run, frozen
        self.owned: dict[str, set[int]] = {}

    def of(self, calls: int, place: Place, parameters: set[int]) -> str:
        """The owner of a tensor that was met at this place after so many calls, and depends on these parameters."""
        if not place.before:
            return place.module
        wanted = parameters - self.frozen or parameters
        for name in reversed(dict.fromkeys(self.run.calls[: calls - 1])):
            if name not in self.owned:
                self.owned[name] = {id(p) for p in self.run.net.get_submodule(name).parameters()}
            if not wanted.isdisjoint(self.owned[name]):
                return name
        return place.module


class _Known:
    """The blocks as the pass that found them named them, when every parameter was trainable.

    Which parameters require grad may change later, and with it what stands behind a tensor; its block may not.
    """

    def __init__(self, net: nn.Module, owned: Sequence[Owned]) -> None:
        named = list(net.named_parameters()) if owned else []
        self.names = {id(p): name for name, p in named}
        frozen = {name for name, p in named if not p.requires_grad}
        self.sites: dict[tuple[str, int], list[tuple[frozenset[str], str | None]]] = {}
        for one in owned:
            self.sites.setdefault((one.module, one.position), []).append((one.parameters - frozen, one.block))
        self.met: dict[tuple[str, int], int] = {}

    def block(self, met: Met, parameters: set[int]) -> str | None:
        """The block of a tensor that was met there before, made of the same parameters but for frozen ones."""
        key = met.place.module, met.position
        count = self.met[key] = self.met.get(key, 0) + 1
        now = {self.names.get(i, "") for i in parameters}
        found = self.sites.get(key, [])
        same = (block for made, block in found[count - 1 : count] + found if made == now)  # the same call of it first
        return next((block for block in same if block is not None), None)


def read_new(key: Any, run: Pass, output: Any, layout: Layout, modules: Mapping[str, nn.Module]) -> Path:
    """Read a pass whose way, told by its fingerprint, is new; and remember that.

    Args:
        key: the fingerprint.
        run: the pass.
        output: all that the network returned.
        layout: where it is cut.
        modules: those that are hooked, by name.

    Raises:
        RuntimeError: backprop would pass a cut there, an output is new, or a module was exchanged with its hook.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "this compiled pass takes another way through the network than those that were seen: attach with "
            "example=... that takes the same way, or run it once without compiling"
        )
    for name, module in modules.items():
        if name not in run.calls and run.net.get_submodule(name) is not module:
            raise RuntimeError(
                f"module {name!r} was exchanged after attach(), and the cut there with it, so backprop would run "
                "through: detach the learner and attach again"
            )
    path = layout.paths[key] = read(run, named_outputs(output), layout)
    layout.paths[tuple(run.calls), len(run.met)] = path  # for a compiled pass, which has no graph to read
    return path


def read(run: Pass, outputs: Mapping[str, Tensor], layout: Layout) -> Path:
    """Read a pass that takes a new way through the network.

    Raises:
        RuntimeError: backprop would pass a cut there, or an output is new.
    """
    try:
        seen = Reading(run, outputs, owned=layout.owned)
    except ValueError as error:  # reentrant checkpointing that was switched on later
        raise RuntimeError(str(error)) from None
    if is_sharded(seen):
        raise RuntimeError(SHARDED)
    if seen.crosses(among_ports=any(place.before for place in layout.places.values())):
        raise RuntimeError(
            "this forward pass takes another way than the one that found the blocks, and on it a value jumps over a "
            f"cut (a skip connection, say; it called {', '.join(map(repr, run.calls)) or 'no block'}), so backprop "
            "would run on beside the teaching: name the blocks with blocks=[...], or attach with an example that takes "
            "this way"
        )
    _check_called(seen, layout)
    if any(outputs[name] is met.flow for name in layout.outputs if name in outputs for met in run.met):
        raise RuntimeError(
            "this forward pass returns what a hidden block made, and nothing after it, so that block would be the "
            "head: give the early exit a layer of its own, or attach with an example that takes this way"
        )
    for name in seen.teaching:
        if name not in layout.outputs:
            raise RuntimeError(
                f"the network returns {name!r}, which teaches and did not when the blocks were found (its parameters "
                "were frozen, or it was not returned): attach again, with an example for which it is returned"
            )
    return Path(tuple(seen.blocks), _leads(seen, layout))


def is_sharded(seen: Reading) -> bool:
    """Whether layers were sharded one by one: then their weights are exchanged around every call of theirs."""
    parameters = list(seen.run.net.parameters())
    own = {id(p) for p in parameters}
    groups = [*seen.reached, *seen.behind.values()]
    foreign = any(id(p) not in own for behind in groups for p in behind.parameters)
    return foreign and any(hasattr(p, "full_tensor") for p in parameters)


SHARDED = (
    "layers of this network were sharded one by one (fully_shard), and use other parameters while they run than the "
    "network holds, so it is not known which blocks they belong to: shard the network as a whole, fully_shard(net)"
)


def _check_called(seen: Reading, layout: Layout) -> None:
    """Refuse a module that was used without its hook."""
    net, called = seen.run.net, set(seen.run.calls) | layout.heads
    own = {id(p) for name in called for p in net.get_submodule(name).parameters()} | layout.bare
    groups = [*seen.reached, *seen.behind.values()]
    reached = {id(p) for behind in groups for p in behind.parameters} - own
    for name in layout.places:
        if name not in called and any(id(p) in reached for p in net.get_submodule(name).parameters()):
            raise RuntimeError(
                f"module {name!r} was used in this forward pass, but not cut: it was exchanged after attach(), or is "
                "called by its forward(x), which runs no hook, or runs compiled, scripted, or by its weights alone, "
                "and backprop would pass it in silence. Call it as module(x), or detach the learner and attach again, "
                "before compiling parts of the network"
            )


def _leads(seen: Reading, layout: Layout) -> tuple[frozenset[str] | None, ...]:
    if len(layout.outputs) < 2:
        return (None,) * len(seen.blocks)
    if tuple(seen.run.calls) == layout.calls and len(seen.blocks) == len(layout.first.leads):
        return layout.first.leads
    names = [block for block in seen.blocks if block is not None]
    if len(names) != len(set(names)) or len(layout.groups) < len(layout.outputs):
        raise RuntimeError(
            "this forward pass calls a block, or a head, several times, in another order than the pass that found the "
            "blocks, so it is not known which output each call leads to: attach with an example that takes this way"
        )
    return (None,) * len(seen.blocks)
