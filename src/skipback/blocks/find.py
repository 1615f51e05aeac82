"""Find: decide where a network is cut, and what is its head, from a few forward passes of it.

Three ways to cut are tried, in this order:

    before            what enters a weight layer is detached for that layer. Functional activations, pooling and
                      reshapes belong to the block that they follow
    before, in place  the tensor itself is detached, for all its readers: a skip connection in the parent's forward
                      reads the detached value too
    after             the output of each module is detached. An activation in the parent's forward then belongs to the
                      block that follows, and its derivative is missing from the block before it; the table says so

The head is all that stands between the last ports and the outputs. Where modules are cut after their own output, those
that make the outputs must be told from the hidden ones: no other block reads what they return.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks.constants import constants
from skipback.blocks.contexts import cutting
from skipback.blocks.cuts import Cut, Layout, Owned, Path, Place, Segment
from skipback.blocks.passes import Pass
from skipback.blocks.paths import SHARDED, Reading, is_sharded
from skipback.blocks.trees import has_parameter, named_outputs, units

STRANGE = "a parameter that the network does not hold"
NO_OUTPUT = "the network returns no floating-point tensor that depends on a trainable parameter"


def find(
    net: nn.Module,
    names: Sequence[str] | None,
    run: Callable[[], Any],
    frozen: frozenset[int] = frozenset(),
    other: Callable[[], object] | None = None,
) -> Layout:
    """Find the blocks of a network.

    Args:
        net: any module, all of whose parameters require grad for this.
        names: modules whose output is taught, or `None` to find them. The module that returns the network's output
            may be named or left out: it is the head either way.
        run: performs one forward pass of `net`, with gradients enabled.
        frozen: the parameters, by id, that are not trained.
        other: performs one on other inputs, if there are any.

    Raises:
        ValueError: a name is unknown or cannot be taught, no cut keeps backprop out, or no output is trainable.
    """
    with torch.enable_grad():
        seen = _automatic(net, run, frozen, other) if names is None else _named(net, names, run, frozen)
    refused = SHARDED if is_sharded(seen) else _bare(seen) if names is None else ""
    return replace(_layout(seen, frozen, named=names is not None), refused=refused)


def _automatic(
    net: nn.Module, run: Callable[[], Any], frozen: frozenset[int], other: Callable[[], object] | None
) -> Reading:
    joined: Reading | None = None
    for in_place in (False, True):
        places = [Place(module=n, before=True, in_place=in_place) for n in units(net)]
        try:
            seen = _settled(net, places, run, frozen, other)
        except RuntimeError:
            if in_place:  # what is detached in place is a leaf here, and the network writes it
                break
            raise
        if not seen.crosses() and not seen.mixes_widths():
            if not seen.joins_bare():
                return seen
            joined = joined or seen  # a cut between the two is better, if there can be one
    # now norms are blocks of their own: a skip could read their output as well as that of the layer before
    places = [Place(module=n, before=False) for n in units(net, has_parameter)]
    seen = _settled(net, places, run, frozen, other)
    if seen.crosses():
        if joined is not None:
            return joined
        raise ValueError(
            "a value jumps over every place where this network could be cut, so backprop would run on beside the "
            "teaching: name the blocks with blocks=[...]"
        )
    bare = [t for name, t in seen.outputs.items() if any(p.dim() >= 2 for p in seen.behind[name].parameters)]
    seen.heads = _heads(seen, bare)
    return seen


def _named(net: nn.Module, names: Sequence[str], run: Callable[[], Any], frozen: frozenset[int]) -> Reading:
    _check_names(net, names)
    seen = _trace(net, [Place(module=n, before=False) for n in names], run, frozen)
    _check_met(names, seen)
    seen.heads = _heads(seen, [t for name, t in seen.outputs.items() if seen.behind[name].parameters])
    if seen.crosses(among_ports=False):
        raise ValueError(
            f"blocks: a value jumps over the output of {', '.join(map(repr, names))} to the head (a skip connection, "
            "say), so blocks before it would get backprop's gradient as well: name the block where the paths join"
        )
    return seen


def _settled(
    net: nn.Module,
    places: Sequence[Place],
    run: Callable[[], Any],
    frozen: frozenset[int],
    other: Callable[[], object] | None,
) -> Reading:
    """Run the network once, cut. What is made of parameters alone is not, where a cut there would not do."""
    seen = _trace(net, places, run, frozen)
    counts = {t.shape[:1] for t in seen.outputs.values()}
    if other is None or not (
        seen.crosses() or any(seen.run.met[k].tensor.shape[:1] not in counts for k in seen.hidden)
    ):
        return seen
    found = constants(seen.run, seen.reached, lambda: _again(net, places, other))
    return _trace(net, places, run, frozen, found) if found else seen


def _again(net: nn.Module, places: Sequence[Place], other: Callable[[], object]) -> Pass | None:
    traced = Pass(net, places, traced=True)
    try:
        with cutting(net, places, traced.cut, first=True):
            other()
    except Exception:  # a network of a fixed batch size may fail anywhere: then nothing is known
        return None
    return traced


def _trace(
    net: nn.Module,
    places: Sequence[Place],
    run: Callable[[], Any],
    frozen: frozenset[int],
    uncut: frozenset[tuple[str, int]] = frozenset(),
) -> Reading:
    """Run the network once, cut, and read what the pass met."""
    traced = Pass(net, places, traced=True, constants=uncut)
    with cutting(net, places, traced.cut, first=True):
        output = run()
    return Reading(traced, named_outputs(output), frozen)


def _readers(seen: Reading, block: str) -> list[str]:
    """The other blocks that read what a block returns."""
    modules = [met.place.module for met in seen.run.met]
    own = {k for k, module in enumerate(modules) if module == block}
    return list(dict.fromkeys(m for k, m in enumerate(modules) if m != block and own & seen.reached[k].reads))


def _heads(seen: Reading, layers: Iterable[Tensor]) -> frozenset[str]:
    """The blocks that make the outputs: no other block reads them, nor does a layer of the head that is not cut."""
    met = seen.run.met
    read_last = {met[k].place.module for k in seen.run.behind(*layers).reads}
    makers = {met[k].place.module for k in seen.run.behind(*seen.outputs.values()).reads} - read_last
    return frozenset(block for block in makers if not _readers(seen, block))


# ----------------------------------------------------------------------------------------------------- the layout


def _layout(seen: Reading, frozen: frozenset[int], *, named: bool) -> Layout:
    teaching = [name for name in seen.teaching if _is_trained(seen, name, frozen)]
    _check_output(seen, teaching)
    written = {met.place.module for met in seen.run.met if met.flow._version > (met.version if met.flow.is_leaf else 0)}
    kept = [place for place in seen.places if place.module not in seen.heads]
    norms = _before_group_norm(seen)
    places = {p.module: replace(p, copy=p.module in written, contiguous=p.module in norms) for p in kept}
    single = len(teaching) == 1
    kept_ports = [k for k, met in enumerate(seen.run.met) if met.place.module in places]
    leads = _leads(seen, teaching)
    first = Path(tuple(seen.blocks[k] for k in kept_ports), tuple(None if single else leads[k] for k in kept_ports))
    calls = tuple(name for name in seen.run.calls if name in places)
    return Layout(
        cuts=_cuts(seen, places),
        segments=_segments(seen, teaching[0]),
        places=places,
        ports={key: known for key, known in seen.run.ports.items() if key[0] in places},
        outputs={name: tuple(seen.outputs[name].shape) for name in teaching},
        heads=seen.heads,
        groups=_groups(seen, teaching),
        first=first,
        sites=tuple((_calls(seen, k, places), seen.run.met[k].position) for k in kept_ports),
        returned=seen.returned,
        calls=calls,
        paths={(calls, len(kept_ports)): first},  # as a compiled pass, which has no graph to read, takes it
        named=named,
        bare=frozenset(id(p) for p in seen.bare),
        constants=seen.run.constants,
        owned=_owned(seen, kept_ports),
    )


def _owned(seen: Reading, kept: Sequence[int]) -> tuple[Owned, ...]:
    names = {id(p): name for name, p in seen.run.net.named_parameters()}
    made = {k: frozenset(names.get(id(p), "") for p in seen.reached[k].parameters) for k in kept}
    return tuple(
        Owned(
            module=seen.run.met[k].place.module,
            position=seen.run.met[k].position,
            parameters=made[k],
            block=seen.blocks[k],
        )
        for k in kept
    )


def _before_group_norm(seen: Reading) -> set[str]:
    """The modules at whose cuts a block begins that has a group norm."""
    groups = [*seen.reached, *seen.behind.values()]
    normed = [g for g in groups if any(type(n).__name__.startswith("NativeGroupNorm") for n in g.operations)]
    return {seen.run.met[k].place.module for group in normed for k in group.reads}


def _calls(seen: Reading, k: int, places: Mapping[str, Place]) -> int:
    """How many of the places had been called when tensor k was met."""
    return sum(name in places for name in seen.run.calls[: seen.run.met[k].calls])


def _is_trained(seen: Reading, name: str, frozen: frozenset[int]) -> bool:
    """Whether an output depends on a parameter that is trained, in its own graph or in a block before it."""
    reached = [seen.behind[name], *(seen.reached[k] for k in seen.leading(name))]
    return any(id(p) not in frozen for found in reached for p in found.parameters)


def _cuts(seen: Reading, places: dict[str, Place]) -> list[Cut]:
    found: dict[tuple[str, str, int], Cut] = {}
    for k in seen.hidden:
        met, block = seen.run.met[k], seen.blocks[k]
        assert block is not None
        cut = Cut(block=block, place=places[met.place.module], position=met.position)
        found.setdefault((block, met.place.module, met.position), cut)
    return list(found.values())


def _segments(seen: Reading, first: str) -> list[Segment]:
    segments: dict[str, Segment] = {}
    for k in seen.hidden:
        block = seen.blocks[k]
        assert block is not None
        before = segments[block].parameters if block in segments else ()
        parameters = tuple(dict.fromkeys([*before, *seen.reached[k].parameters]))
        segments[block] = Segment(block=block, shape=tuple(seen.run.met[k].tensor.shape), parameters=parameters)
    tops = [*seen.tops, *(t for name, t in seen.outputs.items() if not seen.is_local(name))]
    shape, parameters = tuple(seen.outputs[first].shape), seen.run.behind(*tops).parameters
    return [*segments.values(), Segment(block="head", shape=shape, parameters=parameters)]  # a block may be "head" too


def _groups(seen: Reading, teaching: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The outputs by what makes them: the parameters of the head, and the size."""
    found: dict[object, list[str]] = {}
    for name in teaching:
        heads = [k for k in seen.behind[name].reads if seen.run.met[k].place.module in seen.heads]
        graphs = [seen.behind[name], *(seen.reached[k] for k in heads)]
        made = frozenset(id(p) for graph in graphs for p in graph.parameters) or name
        found.setdefault((made, seen.outputs[name].shape[1:]), []).append(name)
    return tuple(map(tuple, found.values()))


def _leads(seen: Reading, teaching: Sequence[str]) -> tuple[frozenset[str], ...]:
    """The teaching outputs that each tensor leads to."""
    leading = {name: {seen.values[k] for k in seen.leading(name)} for name in teaching}
    return tuple(frozenset(name for name in teaching if value in leading[name]) for value in seen.values)


# ------------------------------------------------------------------------------------------------------- refusals


def _check_names(net: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in net.named_modules() if name]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f" (modules: {', '.join(known[:20])})"
            raise ValueError(f"blocks: the network has no module named {name!r}{hint}")


def _check_met(names: Sequence[str], seen: Reading) -> None:
    modules = {met.place.module for met in seen.run.met}
    for name in names:
        if name not in modules:
            raise ValueError(
                f"blocks: module {name!r} has no output to teach: it was not called in the forward pass, or nothing "
                "that it returns depends on a trainable parameter"
            )


def _bare(seen: Reading) -> str:
    """Why backprop could not be kept out of a hidden layer; empty if it can.

    Several weight matrices in one block belong to no module, or one does before a matrix of the head, or the network
    is all head, of several matrices.
    """
    own = {id(p) for name in set(seen.run.calls) for p in seen.run.net.get_submodule(name).parameters()}
    names = {id(p): name for name, p in seen.run.net.named_parameters()}
    outputs = seen.run.behind(*seen.outputs.values())
    seen.bare = [p for block in [*seen.reached, outputs] for p in block.parameters if id(p) not in own]
    head = seen.run.behind(*(t for name, t in seen.outputs.items() if not seen.is_local(name)), *seen.tops)
    for block in [*(seen.reached[k] for k in seen.hidden), outputs, head]:
        bare = [names.get(id(p), STRANGE) for p in block.mixed if id(p) not in own]
        if len(bare) > 1 or (bare and block is head and head.stacked):
            return (
                f"the weights {_listed(bare)} are used outside of the modules that this network calls "
                "(bare parameters, functional_call, layer.forward(x), which runs no hook, and compiled or scripted "
                "layers), so nothing can be cut behind them and backprop would run through all: put each in an "
                "nn.Module, call it as layer(x), attach before compiling, or name the blocks with blocks=[...]"
            )
    weights = [names.get(id(p), STRANGE) for p in outputs.parameters if sum(size > 1 for size in p.shape) > 1]
    if not seen.hidden and len(weights) > 1:
        return (
            f"the network cannot be cut between its weights {_listed(weights)}: it would be all head, "
            "trained by backprop. Put a layer after it, or name the blocks with blocks=[...]"
        )
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, list(dict.fromkeys(names))[:4]))


def _check_output(seen: Reading, teaching: Sequence[str]) -> None:
    if teaching:
        return
    first = next((name for name, t in seen.outputs.items() if t.dim() > 0), None)
    makers = [] if first is None else [seen.run.met[k].place.module for k in sorted(seen.behind[first].reads)]
    readers = _readers(seen, makers[-1]) if makers else []
    if readers:
        raise ValueError(
            f"the first tensor that the network returns is what block {makers[-1]!r} returns, and block {readers[0]!r} "
            "reads it as well, so it would have to be head and hidden block at once: return the prediction first, give "
            "a block that is called again as the last one a module of its own, or name the blocks with blocks=[...]"
        )
    if any(t.dim() == 0 and t.requires_grad for t in seen.outputs.values()) and first is None:
        raise ValueError(
            "the network returns a loss, but not the prediction that it is taken of, so no error could be sent: let it "
            "return both, e.g. (loss, logits)"
        )
    raise ValueError(NO_OUTPUT)
