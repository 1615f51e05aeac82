"""Sizes: how many consecutive blocks each rank trains."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence


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
