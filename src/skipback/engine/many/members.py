"""Members: the blocks of learners that can be trained together."""

from __future__ import annotations

from collections.abc import Sequence

from skipback.learner import Learner
from skipback.step.fit import check
from skipback.step.rules import Dense
from skipback.step.traits import Traits


def dense_rules(learners: Sequence[Learner]) -> list[list[Dense]]:
    """The blocks of each member in order, each a linear layer and its activation; the last one is the head.

    Raises:
        ValueError: a member's method or network has no batched form, it differs from member 0, or two share a weight.
        RuntimeError: a member's method was taken off.
    """
    members = [_dense(n, learner) for n, learner in enumerate(learners)]
    _check_alike(members)
    kinds = {type(learner.method).__name__ for learner in learners}
    if len(kinds) > 1:
        raise ValueError(f"all members take one route, but these are {', '.join(sorted(kinds))}")
    return members


def _dense(n: int, learner: Learner) -> list[Dense]:
    chain = check_member(n, learner).chain
    assert chain is not None
    return [rule for rule in chain.rules if isinstance(rule, Dense)]


def check_member(n: int, learner: Learner, *, now: bool = False) -> Traits:
    """The traits of member n. See `check`; the error says which member it is of."""
    try:
        return check("many", learner, now=now)
    except (ValueError, RuntimeError) as error:
        raise type(error)(f"member {n}: {error}") from None


def _check_alike(members: Sequence[list[Dense]]) -> None:
    shapes = [[_shape(r) for r in rules] for rules in members]
    for n, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"member {n} is {shape}, but member 0 is {shapes[0]}: all must be of one shape")
    owned = [id(p) for rules in members for r in rules for p in r.parameters]
    if len(owned) != len(set(owned)):
        raise ValueError("two layers share a weight: each member needs weights of its own, and each layer too")


def _shape(r: Dense) -> str:
    linear = r.linear
    size = f"{linear.in_features} -> {linear.out_features}{'' if linear.bias is not None else ' without bias'}"
    return f"{size} {r.module!r} {linear.weight.dtype} {linear.weight.device}{' flattened' if r.flatten else ''}"
