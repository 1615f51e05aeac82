"""A pass in a step: each port is handed over as soon as it is met, if the pass takes the way that found the blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from skipback.blocks import Layout, Pass, Place


class StepPass(Pass):
    """One forward pass inside `learner.step`.

    Args:
        net: the network.
        layout: its blocks, and the way through them.
        meet: called with each block and its port, attached.
    """

    def __init__(self, net: nn.Module, layout: Layout, meet: Callable[[str, Tensor], None]) -> None:
        super().__init__(net, ports=layout.ports, constants=layout.constants)
        self.layout, self.meet = layout, meet
        self.blocks = dict(zip(layout.sites, layout.first.blocks, strict=True))

    def cut(self, place: Place, tree: Any) -> Any:
        """Hand the ports over that pass a place."""
        called = len(self.calls)
        if called >= len(self.layout.calls) or self.layout.calls[called] != place.module:
            raise RuntimeError(ANOTHER_WAY.format(place.module))
        flow = super().cut(place, tree)
        found, self.met, self.tensors = self.met, [], []  # so that each is freed as soon as its block is taught
        for met in found:
            if (called + 1, met.position) not in self.blocks:
                raise RuntimeError(ANOTHER_WAY.format(place.module))
            block = self.blocks[called + 1, met.position]
            if block is not None:
                self.meet(block, met.tensor)
        return flow

    def close(self) -> None:
        """Refuse a pass that left a block out.

        Raises:
            RuntimeError: it did.
        """
        if len(self.calls) < len(self.layout.calls):
            raise RuntimeError(ANOTHER_WAY.format(self.layout.calls[len(self.calls)]))


ANOTHER_WAY = (
    "step() updates each block as soon as it is taught, in the order of the pass that found the blocks, and this pass "
    "took another way, at module {!r} (a layer that is skipped sometimes, or called more than once): train this "
    "network by loss.backward() and an optimizer"
)
