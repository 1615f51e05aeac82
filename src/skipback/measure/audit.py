"""Audit: what does the update of each block depend on? Measured on the learner as it runs, not read from its method.

One base pass gives the update of every block (the gradients of its parameters). Then one thing is changed at a time,
and the updates are compared. For block l, "deeper" is every block that runs after it, with the head.

    exact             the same pass by plain backprop. The same update: it is exactly backprop's.
    weight transport  the deeper weights are perturbed at random, and the outputs of the network and of its modules with
                      weights are held at their old values, as are directional derivatives in forward mode: activations,
                      output, error and signal are as before, and only a gradient that is propagated back multiplies
                      other weights. Another update: it uses the deeper weights, beyond their effect on the output.
    update lock       the forward pass is as before, but the gradient through the block's port is zeroed. Another
                      update: it waits for the deeper blocks' backward pass.
    forward lock      the deeper weights are perturbed, nothing is held, and the gradient at the output is replaced by
                      noise. Another update: it waits for the output, i.e. for the deeper blocks' forward pass.
    target            other targets are passed to the method, not to the loss. Another update: it uses the target
                      beside the gradient of the loss.
    earlier visits    before the pass, the same batch is trained on once, with perturbed weights. Another update: the
                      method stores something of each visit.

"Another" means a relative difference above the square root of the dtype's rounding. Weights that several blocks share
are left out; `None` means that there is nothing to compare (both updates are zero, or no block is deeper).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipback.advice import SkipbackWarning
from skipback.blocks import Layout
from skipback.blocks.contexts import untouched
from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.aside import aside, gradients, layout_of, prepare, teach
from skipback.measure.interventions import exchanged, held, moved, recording, severed

Gradients = dict[str, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class BlockAudit:
    """The answers for one block; the module's docstring defines each.

    Attributes:
        block: its name; the head's is "head".
        update_norm: norm of the gradients of its parameters, all together.
        moves: whether this norm is not zero.
        exact: whether the update is exactly backprop's.
        weight_transport: whether it uses the weights of deeper blocks.
        update_lock: whether it waits for the backward pass of deeper blocks.
        forward_lock: whether it waits for the forward pass of deeper blocks.
        target: whether it uses the target beside the loss gradient.
        earlier_visits: whether it depends on an earlier visit of the same samples.
    """

    block: str
    update_norm: float
    moves: bool
    exact: bool | None
    weight_transport: bool | None
    update_lock: bool | None
    forward_lock: bool | None
    target: bool | None
    earlier_visits: bool | None


def audit(learner: Learner, x: Any, t: Tensor, loss: Loss, ids: Tensor | None = None) -> list[BlockAudit]:
    """Measure what the update of each block depends on, in training mode. Nothing changes.

    Takes about two passes per block. The head comes first (its gradient is exact by design), then the blocks from the
    output down, as backprop would reach them.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: the target.
        loss: loss(output, target).
        ids: for delayed signals.
    """
    with _training(learner), warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipbackWarning)  # of the targets that are swapped; training warns again
        inputs = prepare(learner, x, ids)
        probe = _Probe(learner, inputs, t, loss, ids)
        return [probe.block(k) for k in reversed(range(len(probe.layout.segments)))]


class _Probe:
    """The base pass, and the passes that are compared with it."""

    def __init__(self, learner: Learner, inputs: tuple[Any, ...], t: Tensor, loss: Loss, ids: Tensor | None) -> None:
        self.learner, self.net, self.batch = learner, learner.net, (inputs, t, loss, ids)
        self.layout = layout_of(learner, inputs)
        self.names = {p: name for name, p in self.net.named_parameters()}
        with recording(self.net) as self.recorded:
            self.base = self.update()
        self.exact = self.update(exact=True)
        self.swapped = self.update(given=_other(t, self.layout))
        self.visits = self.after_visit(()), self.after_visit(tuple(self.net.parameters()))

    def update(self, *, other: Loss | None = None, **how: Any) -> Gradients:
        """The gradients of one pass, by the batch's loss or another one."""
        inputs, t, loss, ids = self.batch
        return gradients(self.learner, inputs, t, other or loss, ids=ids, **how)

    def after_visit(self, parameters: tuple[nn.Parameter, ...]) -> Gradients:
        """The gradients of a pass after one visit, in which these parameters were perturbed."""
        inputs, t, loss, ids = self.batch
        with aside(self.learner):
            with untouched(self.net), moved(parameters):
                teach(self.learner, inputs, t, loss, ids, t)
            return self.update()

    def block(self, k: int) -> BlockAudit:
        """Measure segment k."""
        segment, own = self.layout.segments[k], _own(self.layout, k)
        norm = float(self.flat(self.base, list(segment.parameters)).norm())
        transported, waiting, late = self.without_deeper(k) if own and _deeper(self.layout, k) else (None, None, None)
        differs = self.differs(own, self.base, self.exact)
        return BlockAudit(
            block=segment.block,
            update_norm=norm,
            moves=norm > 0,
            exact=None if differs is None else not differs,
            weight_transport=self.differs(own, self.base, transported),
            update_lock=self.differs(own, self.base, waiting),
            forward_lock=self.differs(own, self.base, late),
            target=self.differs(own, self.base, self.swapped),
            earlier_visits=self.differs(own, *self.visits),
        )

    def without_deeper(self, k: int) -> tuple[Gradients, Gradients, Gradients]:
        """The updates with perturbed deeper weights, with a zeroed gradient from there, and with another output."""
        deeper = _deeper(self.layout, k)
        with moved(deeper), held(self.net, self.recorded):
            transported = self.update()
        with severed(self.net, self.layout, self.layout.segments[k].block):
            waiting = self.update()
        with moved(deeper):
            late = self.update(other=exchanged(self.batch[2]))
        return transported, waiting, late

    def flat(self, found: Gradients, parameters: list[nn.Parameter]) -> Tensor:
        """The gradients of some parameters as one vector, zeros where there is none."""
        parts = [(found[self.names[p]], p) for p in parameters]
        vectors = [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in parts]
        return torch.cat([v.detach().double() for v in vectors]) if vectors else torch.zeros(0)

    def differs(self, parameters: list[nn.Parameter], one: Gradients, other: Gradients | None) -> bool | None:
        """Whether two updates of these parameters differ; `None` where both are zero, or there is no other."""
        if other is None or not parameters:
            return None
        a, b = self.flat(one, parameters), self.flat(other, parameters)
        size = max(float(a.norm()), float(b.norm()))
        tolerance = max(torch.finfo(p.dtype).eps for p in parameters) ** 0.5
        return None if size == 0 else not float((a - b).norm()) <= tolerance * size  # NaN differs


def _own(layout: Layout, k: int) -> list[nn.Parameter]:
    """The trainable parameters that no other block shares."""
    others = {p for j, segment in enumerate(layout.segments) if j != k for p in segment.parameters}
    return [p for p in layout.segments[k].parameters if p.requires_grad and p not in others]


def _deeper(layout: Layout, k: int) -> list[nn.Parameter]:
    """The parameters of later blocks, without those that block k or an earlier one shares."""
    before = {p for segment in layout.segments[: k + 1] for p in segment.parameters}
    found = (p for segment in layout.segments[k + 1 :] for p in segment.parameters if p not in before)
    return list(dict.fromkeys(found))


def _other(t: Tensor, layout: Layout) -> Tensor:
    """Other targets of the same kind: the next class; a vector of values rolled by one; a single value plus 1."""
    if not t.is_floating_point():
        y = layout.segments[-1].shape  # (N, C), (N, T, C) for a sequence, or (N, C, H, W) for dense labels
        return (t + 1) % (y[1] if len(y) > 2 and y[2:] == tuple(t.shape[1:]) else y[-1])
    return t.roll(1, -1) if t.dim() > 1 and t.shape[-1] > 1 else t + 1


@contextlib.contextmanager
def _training(learner: Learner) -> Iterator[None]:
    modes = [(module, module.training) for module in learner.modules()]
    learner.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
