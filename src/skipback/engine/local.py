"""Local losses on the perturbed route: each port has a classifier, and learns from that classifier's loss alone.

    z_l = A_l h_l + a_l;  L_l = cross-entropy(z_l, t);  e_l = dL_l/dz_l
    teaching_l,n = sum_k c_{k,n} u_{l,k,n}      from the derivatives s_{k,n} = <e_{l,n}, A_l u_{l,k,n}>

The teaching of a port is known as soon as the port is, before the output. The graph is cut between blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from skipback.blocks import Layout, first_tensor, swap
from skipback.engine.perturbed import refuse_in_eval
from skipback.engine.ports import Ports
from skipback.engine.route import Route
from skipback.engine.star import Given, specs
from skipback.engine.stream import Stream, refuse_compiled, seeded
from skipback.estimate import Estimate
from skipback.method import Perturbed
from skipback.types import as_matrix, row_width


class Local(Route):
    """The route of local losses: holds the classifiers, and draws the directions of each step."""

    def __init__(self, method: Perturbed, net: nn.Module, layout: Layout, *, seed: int) -> None:
        super().__init__()
        self.estimate, self.cuts = method.estimate, layout.cuts
        self.stream = Stream(seed)
        self.ports: Ports | None = None
        ports, like, generator = specs(layout, net), next(net.parameters()), seeded("local classifiers", seed)
        self.blocks, self.classes = [port.name for port in ports], row_width(layout.segments[-1].shape)
        self.classifiers = nn.ModuleList(_linear(port.size, port.outputs, like, generator) for port in ports)

    @override
    def open(self, net: nn.Module, args: Any, kwargs: Any, given: Given) -> None:
        """Cut the network."""
        refuse_compiled()
        if not net.training:
            return
        if given.target is None:
            raise ValueError(
                "local losses are taken of the target: call learner(x, target=t), or the network inside "
                "`with learner.given(target=t):`"
            )
        self.ports = Ports(met=[])
        self.ports.install(net, self.cuts)

    @override
    def close(self, net: nn.Module, output: Any, given: Given) -> Any:
        """Connect the output, so that its backward teaches every port and classifier by the local gradients."""
        ports = self.ports
        self.leave()
        y = None if output is None else first_tensor(output)
        if y is None:
            return None
        if ports is not None:
            return swap(output, y, self._connect(y, ports.take(), given))
        if y.requires_grad:
            y.register_hook(refuse_in_eval)  # evaluation is free; training by it would silently be backprop
        return None

    @override
    def leave(self) -> None:
        """Remove the cuts of this pass."""
        if self.ports is not None:
            self.ports.remove()
        self.ports = None

    remove = leave

    def _connect(self, y: Tensor, met: list[tuple[str, Tensor, int]], given: Given) -> Tensor:
        assert given.target is not None
        generator = self.stream.next(y.device)
        taught: list[Tensor] = []
        gradients: list[Tensor] = []
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            for block, port, _ in met:
                classifier = self.classifiers[self.blocks.index(block)]
                assert isinstance(classifier, nn.Linear)
                e, h = _error(classifier, port, given, self.classes)
                taught += [port, classifier.weight, classifier.bias]
                gradients += [_teaching(self.estimate, e, classifier.weight, port, generator), e.T @ h, e.sum(0)]
        result: Tensor = ReadyGradients.apply(y, len(taught), *taught, *gradients)  # type: ignore[no-untyped-call]
        return result


class ReadyGradients(torch.autograd.Function):
    """Identity on the output whose backward returns gradients that were computed before."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, count: int, *rest: Tensor) -> Tensor:
        """Return y, and save the gradients: `rest` is `count` taught tensors, then a gradient for each."""
        ctx.save_for_backward(*rest[count:])
        ctx.dtypes = [tensor.dtype for tensor in rest[:count]]
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return dL/dy for y, and the saved gradient for each taught tensor."""
        sent = [g.to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return (*gradients, None, *sent, *[None] * len(sent))


def _linear(inputs: int, outputs: int, like: Tensor, generator: torch.Generator) -> nn.Linear:
    """Initialise a classifier from U(-1/sqrt(D), 1/sqrt(D)), torch's default, without the global random state."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=like.dtype)
    bound = inputs**-0.5
    for p in (layer.weight, layer.bias):
        nn.init.uniform_(p, -bound, bound, generator=generator)
    return layer.to(like.device)


def _error(classifier: nn.Linear, port: Tensor, given: Given, classes: int) -> tuple[Tensor, Tensor]:
    """The error (softmax(z) - t) / N, times the given scale (N, C), and the flat activity h (N, D)."""
    assert given.target is not None
    h = port.detach().reshape(-1, classifier.in_features).to(classifier.weight)
    z = classifier(h)
    rows = z.reshape(-1, classes)  # the positions of a sequence are samples, also where one port stands for all
    e = (rows.softmax(1) - as_matrix(given.target, rows)) / len(rows) * given.scale
    return e.reshape(z.shape), h


def _teaching(estimate: Estimate, e: Tensor, A: Tensor, port: Tensor, generator: torch.Generator) -> Tensor:
    """The estimate of dL_l/dh_l (N, *P)."""
    n, d = len(e), A.shape[1]
    u = torch.randn(estimate.tangents, n, d, generator=generator, dtype=A.dtype, device=A.device)
    s = torch.einsum("nc,knc->kn", e, u @ A.T)
    c = estimate.combine(s, [u])
    return torch.einsum("kn,knd->nd", c, u).reshape(port.shape)
