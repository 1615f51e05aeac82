"""Compiled steps: the blocks of a chain that go by autograd, through `torch.compile`.

What is compiled is never copied nor pickled: a copy compiles again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from skipback.engine.step.rules import Graph

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
"""`torch.compile`, or what calls it with options: `functools.partial(torch.compile, backend=...)`."""


def compiler(compile: bool | Compiler) -> Compiler | None:
    """What `learner.step(compile=...)` asks for; `None` for nothing.

    Raises:
        TypeError: neither a bool nor a function.
    """
    if compile is True:
        return torch.compile
    if compile is False or compile is None:
        return None
    if not callable(compile):
        raise TypeError(
            "compile must be True, False, or a function that compiles one, such as functools.partial(torch.compile, "
            f"dynamic=True); got {compile!r}"
        )
    return compile


class Compiled(Graph):
    """A block by autograd, forward and backward compiled.

    Args:
        graph: the block.
        compiler: what compiles it, at the first run.
    """

    def __init__(self, graph: Graph, compiler: Compiler) -> None:
        super().__init__(graph.modules)
        self.call = compiler(_alone(self.modules))

    def run(self, h: Any) -> Any:
        """See `Rule`."""
        with torch.enable_grad():
            self.y = self.call(h)
        return self.y.detach()


def _alone(modules: list[nn.Module]) -> Callable[[Any], Any]:
    """A function that runs the modules, with code of its own: torch keeps a few graphs for each code, and then stops.

    Not through `__call__`: the hook there is the learner's cut, and a chain has no other ones.
    """
    calls = [m.forward if type(m).__call__ is nn.Module.__call__ else m for m in modules]

    def block(h: Any) -> Any:
        for call in calls:
            h = call(h)
        return h

    block.__code__ = block.__code__.replace()
    return block
