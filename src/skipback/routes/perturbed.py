"""The perturbed route: gradients from directional derivatives in random directions (forward gradients).

Before the network runs, forward mode computes the tangent of its output for each random direction; afterwards the
output is connected to the taught tensors. See `tangents` and `estimated` for the two halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from skipback.blocks import Cut, Met, Pass
from skipback.blocks.outputs import Outputs, joined_output
from skipback.core.method import Method
from skipback.core.records import BatchContext
from skipback.core.route import Call, CutRoute, Route, Site, ports_of
from skipback.estimate import Estimate, Space
from skipback.forward.tangents import tangent_pass
from skipback.routes.estimated import estimated
from skipback.streams import Stream, refuse_compiled


@dataclass(frozen=True, kw_only=True)
class Perturbed(Method):
    """No feedback; the gradient is estimated from directional derivatives in random directions.

    Attributes:
        estimate: what is perturbed, how often, and how the derivatives become a gradient.
    """

    estimate: Estimate

    @property
    @override
    def learns(self) -> str:
        return "the local classifiers learn" if self.estimate.local else ""


class PerturbedRoute(Route, runs=(Perturbed,)):
    """The parameters are perturbed: one direction for the whole batch. The training pass records no graph at all."""

    def __init__(self, method: Perturbed, site: Site) -> None:
        super().__init__(method, site)
        self.estimate, self.stream = method.estimate, Stream(site.seed)

    @classmethod
    @override
    def build(cls, method: Any, site: Site) -> Route:
        if method.estimate.local:
            from skipback.routes.local import LocalRoute  # which builds on this file

            return LocalRoute(method, site)
        return cls(method, site) if method.estimate.space is Space.WEIGHTS else ActivityRoute(method, site)

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        refuse_compiled()
        if not self.net.training:
            return refused(call(), self.layout)
        generator = self.stream.next(next(self.net.parameters()).device)
        reached = {p for segment in self.layout.segments for p in segment.parameters}
        taught = {name: p for name, p in self.net.named_parameters() if p in reached and p.requires_grad}
        count = self.estimate.tangents
        directions = [_normal(p.expand(count, *p.shape), generator) for p in taught.values()]
        along = [{n: v[k] for n, v in zip(taught, directions, strict=True)} for k in range(count)]
        tangents = [tangent_pass(self.net, self.layout, call.args, call.kwargs, None, vs) for vs in along]
        with torch.no_grad():
            output = call()
        torch.clear_autocast_cache()  # weights cast without a graph could be handed to a pass that needs one
        return connected(
            output,
            self,
            (),
            per_sample=False,
            tangents=torch.stack(tangents),
            taught=list(taught.values()),
            directions=directions,
        )


class ActivityRoute(CutRoute):
    """The activations at the ports are perturbed, each sample and unit by its own direction."""

    def __init__(self, method: Perturbed, site: Site) -> None:
        super().__init__(method, site)
        self.estimate, self.stream = method.estimate, Stream(site.seed)
        self.drawn: list[dict[str, list[Tensor]]] = []
        _check_batch_first(site)

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        refuse_compiled()
        if not self.net.training:
            return refused(self.cut(call)[0], self.layout)
        generator, found = self.stream.next(next(self.net.parameters()).device), []
        self.drawn = []

        def draw(cut: Cut, flowing: Tensor) -> Tensor:
            u = _normal(flowing, generator)
            self.drawn[-1].setdefault(cut.block, []).append(u)
            return u

        for _ in range(self.estimate.tangents):
            self.drawn.append({})
            found.append(tangent_pass(self.net, self.layout, call.args, call.kwargs, draw))
        output, run = self.cut(call)
        return self.connect(output, run, context, torch.stack(found))

    @override
    def connect(self, output: Any, run: Pass, context: BatchContext, tangents: Tensor | None = None) -> Any:
        met = ports_of(run, self.path(output, run))
        if not met:
            return output  # all but the head is frozen
        assert tangents is not None
        return connected(
            output,
            self,
            run.met,
            per_sample=True,
            tangents=tangents,
            taught=[one.tensor for _, one in met],
            directions=self._directions([(block, one.tensor) for block, one in met]),
        )

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


def _check_batch_first(site: Site) -> None:
    output = site.layout.segments[-1].shape
    for segment in site.layout.segments[:-1]:
        if len(output) == 0 or segment.shape[:1] != output[:1]:
            raise ValueError(
                f"port {segment.block!r} has shape {segment.shape} and the output {output}: the first dimension of "
                "both must be the batch. Name other blocks with blocks=[...]"
            )


def connected(output: Any, route: Any, met: tuple[Met, ...] | list[Met], **how: Any) -> Any:
    """The output, connected to what is taught by the estimate (see `estimated`)."""
    if type(output) is Tensor:
        return estimated(output, combine=route.estimate.combine, **how)
    outputs = Outputs(output, route.layout, met)
    return outputs.connected(estimated(outputs.y, combine=route.estimate.combine, **how))


def refused(output: Any, layout: Any) -> Any:
    """The output of an evaluation, which is free; training by it would silently be backprop."""
    y = joined_output(output, layout)
    if y.requires_grad:
        for t in (output,) if type(output) is Tensor else Outputs(output, layout, ()).teaching:
            t.register_hook(refuse_in_eval)
    return output


def refuse_in_eval(_: Tensor) -> None:
    """Hook of the output in eval mode: raise when `backward` is called."""
    raise RuntimeError(
        "this network is in eval mode, where nothing is perturbed and so nothing can be taught: call train() (and "
        "eval() on the layers that shall stay fixed), or use `with learner.exact():` for plain gradients"
    )
