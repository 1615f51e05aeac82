"""Fit: which learners can be spread over processes, and how many blocks each rank trains."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from torch import nn

from skipback.core.feedback import Sees
from skipback.core.method import Direct
from skipback.learner import Learner
from skipback.step.chain import Chain, chain
from skipback.step.checks import shared

RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
"""Modules that draw from the generator of the process, which in one process earlier blocks would have advanced."""


def fitting(learner: Learner) -> Chain:
    """The blocks of a learner that can be spread.

    Raises:
        ValueError: the learner cannot be spread; the message says why.
    """
    reason = _method(learner) or _network(learner)
    if reason is not None:
        raise ValueError(f"the blocks cannot be spread over processes: {reason}")
    assert learner.layout is not None
    found = chain(learner.net, learner.layout)
    if found is None:
        raise ValueError(
            "the blocks cannot be spread over processes: the network is no plain nn.Sequential that is cut between its "
            "modules, or a module has hooks beside the learner's"
        )
    return found


def _method(learner: Learner) -> str | None:
    method = learner.method
    if not isinstance(method, Direct) or not method.signal.needs.early or learner.anchor is not None:
        return (
            "the signal is late, it is known only after the last block has run. Use an early one: skipback.drtp(), or "
            "skipback.f3(memory=...)"
        )
    if method.learns or method.feedback.sees & ~Sees.ACTIVITY:
        return "the feedback learns, or is computed from the whole network. Use fixed feedback"
    return None


def _network(learner: Learner) -> str | None:
    if learner.layout is None:
        return "they are not known yet. Pass example=x to attach()"
    if shared(learner.layout):
        return "two of them own the same parameter"
    draws = [name for name, module in learner.net.named_modules() if isinstance(module, RANDOM)]
    if draws:
        return f"{draws[0]!r} draws random numbers, which would not be those of one process"
    return None


def sizes_of(parameters: Sequence[int], world: int, sizes: Sequence[int] | None) -> tuple[int, ...]:
    """The number of consecutive blocks of each rank.

    Args:
        parameters: the number of parameters of each block, the head last.
        world: number of ranks.
        sizes: as the user passed them; `None` makes the largest share of parameters as small as it can be.

    Raises:
        ValueError: a rank would have no block, or a block no rank.
    """
    if world > len(parameters):
        raise ValueError(
            f"{world} ranks, but the network has {len(parameters)} blocks, its head included: start at most "
            f"{len(parameters)} processes"
        )
    if sizes is None:
        return balanced(parameters, world)
    if len(sizes) != world or min(sizes) < 1 or sum(sizes) != len(parameters):
        raise ValueError(
            f"sizes={list(sizes)} does not give each of {world} ranks a block, and each of {len(parameters)} blocks "
            "(the head included) a rank"
        )
    return tuple(sizes)


def balanced(parameters: Sequence[int], world: int) -> tuple[int, ...]:
    """The sizes whose largest share of parameters is smallest, as the slowest rank sets the pace of all."""
    upto = [0, *itertools.accumulate(parameters)]

    @functools.cache
    def best(count: int, ranks: int) -> tuple[int, tuple[int, ...]]:
        """Of the first `count` blocks on `ranks` ranks: the largest share, and the sizes."""
        if ranks == 1:
            return upto[count], (count,)
        options = []
        for own in range(1, count - ranks + 2):
            largest, before = best(count - own, ranks - 1)
            options.append((max(largest, upto[count] - upto[count - own]), (*before, own)))
        return min(options)

    return best(len(parameters), world)[1]
