"""The perturbed route: gradients from directional derivatives in random directions (forward gradients).

Before the network runs, forward mode computes the tangent of its output for each random direction; afterwards the
output is connected to the taught tensors. See `tangents` and `estimated` for the two halves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from skipback.blocks import Cut, Layout, first_tensor, swap
from skipback.engine.estimated import estimated
from skipback.engine.ports import Ports
from skipback.engine.route import Route
from skipback.engine.star import Given
from skipback.engine.stream import Stream, refuse_compiled
from skipback.engine.tangents import tangent_pass
from skipback.estimate import Estimate, Space
from skipback.method import Perturbed


class Perturbation(Route):
    """The perturbed route: draws the directions of each step."""

    def __init__(self, method: Perturbed, net: nn.Module, layout: Layout, *, seed: int) -> None:
        super().__init__()
        self.estimate, self.layout = method.estimate, layout
        self.stream = Stream(seed)
        self.now: _Weights | _Activities | None = None
        if self.estimate.space is Space.ACTIVITIES:
            _check_batch_first(layout)

    @override
    def open(self, net: nn.Module, args: Any, kwargs: Any, given: Given) -> None:
        """Compute the output's tangents, and prepare the network for its training pass."""
        refuse_compiled()
        if not net.training:
            return
        generator = self.stream.next(next(net.parameters()).device)
        weights = self.estimate.space is Space.WEIGHTS
        now = (_Weights if weights else _Activities)(self.estimate, self.layout, generator)
        now.open(net, args, kwargs)
        self.now = now

    @override
    def close(self, net: nn.Module, output: Any, given: Given) -> Any:
        """Connect the output to the taught tensors."""
        now = self.now
        self.leave()
        y = None if output is None else first_tensor(output)
        if y is None:
            return None
        if now is not None:
            return swap(output, y, now.connect(y))
        if y.requires_grad:
            y.register_hook(refuse_in_eval)  # evaluation is free; training by it would silently be backprop
        return None

    @override
    def leave(self) -> None:
        """End the step, if one is open."""
        if self.now is not None:
            self.now.close()
        self.now = None

    remove = leave


@dataclass
class _Weights:
    """One step in which the parameters are perturbed: one direction for the whole batch."""

    estimate: Estimate
    layout: Layout
    generator: torch.Generator
    taught: list[Tensor] = field(default_factory=list)
    directions: list[Tensor] = field(default_factory=list)
    tangents: Tensor | None = None

    def open(self, net: nn.Module, args: Any, kwargs: Any) -> None:
        """Draw v_k for every parameter; one pass per direction. The training pass then records no graph at all."""
        reached = {p for segment in self.layout.segments for p in segment.parameters}
        taught = {name: p for name, p in net.named_parameters() if p in reached and p.requires_grad}
        self.taught, count = list(taught.values()), self.estimate.tangents
        self.directions = [_normal(p.expand(count, *p.shape), self.generator) for p in self.taught]
        along = [{n: v[k] for n, v in zip(taught, self.directions, strict=True)} for k in range(count)]
        self.tangents = torch.stack([tangent_pass(net, [], args, kwargs, _nothing, vs) for vs in along])
        torch.set_grad_enabled(False)

    def close(self) -> None:
        """Switch the recording of graphs on again, also after an error."""
        torch.set_grad_enabled(True)
        torch.clear_autocast_cache()  # weights cast without a graph could be handed to a pass that needs one

    def connect(self, y: Tensor) -> Tensor:
        """Return the output, connected to the parameters."""
        assert self.tangents is not None
        return estimated(
            y,
            combine=self.estimate.combine,
            per_sample=False,
            tangents=self.tangents,
            taught=self.taught,
            directions=self.directions,
        )


@dataclass
class _Activities:
    """One step in which the activations at the ports are perturbed, each sample and unit by its own direction."""

    estimate: Estimate
    layout: Layout
    generator: torch.Generator
    ports: Ports = field(default_factory=Ports)
    drawn: list[dict[str, list[Tensor]]] = field(default_factory=list)
    tangents: Tensor | None = None

    def open(self, net: nn.Module, args: Any, kwargs: Any) -> None:
        """One pass per direction; then cut the network for its training pass."""
        found = []
        for _ in range(self.estimate.tangents):
            self.drawn.append({})
            found.append(tangent_pass(net, self.layout.cuts, args, kwargs, self._draw))
        self.tangents = torch.stack(found)
        self.ports.install(net, self.layout.cuts)
        self.ports.met = []

    def close(self) -> None:
        """Remove the cuts, also after an error."""
        self.ports.remove()

    def connect(self, y: Tensor) -> Tensor:
        """Return the output, connected to the ports of the training pass."""
        assert self.tangents is not None
        met = [(block, port) for block, port, _ in self.ports.take()]
        if not met:
            return y  # all blocks but the head are frozen
        return estimated(
            y,
            combine=self.estimate.combine,
            per_sample=True,
            tangents=self.tangents,
            taught=[port for _, port in met],
            directions=self._directions(met),
        )

    def _draw(self, cut: Cut, flowing: Tensor) -> Tensor:
        u = _normal(flowing, self.generator)
        self.drawn[-1].setdefault(cut.block, []).append(u)
        return u

    def _directions(self, met: list[tuple[str, Tensor]]) -> list[Tensor]:
        """The directions (K, N, *P) of each port of the training pass, then those of perturbed tensors without one."""
        drawn = {block: list(map(torch.stack, zip(*self._calls(block), strict=True))) for block in self.drawn[0]}
        found = []
        for block, port in reversed(met):
            # from the end: calls without a port, as no tensor before them is trained, come first
            calls = drawn.get(block, [])
            if not calls or calls[-1].shape[1:] != port.shape:
                raise RuntimeError(
                    f"port {block!r} of shape {tuple(port.shape)} was not met in the forward-mode pass: the network "
                    "must take the same path twice for the same input and random state"
                )
            found.append(calls.pop())
        samples = len(met[0][1])
        return [*reversed(found), *(u for calls in drawn.values() for u in calls if u.shape[1] == samples)]

    def _calls(self, block: str) -> list[list[Tensor]]:
        """The noise of each call of one block, for each direction."""
        return [draws.get(block, []) for draws in self.drawn]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N(0, 1), of the shape of another tensor."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _nothing(cut: Cut, flowing: Tensor) -> Tensor:
    raise AssertionError("weights are perturbed without cuts")


def _check_batch_first(layout: Layout) -> None:
    output = layout.segments[-1].shape
    for segment in layout.segments[:-1]:
        if len(output) == 0 or segment.shape[:1] != output[:1]:
            raise ValueError(
                f"port {segment.block!r} has shape {segment.shape} and the output {output}: the first dimension of "
                "both must be the batch. Name other blocks with blocks=[...]"
            )


def refuse_in_eval(_: Tensor) -> None:
    """Hook of the output in eval mode: raise when `backward` is called."""
    raise RuntimeError(
        "this network is in eval mode, where nothing is perturbed and so nothing can be taught: call train() (and "
        "eval() on the layers that shall stay fixed), or use `with learner.exact():` for plain gradients"
    )
