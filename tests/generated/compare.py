"""Compare: gradients by name, and the choice of ports by which a reference explains them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from generated.reference import Gradients
from generated.tape import Mark

TIGHT = 1e-9
"""Of float64: what two orders of the same sums may differ by."""
EXACT = 1e-6
"""A hidden gradient that is nearer to backprop's than this is backprop's."""


def near(a: Tensor | None, b: Tensor | None, *, within: float = TIGHT, least: float = 1e-13) -> bool:
    """Whether two gradients are the same; none at all is as good as zeros."""
    if a is None or b is None:
        one = b if a is None else a
        return one is None or bool(one.abs().max() <= least)
    scale = max(float(a.abs().max()), float(b.abs().max()))
    return a.shape == b.shape and bool((a - b).abs().max() <= within * scale + least)


def differing(found: Gradients, expected: Gradients, names: Iterable[str] | None = None) -> list[str]:
    """The parameters whose gradients differ."""
    return [name for name in (expected if names is None else names) if not near(found[name], expected[name])]


def vanishes(a: Tensor | None) -> bool:
    """Whether a gradient is 0, or none."""
    return a is None or bool(a.abs().max() < 1e-12)


@dataclass(frozen=True)
class Explained:
    """What comes nearest: the choice of ports, and the parameters that differ still."""

    choice: dict[str, int]
    differ: list[str]


def levels(marks: Sequence[Mark]) -> dict[str, int]:
    """By block, how many candidates for its port there are."""
    found: dict[str, int] = {}
    for mark in marks:
        found[mark.owner] = max(found.get(mark.owner, 0), mark.level)
    return found


def own_parameters(net: nn.Module, block: str, blocks: Iterable[str]) -> list[str]:
    """The parameters inside of a block that are inside of no other one."""
    inner = [b for b in blocks if b.startswith(f"{block}.")]
    prefix = f"{block}." if block else ""
    names = [name for name, _ in net.named_parameters(remove_duplicate=False) if name.startswith(prefix)]
    return [n for n in names if not any(n.startswith(f"{b}.") for b in inner)]


def explain(
    net: nn.Module, found: Gradients, most: Mapping[str, int], run: Callable[[Mapping[str, int]], Gradients]
) -> Explained:
    """Look for a choice of ports that gives the gradients that were found."""
    fits: dict[str, list[int]] = {block: [] for block in most}
    best = Explained({}, list(found))
    for level in range(max(most.values(), default=0), -1, -1):
        choice = {block: min(level, top) for block, top in most.items()}
        gradients = run(choice)
        best = min(best, Explained(choice, differing(found, gradients)), key=lambda e: len(e.differ))
        if not best.differ:
            return best
        for block, one in choice.items():
            own = [n for n in own_parameters(net, block, most) if n in found]
            if one not in fits[block] and not (own and differing(found, gradients, own)):
                fits[block].append(one)
    for choice in itertools.islice(_choices(fits, most), 24):
        best = min(best, Explained(choice, differing(found, run(choice))), key=lambda e: len(e.differ))
        if not best.differ:
            break
    return best


def _choices(fits: Mapping[str, list[int]], most: Mapping[str, int]) -> Iterator[dict[str, int]]:
    options = [list(dict.fromkeys(fits[block])) or [top] for block, top in most.items()]
    for combination in itertools.product(*options):
        yield dict(zip(most, combination, strict=True))


def copied(net: nn.Module) -> dict[str, Tensor]:
    """The state of a network, to go back to."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def gradients_of(net: nn.Module) -> Gradients:
    """What a backward has left."""
    return {name: None if p.grad is None else p.grad.detach().clone() for name, p in net.named_parameters()}
