"""A stream of random directions, with a seed of its own, so that the global random state does not change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from skipback.distributed import rank
from skipback.draws import seeded

COMPILED = (
    "random directions are drawn outside of compiled graphs: compile without fullgraph=True, which leaves a gap in the "
    "graph here, or take a method that compiles as a whole, e.g. dfa()"
)


def refuse_compiled() -> None:
    """Refuse to be traced into a compiled graph. Without fullgraph=True, torch then calls again, outside of any graph.

    Raises:
        RuntimeError: torch.compile is tracing.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError(COMPILED)


class Stream(nn.Module):
    """Step n draws from a generator seeded with (seed, n): two numbers in `state_dict()` continue it to the same bits.

    Directions are drawn on the device of the network; CPU and GPU draw different ones. If several processes train, rank
    r draws from (seed, n, r), and rank 0 as a single process does: with the same direction on all ranks, averaging over
    ranks would not reduce the variance where a whole batch has one direction, or all samples about the same Jacobian
    (forward DFA). The state is the same on all ranks, so one rank's checkpoint continues all of them.

    Args:
        seed: of the directions.
        alike: all ranks draw the same directions, as where the feedback itself is drawn at each step.
    """

    position: Tensor

    def __init__(self, seed: int, *, alike: bool = False) -> None:
        super().__init__()
        self.alike = alike
        self.register_buffer("position", torch.tensor([seed, 0]))
        self.known: list[int] | None = None  # a copy on the host: reading a buffer on a GPU would wait for it

    def next(self, device: torch.device) -> Generator:
        """The generator of the next step."""
        refuse_compiled()
        if self.known is None:
            self.known = self.position.tolist()
        own = 0 if self.alike else rank()
        generator = seeded("directions", *self.known, *([own] if own else []), device=device)
        self.known[1] += 1
        self.position[1] += 1
        return generator

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.known = None
        super()._load_from_state_dict(*args, **kwargs)
