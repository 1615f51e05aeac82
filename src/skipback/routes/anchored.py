"""Anchors: plain backprop in every k-th training pass of any method. The count is in `state_dict()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from skipback.blocks.outputs import joined_output
from skipback.core.method import Method
from skipback.core.records import BatchContext, Needs
from skipback.core.route import ROUTES, Call, Route, Site


@dataclass(frozen=True, kw_only=True)
class Anchored(Method):
    """Any method, with plain backprop in every k-th training pass: `learner.backprop_share` says how much that is.

    Attributes:
        method: of all other passes.
        every: k.
    """

    method: Method
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be 1 (nothing but backprop) or more, got {self.every}")
        if isinstance(self.method, Anchored):
            raise ValueError("an anchored method cannot be anchored again: give its `every` the value that you want")
        object.__setattr__(self, "paper", self.method.paper)

    @property
    @override
    def learns(self) -> str:
        return self.method.learns

    @property
    @override
    def needs(self) -> Needs:
        return self.method.needs

    @property
    @override
    def base(self) -> Method:
        return self.method


def anchored(method: Method, *, every: int) -> Anchored:
    """Plain backprop in every k-th training pass, e.g. once per epoch, and `method` in all others.

    It keeps feedback from drifting in deep networks (GrAPE, ICLR 2026, calls it calibration), and it *is* backprop: the
    share is counted and reported. Under DDP with feedback that learns, pass `find_unused_parameters=True`.

    Args:
        method: any method.
        every: k, in training passes.
    """
    return Anchored(method=method, every=every)


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
    def install(self) -> None:
        self.inner.install()

    @override
    def pause(self) -> None:
        self.paused = True

    @override
    def remove(self) -> None:
        self.inner.remove()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.known = None
        super()._load_from_state_dict(*args, **kwargs)
