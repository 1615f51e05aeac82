"""The chain: a plain sequential network as a list of blocks, which a step runs without hooks."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skipback.blocks import Layout
from skipback.core.learner import Forward
from skipback.step.checks import needs_backward
from skipback.step.rules import Dense, Rule, rule


@dataclass(frozen=True)
class Chain:
    """The blocks in order.

    Attributes:
        hidden: name and rule of each hidden block.
        head: the rule of the last block.
        forms: cache of `engine.step.forms`: by the kind of step, the compiler and the chain of other rules.
    """

    hidden: list[tuple[str, Rule]]
    head: Rule
    forms: dict[tuple[bool, bool, bool], tuple[Any, Chain]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def rules(self) -> list[Rule]:
        """The rules of all blocks, the head's last."""
        return [*(rule for _, rule in self.hidden), self.head]

    @property
    def dense(self) -> bool:
        """Whether all rules are `Dense`, the plain closed form."""
        return all(type(rule) is Dense for rule in self.rules)


def chain(net: nn.Module, layout: Layout) -> Chain | None:
    """Return the blocks of a plain `nn.Sequential` that has no hooks but the learner's; `None` for any other network.

    Args:
        net: the network, with the learner's hooks.
        layout: its cuts and blocks.
    """
    if needs_backward(net):
        return None
    leaves = list(_leaves(net, ""))
    starts = {cut.module: cut.block for cut in layout.cuts}
    names = [name for name, _ in leaves]
    cut = all(place.before and not place.copy and place.module in names for place in layout.places.values())
    if (
        not _sequential(net, forward=True)
        or not cut
        or len(starts) != len(layout.cuts)
        or _twice(net)
        or any(_EVERYWHERE)
    ):
        return None
    if _watched(net) or any(_watched(module, before=name in layout.places) for name, module in leaves):
        return None  # the learner has one hook at each place where it cuts
    if any(type(module).__call__ is not nn.Module.__call__ for name, module in leaves if name in layout.places):
        return None  # it could not be called without that hook
    blocks: list[list[nn.Module]] = [[]]
    for name, module in leaves:
        if name in starts:
            blocks.append([])
        blocks[-1].append(module)
    shapes = [len(segment.shape) == 2 for segment in layout.segments]
    rules = [rule(modules, rows=rows) for modules, rows in zip(blocks, shapes, strict=True)]
    blocks_of = [segment.block for segment in layout.segments[:-1]]
    return Chain(list(zip(blocks_of, rules[:-1], strict=True)), rules[-1])


def plain_chain(net: nn.Module) -> Chain | None:
    """The same for a network without cuts: each block begins at a linear layer, or at the flattening before it."""
    if needs_backward(net) or not _sequential(net, forward=True) or _twice(net) or any(_EVERYWHERE) or _watched(net):
        return None
    blocks: list[list[nn.Module]] = [[]]
    for _, module in _leaves(net, ""):
        if _watched(module):
            return None
        if type(module) is nn.Linear and any(type(m) is nn.Linear for m in blocks[-1]):
            blocks.append([])
        blocks[-1].append(module)
    rules = [rule(modules, rows=True) for modules in blocks]
    return Chain([(str(k), one) for k, one in enumerate(rules[:-1])], rules[-1])


def _leaves(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a sequential network in the order of their calls, those of a nested `nn.Sequential` included."""
    for name, child in module.named_children():
        if type(child) is nn.Sequential and _sequential(child) and not _watched(child):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _sequential(module: nn.Module, *, forward: bool = False) -> bool:
    """Whether the module runs as `nn.Sequential` does, in a subclass too. `forward`: the learner stands in for it."""
    own, stand_in = type(module), vars(module).get("forward")
    plain = isinstance(module, nn.Sequential) and own.forward is nn.Sequential.forward
    alone = isinstance(stand_in, Forward) and stand_in.alone if forward else stand_in is None
    return plain and own.__call__ is nn.Module.__call__ and alone


def _twice(net: nn.Module) -> bool:
    """Whether a module is registered under two names, so that one pass calls it twice."""
    names = [name for name, _ in net.named_modules(remove_duplicate=False)]
    return len(set(map(id, net.modules()))) != len(names)


def _watched(module: nn.Module, *, before: int = 0, after: int = 0) -> bool:
    """Whether a module has hooks beside the learner's `before` and `after`: a step without calls fires none."""
    forwards = len(module._forward_pre_hooks) != before or len(module._forward_hooks) != after
    return bool(forwards or module._backward_hooks or module._backward_pre_hooks)


def _hooks(m: nn.Module) -> tuple[Any, ...]:
    return m._forward_pre_hooks, m._forward_hooks, m._backward_hooks, m._backward_pre_hooks


_EVERY = torch.nn.modules.module
_EVERYWHERE = (
    _EVERY._global_forward_pre_hooks,
    _EVERY._global_forward_hooks,
    _EVERY._global_backward_hooks,
    _EVERY._global_backward_pre_hooks,
)
"""Torch's global hooks, which fire for every module."""


class NetworkFingerprint:
    """What a chain depends on: the modules and parameters of a network, their hooks, and which parameters are trained.

    Compared before every step, so the lists of modules are gathered once, and what is compared are lists of numbers.

    Attributes:
        recorded: the fingerprint at the time of construction.
    """

    def __init__(self, net: nn.Module) -> None:
        self.parameters, modules = list(net.parameters()), list(net.modules())
        self.modules, self.own = modules, [vars(m) for m in modules]
        self.tables: list[dict[str, Any]] = [table for m in modules for table in (m._modules, m._parameters)]
        own: list[Any] = [hooks for m in modules for hooks in _hooks(m)]
        self.hooks = [*own, *_EVERYWHERE]
        self.recorded: object = None
        self.holds()

    def holds(self) -> bool:
        """Whether the network has the recorded fingerprint still; the first call records it."""
        parameters = self.parameters
        now = (
            *map(id, itertools.chain.from_iterable(map(dict.values, self.tables))),
            *map(len, self.tables),
            *map(len, self.hooks),
            *map(id, map(_COMPILED, self.modules)),
            *map(id, map(_FORWARD, self.own)),
            *map(_TRAINED, parameters),
            *map(bool, map(_HOOKS, parameters)),
            *map(bool, map(_GRAD_HOOKS, parameters)),
        )
        if self.recorded is None:
            self.recorded = now
        return now == self.recorded


_COMPILED, _FORWARD = operator.attrgetter("_compiled_call_impl"), operator.methodcaller("get", "forward")
_TRAINED, _HOOKS = operator.attrgetter("requires_grad"), operator.attrgetter("_backward_hooks")
_GRAD_HOOKS = operator.attrgetter("_post_accumulate_grad_hooks")
