"""Compiled steps: the blocks of a chain that go by autograd, through `torch.compile`.

Compiled code is neither copied nor pickled: the copy of a learner compiles again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from skipback.step.rules import ModulesBlock

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
"""`torch.compile`, with options or without: `functools.partial(torch.compile, backend=...)`."""


def compiler(compile: bool | Compiler) -> Compiler | None:
    """Return the compiler that `learner.step(compile=...)` names; `None` for False.

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


class Compiled(ModulesBlock):
    """A block by autograd, forward and backward compiled.

    Args:
        graph: the block.
        compiler: compiles the block at its first run.
    """

    def __init__(self, graph: ModulesBlock, compiler: Compiler) -> None:
        super().__init__(graph.modules)
        self.call = compiler(_alone(self.modules))

    @override
    def run(self, h: Any) -> Any:
        with torch.enable_grad():
            self.y = self.call(h)
        return self.y.detach()


def _alone(modules: list[nn.Module]) -> Callable[[Any], Any]:
    """Return a function that runs the modules, with a code object of its own: torch caches few graphs per code object.

    It calls `forward`, not `__call__`: the only hooks of a chain's modules are the learner's cuts.
    """
    calls = [m.forward if type(m).__call__ is nn.Module.__call__ else m for m in modules]

    def block(h: Any) -> Any:
        for call in calls:
            h = call(h)
        return h

    block.__code__ = block.__code__.replace()
    return block
