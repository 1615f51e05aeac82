"""Pre-alignment: initialise the weights so that backprop through them points where the fixed feedback does.

From the output down, for each layer y = W h whose input is a port, on one batch:

    G = the teaching at h (N, in),  D = dL/dy (N, out)
    W^T <- G^T pinv(D^T),  the least squares of D W = G;  then  W <- W / |W|  (Frobenius)

D is computed again for every layer, with the new weights of the layers above. Then dL/dh = D W points where the
teaching does. Under cross-entropy the rank of a dense W is C - 1, as errors sum to zero: such weights are small and
low-rank.

Paper: Launay, Poli, Krzakala, Principled Training of Neural Networks with Direct Feedback Alignment (2019), arXiv
1906.04554, and its code. Deviations: (1) convolutions are solved too, where its code leaves them out; (2) singular
values that are rounding count as 0; (3) layers that cannot be aligned are listed, not only logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from skipback.blocks.contexts import untouched
from skipback.core.records import Loss
from skipback.init.behind import SOLVED, form, observe, plan
from skipback.init.solve import convolution, dense
from skipback.learner import Learner
from skipback.measure.alignment import alignment
from skipback.measure.aside import prepare
from skipback.routes.transported import Convolution

ROUNDINGS = 100
"""Singular values of D below this many units of rounding, relative to the largest one, count as 0."""


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """One layer whose weights were set.

    Attributes:
        layer: its name, as in `net.named_modules()`.
        port: the block whose port stands before it.
        before: cosine of teaching and exact gradient at that port (see `alignment`), before any layer was set.
        after: the same cosine, after all layers were set.
        rank: of the new W as a matrix (out, rest).
    """

    layer: str
    port: str
    before: float
    after: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class Prealignment:
    """What `prealigned` did.

    Attributes:
        layers: those that were set, from the input up.
        skipped: by name, why the other modules with a weight matrix were left as they were.
    """

    layers: tuple[Aligned, ...]
    skipped: dict[str, str]


def prealigned(learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None) -> Prealignment:
    """Set the weights of every dense and convolution layer that stands directly behind a port. See the module.

    Only these weights change: no bias, buffer, feedback, memory, `.grad`, mode or random state.

    Args:
        learner: with a direct method whose feedback is fixed.
        x: one batch, or a tuple of inputs. Take more samples than there are outputs.
        t: the target.
        loss: loss(output, target).
        ids: for delayed signals.

    Raises:
        ValueError: the method has no fixed feedback at the ports, or its signal is a delayed one and `ids` is missing.
    """
    _check(learner)
    inputs = prepare(learner, x, ids)
    before = {one.port: one.cosine for one in alignment(learner, x, t, loss, ids=ids)}
    ports, skipped = plan(learner, inputs)
    for name in reversed(ports):
        why = _align(learner, name, inputs, t, loss, ids)
        if why:
            skipped[name] = why
    after = {one.port: one.cosine for one in alignment(learner, x, t, loss, ids=ids)}
    rank = {name: _rank(learner.net.get_submodule(name)) for name in ports if name not in skipped}
    layers = (
        Aligned(layer=name, port=ports[name], before=before[ports[name]], after=after[ports[name]], rank=r)
        for name, r in rank.items()
    )
    return Prealignment(layers=tuple(layers), skipped=skipped)


def _check(learner: Learner) -> None:
    paper = learner.method.paper
    name = type(learner.method).__name__ if paper is None else paper.key
    if learner.route is not None and learner.direct is None:
        raise ValueError(
            f"prealigned: this method ({name}, {type(learner.method).__name__}) has no feedback at its ports that "
            "weights could align with: attach a direct one, such as skipback.dfa()"
        )
    if learner.method.learns:
        raise ValueError(
            f"prealigned: the feedback of this method ({name}) learns, so there is nothing fixed to align with: "
            "attach one with fixed feedback, such as skipback.dfa()"
        )


def _align(learner: Learner, name: str, inputs: tuple[Any, ...], t: Tensor, loss: Loss, ids: Tensor | None) -> str:
    """Set the weights of one layer. Returns the reason if it cannot; empty if it did."""
    layer = learner.net.get_submodule(name)
    assert isinstance(layer, SOLVED)
    D, exact, G = _gradients_and_teaching(learner, name, inputs, t, loss, ids)
    if D is None or not D.any():
        return "no gradient reaches its output"
    if _differ(form(layer).to_input(D, G.shape, layer.weight.detach()), exact):
        return "what leaves the port goes other ways too, so this layer's weights alone do not make its gradient"
    if not (D.isfinite().all() and G.isfinite().all()):
        return "its gradient or the teaching at its port is not finite"
    W = _solve(layer, D.double(), G.double())
    if not W.any():
        return "no teaching reaches its port, or none that its weights could carry"
    with torch.no_grad():
        layer.weight.copy_(W / W.norm())
    return ""


def _gradients_and_teaching(
    learner: Learner, name: str, inputs: tuple[Any, ...], t: Tensor, loss: Loss, ids: Tensor | None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradient D at a layer's output, and gradient and teaching G at its input, with the weights of this moment."""
    teach = learner.teaching_probe(*inputs)
    with (
        untouched(learner.net),
        torch.enable_grad(),
    ):  # restored after each layer, so that all get the same dropout masks
        seen = observe(learner, [name], inputs)
        (call,), port = seen.calls[name], seen.port_before(name)
        assert call.entering is not None
        assert call.leaving is not None
        assert port is not None
        outputs = seen.outputs
        edges = [*map(get_gradient_edge, outputs.teaching), call.entering, call.leaving]
        *errors, exact, D = torch.autograd.grad(loss(outputs.taken, t), edges, allow_unused=True)
    e = outputs.joined([torch.zeros_like(y) if d is None else d for d, y in zip(errors, outputs.teaching, strict=True)])
    G = teach(learner.signal_inputs(e, outputs.y, t, ids), e.shape)[port]
    return D, exact, G.reshape(call.shape)


def _differ(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() > 1e-3 * b.norm())


def _solve(layer: nn.Module, D: Tensor, G: Tensor) -> Tensor:
    assert isinstance(layer, SOLVED)
    tolerance = ROUNDINGS * torch.finfo(layer.weight.dtype).eps
    kind = form(layer)
    if isinstance(kind, Convolution):
        return convolution(kind, D, G, layer.weight.shape[2:], tolerance)
    return dense(D, G, tolerance)


def _rank(layer: nn.Module) -> int:
    assert isinstance(layer, SOLVED)
    return int(torch.linalg.matrix_rank(layer.weight.detach().flatten(1).float()))  # float32 rounding is no direction
