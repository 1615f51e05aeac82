"""Passes: what one forward pass of a network meets where it is cut, and what stands behind each tensor it met.

A pass that is *traced* lets what flows on start a graph of its own, so that the graph behind a later port, or behind an
output, ends in the flows that it was computed from: those are the ports that it *reads*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence

from skipback.core.blocks.cuts import Place
from skipback.core.blocks.trees import map_tensors, tensors


@dataclass(frozen=True)
class Behind:
    """What stands behind some tensors, up to the cuts.

    Attributes:
        parameters: those that gradients would reach.
        operations: the nodes of the autograd graph on the way to them.
        reads: the numbers of the ports that these tensors are computed from.
        mixed: those of the parameters that multiply an activity as a matrix or a kernel.
    """

    parameters: tuple[nn.Parameter, ...]
    operations: frozenset[Node]
    reads: frozenset[int]
    mixed: tuple[nn.Parameter, ...] = ()


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
    mixed = tuple(p for p, leaf in parameters.items() if p.dim() > 1 and _mixes(leaf, readers))
    return Behind(tuple(parameters), operations, frozenset(reads), mixed)


_VIEWS = ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "Unsqueeze", "Squeeze", "Clone", "ToCopy")
_PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Addmv", "Convolution", "Linear", "Bilinear", "Addbmm")


def _mixes(leaf: Node, readers: Mapping[Node, Sequence[Node]]) -> bool:
    """Whether a matrix product or a convolution reads this parameter, or a view of it."""
    stack = list(readers[leaf])
    while stack:
        node = stack.pop()
        name = node.name().partition("Backward")[0]
        if name.startswith(_PRODUCTS):
            return True
        if name in _VIEWS:
            stack.extend(readers[node])
    return False


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
        traced: what flows on starts a graph of its own.
        net: the network.
        places: where it is cut.
        ports: by module and position, whether a tensor there is the value of a block; found out where it is not known.
        calls: the modules that were called, in order, by name.
        met: the attached tensors, in order.
        marks: the sequence numbers of the nodes that made those tensors: they count the operations between two cuts.
        ends: where the graphs of flows begin, and the number of the tensor that was met.
    """

    net: nn.Module
    places: Sequence[Place] = ()
    traced: bool = False
    ports: dict[tuple[str, int], bool] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    ends: dict[Node, int] = field(default_factory=dict)

    def fingerprint(self, outputs: Sequence[Tensor]) -> Any:
        """What tells one way through the network from another: the calls, and the operations between the cuts."""
        if torch.compiler.is_compiling():
            return tuple(self.calls), len(self.met)
        marks = [*self.marks, *(sequence_number(y.grad_fn) for y in outputs)]
        return (*self.calls, *[mark - marks[0] for mark in marks])

    def behind(self, *starts: Tensor) -> Behind:
        """What stands behind these tensors, up to the cuts."""
        return behind(starts, self.ends)

    def cut(self, place: Place, tree: Any) -> Any:
        """Record the attached tensors that pass a place. Returns what passes instead, or `None` for the same."""
        self.calls.append(place.module)
        found = [(i, t) for i, t in enumerate(tensors(tree)) if t.requires_grad]
        if self.traced:
            self._check_visible(place, tree)
        found = [(i, t) for i, t in found if self._is_port(place, i, t)]
        if not found:
            return None
        flows = {id(t): self._meet(place, i, t) for i, t in found}
        if all(flows[id(t)] is t for _, t in found):  # detached in place
            return None
        return map_tensors(tree, lambda t: flows.get(id(t), t))

    def _is_port(self, place: Place, position: int, t: Tensor) -> bool:
        """Whether a tensor is the value of a block. A bare parameter, or an input that requires grad, is not."""
        key = place.module, position
        if key not in self.ports or self.traced:
            reached = {id(p) for p in self.behind(t).parameters}
            modules = set(self.calls[:-1]) if place.before else {""}
            owned = {id(p) for name in modules for p in self.net.get_submodule(name).parameters()}
            if not self.traced:
                return not reached.isdisjoint(owned)
            self.ports[key] = self.ports.get(key, False) or not reached.isdisjoint(owned)
        return self.ports[key]

    def _meet(self, place: Place, position: int, t: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        number, node, version = len(self.met), t.grad_fn, -1 if compiling else t._version
        port, flow = self._split(place, t)
        self.met.append(Met(place, position, port, flow, len(self.calls), version))
        if not compiling:
            self.marks.append(sequence_number(node))
        if self.traced:
            start = flow.grad_fn if flow.grad_fn is not None else _leaf_node(flow)
            self.ends[start] = number
        return flow

    def _split(self, place: Place, t: Tensor) -> tuple[Tensor, Tensor]:
        """The port, and what flows on from it."""
        if place.in_place and not t._is_view() and t.grad_fn is not None:
            port = t.clone() if place.copy else t.view_as(t)
            t.detach_()
            return port, t.requires_grad_() if self.traced else t
        if self.traced:
            # a clone, as a leaf could not be written in place; and fresh: its version counts the writes after the cut
            return t, t.detach().requires_grad_().clone()
        return t, t.detach().clone() if place.copy else t.detach()

    def _check_visible(self, place: Place, tree: Any) -> None:
        """Refuse what a cut could not see into."""
        inputs = [*tree[0], *tree[1].values()] if place.before else [tree]
        if any(isinstance(i, PackedSequence) for i in inputs):
            raise ValueError(
                f"block {place.module!r} receives a PackedSequence, whose rows belong to no one sample, so nothing can "
                "be taught there: pad the sequences instead (pad_sequence), or name other blocks with blocks=[...]"
            )
        hidden = [i for i in inputs if not isinstance(i, Tensor | tuple | list | dict | str | int | float | None)]
        if place.before and len(self.calls) > 1 and hidden and not tensors(inputs):
            raise ValueError(
                f"block {place.module!r} receives a {type(hidden[0]).__name__}, and tensors inside of it cannot be "
                "seen, so nothing could be cut there: let the blocks exchange tensors, or tuples, lists, dicts and "
                "data classes of them"
            )


def sequence_number(node: Node | None) -> int:
    """How many nodes autograd had made in this thread before this one; -1 for a leaf."""
    return -1 if node is None else node._sequence_nr()


def _leaf_node(leaf: Tensor) -> Node:
    """The node in which the graphs of a leaf's readers end."""
    view: Any = leaf.view_as(leaf)
    node: Node = view.grad_fn.next_functions[0][0]
    return node
