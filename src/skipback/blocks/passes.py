"""Passes: what one forward pass of a network meets where it is cut, and what stands behind each tensor it met.

A pass that is *traced* lets what flows on start a graph of its own, so that the graph behind a later port, or behind an
output, ends in the flows that it was computed from: those are the ports that it *reads*.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from skipback.blocks.contexts import Hook, hooked
from skipback.blocks.cuts import Layout, Place
from skipback.blocks.trees import map_tensors, packed, tensors


@dataclass(frozen=True)
class Behind:
    """What stands behind some tensors, up to the cuts.

    Attributes:
        parameters: those that gradients would reach.
        operations: the nodes of the autograd graph on the way to them.
        reads: the numbers of the ports that these tensors are computed from.
        mixed: those of the parameters that multiply an activity as a matrix or a kernel.
        stacked: those of them whose product goes on to a product with another one.
    """

    parameters: tuple[nn.Parameter, ...]
    operations: frozenset[Node]
    reads: frozenset[int]
    mixed: tuple[nn.Parameter, ...] = ()
    stacked: tuple[nn.Parameter, ...] = ()


def behind(starts: Iterable[Tensor], ends: Mapping[Node, int] | None = None) -> Behind:
    """Walk the autograd graph from some tensors down to its leaves, or to `ends` (flows, with the number of each).

    Raises:
        ValueError: a part ran inside reentrant checkpointing, which hides its graph.
    """
    ends = {} if ends is None else ends
    readers: dict[Node, list[Node]] = {t.grad_fn: [] for t in starts if t.grad_fn is not None}
    parameters: dict[nn.Parameter, Node] = {}
    stack, reads = list(readers), set()
    while stack:
        node = stack.pop()
        if node in ends:
            reads.add(ends[node])
            continue
        if type(node).__name__ == "CheckpointFunctionBackward":
            raise ValueError(
                "a part of the network runs inside reentrant activation checkpointing, which records no graph in the "
                "forward pass, so its blocks cannot be cut there: pass use_reentrant=False to checkpoint()"
            )
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            parameters[leaf] = node
        for parent, _ in node.next_functions:
            if parent is not None and parent not in readers:
                readers[parent] = []
                stack.append(parent)
            if parent is not None:
                readers[parent].append(node)
    leaves = list(parameters.values())
    operations = frozenset(_up(leaves, readers)) - frozenset(leaves)
    found = {p: _product(leaf, readers) for p, leaf in parameters.items() if p.dim() > 1}
    products = {p: node for p, node in found.items() if node is not None}
    return Behind(tuple(parameters), operations, frozenset(reads), tuple(products), _stacked(products, readers))


_VIEWS = ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "Unsqueeze", "Squeeze", "Clone", "ToCopy")
_PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Addmv", "Convolution", "Linear", "Bilinear", "Addbmm")


def _stacked(products: Mapping[nn.Parameter, Node], readers: Mapping[Node, Sequence[Node]]) -> tuple[nn.Parameter, ...]:
    """The parameters whose product another one's product is computed from."""
    nodes = set(products.values())
    return tuple(
        p for p, node in products.items() if len(nodes) > 1 and not nodes.isdisjoint(_up([node], readers) - {node})
    )


def _product(leaf: Node, readers: Mapping[Node, Sequence[Node]]) -> Node | None:
    """The matrix product or convolution that reads this parameter, or a view of it."""
    stack = list(readers[leaf])
    while stack:
        node = stack.pop()
        name = node.name().partition("Backward")[0]
        if name.startswith(_PRODUCTS):
            return node
        if name in _VIEWS:
            stack.extend(readers[node])
    return None


def _up(leaves: Iterable[Node], readers: Mapping[Node, Sequence[Node]]) -> set[Node]:
    found: set[Node] = set()
    stack = list(leaves)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(readers[node])
    return found


@dataclass(frozen=True, eq=False)
class Met:
    """An attached tensor where a pass was cut.

    Attributes:
        place: where.
        position: among the tensors that pass there.
        tensor: attached to what made it. Where the cut is in place, an alias.
        flow: what flows on.
        calls: how many modules had been called by then.
        version: of the port, to notice a write.
    """

    place: Place
    position: int
    tensor: Tensor
    flow: Tensor
    calls: int
    version: int


@dataclass(eq=False)
class Pass:
    """One forward pass while it runs.

    Attributes:
        net: the network.
        places: where it is cut.
        ports: by module and position, whether a tensor there is the value of a block; found out where it is not known.
        traced: what flows on starts a graph of its own.
        calls: the modules that were called, in order, by name.
        met: the attached tensors, in order.
        tensors: the same tensors alone.
        versions: of each when it was met, to notice a write.
        marks: what tells one way through the network from another: how many operations autograd recorded before each.
        first: how many before the first of them.
        ends: where the graphs of flows begin, and the number of the tensor that was met.
        constants: the sites of values that are made of parameters alone, which are not cut.
        passed: the tensors that were met there.
    """

    net: nn.Module
    places: Sequence[Place] = ()
    traced: bool = False
    ports: dict[tuple[str, int], bool] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    first: int = 0
    ends: dict[Node, int] = field(default_factory=dict)
    constants: frozenset[tuple[str, int]] = frozenset()
    passed: list[Tensor] = field(default_factory=list)

    def fingerprint(self, outputs: Sequence[Tensor]) -> Any:
        """What tells one way through the network from another: the calls, and the operations between the cuts.

        A compiled pass has no operations to count; but it is only ever the pass that was compiled.
        """
        if torch.compiler.is_compiling():
            return tuple(self.calls), len(self.met)
        ends = [-1 if y.grad_fn is None else y.grad_fn._sequence_nr() - self.first for y in outputs]
        return (*self.calls, *self.marks, *ends)

    def behind(self, *starts: Tensor) -> Behind:
        """What stands behind these tensors, up to the cuts."""
        return behind(starts, self.ends)

    def cut(self, place: Place, tree: Any) -> Any:
        """Record the attached tensors that pass a place. Returns what passes instead, or `None` for the same."""
        if self.traced and not torch.is_grad_enabled():  # inside reentrant checkpointing
            return None
        self.calls.append(place.module)
        args = tree[0] if place.before else (tree,)
        alone = len(args) == 1 and type(args[0]) is Tensor and not (place.before and tree[1])
        if self.traced:
            self._check_visible(place, tree)
        flows: dict[int, Tensor] = {}
        for i, t in enumerate(args if alone else tensors(tree)):
            if t.requires_grad and id(t) not in flows:
                if self.constants and (place.module, i) in self.constants:
                    self.passed.append(t)
                    continue
                known = None if self.traced else self.ports.get((place.module, i))
                if known or (known is None and self._is_port(place, i, t)):
                    flows[id(t)] = self._meet(place, i, t)
        if not flows:
            return None
        if alone:
            flow = flows[id(args[0])]
            return flow if not place.before else ((flow,), {})
        return map_tensors(tree, lambda t: flows.get(id(t), t))

    def _is_port(self, place: Place, position: int, t: Tensor) -> bool:
        """Whether a tensor is the value of a block. A bare parameter, or an input that requires grad, is not."""
        reached = {id(p) for p in self.behind(t).parameters}
        modules = set(self.calls[:-1]) if place.before else {""}
        owned = {id(p) for name in modules for p in self.net.get_submodule(name).parameters()}
        found = not reached.isdisjoint(owned)
        if self.traced:
            key = place.module, position
            self.ports[key] = self.ports.get(key, False) or found
        return found

    def _meet(self, place: Place, position: int, t: Tensor) -> Tensor:
        """Record a tensor, and return what flows on from it."""
        compiling, port = torch.compiler.is_compiling(), t
        node, version = (None, -1) if compiling else (t.grad_fn, t._version)
        if place.in_place and t._base is None and not t.is_leaf:
            port = t.clone() if place.copy else t.view_as(t)
            t.detach_()
            flow = t.requires_grad_() if self.traced else t
        elif self.traced:
            # a clone, as a leaf could not be written in place; and fresh: its version counts the writes after the cut
            flow = t.detach().requires_grad_().clone()
        else:
            flow = t.detach().clone() if place.copy else t.detach()
        if place.contiguous:
            flow = flow.contiguous()
        if self.traced:
            self.ends[_start(flow)] = len(self.met)
        if not compiling:
            mark = 0 if node is None else node._sequence_nr()
            if not self.marks:
                self.first = mark
            self.marks.append(mark - self.first)
        self.tensors.append(port)
        self.versions.append(-1 if compiling else port._version)
        self.met.append(Met(place, position, port, flow, len(self.calls), version))
        return flow

    def _check_visible(self, place: Place, tree: Any) -> None:
        """Refuse what a cut could not see into."""
        inputs = [*tree[0], *tree[1].values()] if place.before else [tree]
        if any(p.data.requires_grad for p in packed(inputs)):  # packed data alone needs no cut
            raise ValueError(
                f"block {place.module!r} {'receives' if place.before else 'returns'} a PackedSequence, whose rows "
                "belong to no one sample, so nothing can be taught there: pad the sequences instead (pad_sequence), or "
                "name other blocks with blocks=[...]"
            )
        hidden = [i for i in inputs if not isinstance(i, _OPEN) and _may_hide(i)]
        if place.before and len(self.calls) > 1 and hidden and not tensors(inputs):
            raise ValueError(
                f"block {place.module!r} receives a {type(hidden[0]).__name__}, and tensors inside of it cannot be "
                "seen, so nothing could be cut there: let the blocks exchange tensors, or tuples, lists, dicts and "
                "data classes of them"
            )


_OPEN: tuple[type, ...] = (
    *(Tensor, tuple, list, dict, type(None), str, bytes, int, float, complex, range, slice, enum.Enum),
    *(torch.device, torch.dtype, torch.layout, torch.memory_format, torch.Generator),
)
"""What a cut can see into, or what holds no tensor."""


def _may_hide(item: Any, depth: int = 6) -> bool:
    """Whether an object may hold attached tensors, as far as its attributes tell (a cache that is empty holds none)."""
    if isinstance(item, Tensor):
        return item.requires_grad
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, tuple | list):
        return any(_may_hide(one, depth) for one in item)
    if isinstance(item, _OPEN):
        return False
    held = None if callable(item) else getattr(item, "__dict__", None)
    return depth == 0 or held is None or any(_may_hide(one, depth - 1) for one in held.values())


def _start(flow: Tensor) -> Node:
    """The node in which the graphs of a flow's readers end."""
    node: Any = flow.grad_fn
    if node is None:  # a leaf, which has one only in the graphs of its readers
        node = flow.view_as(flow).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    found: Node = node
    return found


@dataclass
class Gate:
    """Whether a network is taught now. One for a learner, shared by its route and the hooks at its cuts.

    Attributes:
        plain: the network is left alone: inside `exact()`, or in an anchored pass.
        running: a pass is open.
        inside: calls of the learner itself that run now, rather than of the network alone.
        warned: somebody was told that the gradient of an input is none.
    """

    plain: bool = False
    running: bool = False
    inside: int = 0
    warned: bool = False

    @property
    def idle(self) -> bool:
        """Whether a pass that begins now is not to be taught."""
        return self.plain or not torch.is_grad_enabled()


@dataclass(eq=False)
class Cutter:
    """The hooks that cut one network, and the pass that runs now. An object of its own: it is set at every pass.

    Attributes:
        gate: whether the network is taught now.
        layout: where it is cut.
        net: the network.
        modules: those that are hooked, by name.
        run: the pass that is open; `None` outside of one.
    """

    gate: Gate
    layout: Layout
    net: nn.Module
    modules: dict[str, nn.Module]
    run: Pass | None = None
    handles: list[RemovableHandle] = field(default_factory=list)

    def install(self) -> None:
        """Hook the network."""
        # before other hooks: those that record hidden states must not keep what the cut has not detached
        self.handles = hooked(self.net, [Cutting(self, place) for place in self.layout.places.values()], first=True)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def outside(self, place: Place, tree: Any) -> Any:
        """Cut a module that runs outside of a pass: a checkpoint that runs again in backward, or refused.

        Raises:
            RuntimeError: nothing could teach it.
        """
        if not any(t.requires_grad for t in tensors(tree)):
            return None  # the first block by itself: nothing is cut there
        check_inside(place.module)
        return Pass(self.net, ports=self.layout.ports, constants=self.layout.constants).cut(place, tree)


class Cutting(Hook):
    """What a module calls at a place in training."""

    def __init__(self, cutter: Cutter, place: Place) -> None:
        self.cutter, self.place = cutter, place

    @override
    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        cutter = self.cutter
        if cutter.gate.plain or not torch.is_grad_enabled():
            return None
        tree = (args, kwargs)
        return cutter.outside(self.place, tree) if cutter.run is None else cutter.run.cut(self.place, tree)

    @override
    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        cutter = self.cutter
        if cutter.gate.plain or not torch.is_grad_enabled():
            return None
        return cutter.outside(self.place, output) if cutter.run is None else cutter.run.cut(self.place, output)


def check_inside(module: str) -> None:
    """Refuse a block that runs outside of the network's own call, unless backward runs a checkpoint again.

    Raises:
        RuntimeError: nothing could teach it.
    """
    if not in_backward():
        raise RuntimeError(
            f"{module!r} ran outside of a call of the network that a method is attached to, so nothing could teach it: "
            "call net(x), not a part of the network (if the part belongs to two networks with a method each, detach "
            "one of them); for plain gradients use `with learner.exact():`"
        )


def in_backward() -> bool:
    """Whether backward is running: activation checkpointing runs blocks again in there."""
    return torch._C._current_graph_task_id() != -1
