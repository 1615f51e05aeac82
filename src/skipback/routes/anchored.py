"""Anchors: plain backprop in every k-th training pass of any method. The count is in `state_dict()`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from skipback.core.method import Anchored
from skipback.core.outputs import joined_output
from skipback.core.records import BatchContext
from skipback.core.route import ROUTES, Call, Route, Site


class AnchoredRoute(Route, runs=(Anchored,)):
    """Passes k, 2k, 3k, ... are plain, the others run by the inner route.

    Attributes:
        inner: the route of the method between the anchors.
        every: k.
        paused: whether passes are measured only: neither counted nor plain.
    """

    passes: Tensor
    inner: Route

    def __init__(self, method: Anchored, site: Site) -> None:
        super().__init__(method, site)
        self.inner = ROUTES[type(method.method)].build(method.method, site)
        self.every, self.paused = method.every, False
        self.register_buffer("passes", torch.tensor(0))
        self.known: int | None = None  # the same number on the host: reading a buffer on a GPU would wait for it

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        if not self.net.training or self.paused or not self._due():
            return self.inner.run(call, context)
        before, self.gate.plain = self.gate.plain, True
        try:
            output = call()
        finally:
            self.gate.plain = before
        if self.inner.direct_route is not None:
            self.inner.direct_route.remember(joined_output(output, self.layout), context)
        return output

    def _due(self) -> bool:
        """Count one training pass. Returns whether it is anchored."""
        if torch.compiler.is_compiling():
            raise RuntimeError("an anchored method changes from pass to pass: compile the method without its anchor")
        self.known = self.count + 1
        self.passes += 1
        return self.known % self.every == 0

    @property
    def count(self) -> int:
        """Training passes so far."""
        return int(self.passes) if self.known is None else self.known

    @property
    @override
    def backprop_share(self) -> float:
        return (self.count // self.every) / self.count if self.count else 0.0

    @property
    @override
    def feedback(self) -> dict[str, Tensor]:
        return self.inner.feedback

    @property
    @override
    def taught(self) -> slice:
        return self.inner.taught

    @property
    @override
    def direct_route(self) -> Any:
        return self.inner.direct_route

    @override
    def describe(self, block: str) -> str:
        return self.inner.describe(block)

    @override
    def pause(self) -> None:
        self.paused = True

    @override
    def remove(self) -> None:
        self.inner.remove()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.known = None
        super()._load_from_state_dict(*args, **kwargs)
