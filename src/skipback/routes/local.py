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

from skipback.blocks import Met, Pass
from skipback.blocks.outputs import Outputs
from skipback.blocks.rows import joined_shape, row_width
from skipback.blocks.specs import specs
from skipback.core.records import BatchContext
from skipback.core.route import Call, CutRoute, Site, ports_of
from skipback.draws import seeded
from skipback.estimate import Estimate
from skipback.routes.perturbed import Perturbed, refused
from skipback.streams import Stream, refuse_compiled
from skipback.targets import as_matrix


class LocalRoute(CutRoute):
    """The route of local losses: holds the classifiers, and draws the directions of each step."""

    def __init__(self, method: Perturbed, site: Site) -> None:
        super().__init__(method, site)
        self.estimate, self.stream = method.estimate, Stream(site.seed)
        if len(site.layout.outputs) > 1:
            raise ValueError(
                f"the network returns {len(site.layout.outputs)} outputs that are taught, and local losses are taken "
                "of one target: return one of them, or detach() the others in the network's forward"
            )
        shape, like = joined_shape(list(site.layout.outputs.values())), next(site.net.parameters())
        ports = specs(site.net, site.layout, shape, shape, False, site.look)
        generator = seeded("local classifiers", site.seed)
        self.blocks, self.classes = [port.name for port in ports], row_width(shape)
        self.classifiers = nn.ModuleList(_linear(port.size, port.outputs, like, generator) for port in ports)

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        refuse_compiled()
        if not self.net.training:
            return refused(self.cut(call)[0], self.layout)
        if context.target is None:
            raise ValueError(
                "local losses are taken of the target: call learner(x, target=t), or the network inside "
                "`with learner.given(target=t):`"
            )
        return super().run(call, context)

    @override
    def connect(self, output: Any, run: Pass, context: BatchContext) -> Any:
        met = ports_of(run, self.path(output, run))
        if type(output) is Tensor:
            return self._connect(output, met, context)
        outputs = Outputs(output, self.layout, run.met)
        return outputs.connected(self._connect(outputs.y, met, context))

    def _connect(self, y: Tensor, met: list[tuple[str, Met]], given: BatchContext) -> Tensor:
        assert given.target is not None
        generator = self.stream.next(y.device)
        taught: list[Tensor] = []
        gradients: list[Tensor] = []
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            for block, one in met:
                port = one.tensor
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


def _error(classifier: nn.Linear, port: Tensor, given: BatchContext, classes: int) -> tuple[Tensor, Tensor]:
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
