"""Groups: consecutive members whose updates agree in every setting are stepped as one.

One step of a stack equals the steps of its members if the optimizer is elementwise (`ELEMENTWISE`). The optimizer state
is shared like the weights: each member's optimizer holds views of the stacked state, in torch's own layout.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from torch import Tensor, nn, optim
from torch.optim import Optimizer

from skipback.engine.many.layers import MemberStack
from skipback.update import Update, hooked

ELEMENTWISE = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.RMSprop,
    optim.Adagrad,
    optim.Adadelta,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.ASGD,
    optim.Rprop,
)
"""Torch's optimizers that update each number from its own gradient and state. Adafactor, for one, reads norms."""


class MemberGroup:
    """Members a .. b - 1, stepped as one.

    Args:
        span: a .. b.
        update: the update of member a.
        stacks: the stacked weights of all members.
        optimizers: the optimizers of all members.
    """

    def __init__(
        self, span: range, update: Update, stacks: Sequence[MemberStack], optimizers: Sequence[Optimizer]
    ) -> None:
        self.span, self.optimizers = span, [optimizers[n] for n in span]
        self.parts = slice(span.start, span.stop)
        self.own = [[stack.own[n] for n in span] for stack in stacks]
        self.parameters = tuple(nn.Parameter(stack.whole[self.parts]) for stack in stacks)
        self.update = unbound(update)
        self.optimizer = self.update.bind(self.parameters)
        self.optimizer.param_groups[0].update(_settings(self.optimizers[0]))
        for p, own in zip(self.parameters, self.own, strict=True):
            if state := _stacked(
                [optimizer.state.get(q, {}) for q, optimizer in zip(own, self.optimizers, strict=True)], own
            ):
                self.optimizer.state[p] = state
        self.shared, self.states = False, self._states()

    def follow(self) -> bool:
        """Copy settings that a scheduler has changed for all members. Returns whether they still agree."""
        first, *others = (_settings(optimizer) for optimizer in self.optimizers)
        alike = all(other == first for other in others) and not any(map(hooked, self.optimizers))
        whole = alike and self.states == self._states()
        if whole:
            self.optimizer.param_groups[0].update(first)
        return whole

    def _states(self) -> list[tuple[int, int]]:
        """Identity and size of each optimizer's state: loading a state replaces the dict, and clearing empties it."""
        return [(id(optimizer.state), len(optimizer.state)) for optimizer in self.optimizers]

    def apply(self, gradients: Sequence[Tensor], places: Sequence[int]) -> None:
        """Step the stacks at these places by these gradients, (N, *shape) each."""
        self.update.apply(tuple(self.parameters[i] for i in places), [g[self.parts] for g in gradients])
        if not self.shared:
            self.shared = True
            self._share()

    def _share(self) -> None:
        """After the first step has initialised the state, let each member's optimizer hold views of it.

        And tell its scheduler, which looks whether the optimizer was called before it, that it was.
        """
        for optimizer in self.optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined]
        for p, own in zip(self.parameters, self.own, strict=True):
            for n, (q, optimizer) in enumerate(zip(own, self.optimizers, strict=True)):
                if p in self.optimizer.state:
                    state = self.optimizer.state[p].items()
                    optimizer.state[q] = {key: value[n] if _like(value, p) else value for key, value in state}
        self.states = self._states()


def grouped(
    updates: Sequence[Update], stacks: Sequence[MemberStack], optimizers: Sequence[Optimizer]
) -> list[MemberGroup]:
    """Divide the members into groups, each as long as possible.

    Raises:
        ValueError: an optimizer has several parameter groups, holds other weights, or may mix the members.
    """
    for n, optimizer in enumerate(optimizers):
        _check(optimizer, [stack.own[n] for stack in stacks], n)
    trained = [stack for stack in stacks if stack.own[0].requires_grad]
    keys = [
        (type(u), type(o), _settings(o), _age(o, trained, n))
        for n, (u, o) in enumerate(zip(updates, optimizers, strict=True))
    ]
    found = []
    for _, run in groupby(range(len(keys)), key=lambda n: keys.index(keys[n])):
        members = list(run)
        span = range(members[0], members[-1] + 1)
        found.append(MemberGroup(span, updates[members[0]], stacks, optimizers))
    return found


def _check(optimizer: Optimizer, own: Sequence[Tensor], n: int) -> None:
    if len(optimizer.param_groups) != 1:
        raise ValueError("an update with several parameter groups is not trained together: give it one")
    if type(optimizer) not in ELEMENTWISE:
        raise ValueError(
            f"member {n}: {type(optimizer).__name__} is not known to step each number by itself, so it would mix the "
            "members: train them one by one by learner.step, or by an update of skipback.update"
        )
    if hooked(optimizer):
        raise ValueError(
            f"member {n}: its optimizer has hooks on step(), which is not called for each member: train them one by "
            "one, by learner.step"
        )
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    if not all(id(p) in held for p in own):
        raise ValueError(
            f"member {n}: this update holds the optimizer of other parameters: make an update for each member, or pass "
            "one for all that was never used"
        )


def unbound(update: Update) -> Update:
    """A copy of an update without its optimizer, for other parameters."""
    twin = copy.copy(update)
    twin.optimizer = None
    return twin


def own_states(updates: Sequence[Update]) -> None:
    """Give each optimizer memory of its own for its state."""
    for update in updates:
        for state in [] if update.optimizer is None else update.optimizer.state.values():
            state.update({key: value.clone() for key, value in state.items() if isinstance(value, Tensor)})


def settings(optimizers: Sequence[Optimizer]) -> list[Any]:
    """What the groups depend on: the settings, state and hooks of all optimizers. Compared before each step."""
    return [(id(o.state), len(o.state), hooked(o), *o.param_groups[0].values()) for o in optimizers]


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    return {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}


def _age(optimizer: Optimizer, stacks: Sequence[MemberStack], n: int) -> list[Any]:
    """The optimizer state of each weight of member n: names of its entries, and the count of steps."""
    states = [optimizer.state.get(stack.own[n], {}) for stack in stacks]
    return [(sorted(state), float(state.get("step", 0))) for state in states]


def _stacked(states: Sequence[dict[str, Any]], own: Sequence[Tensor]) -> dict[str, Any]:
    """Stack the states of one weight, where a tensor has its shape; copy other entries from the first member."""
    return {
        key: MemberStack([state[key] for state in states]).whole if _like(value, own[0]) else copy.deepcopy(value)
        for key, value in states[0].items()
    }


def _like(value: Any, p: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == p.shape
