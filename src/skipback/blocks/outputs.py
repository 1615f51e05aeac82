"""Outputs: what a network returns, as the one tensor whose gradient teaches.

Several outputs are joined side by side, so that a port learns from the errors of all heads, and split again for the
user. A hidden block's own value that is returned (mu and log-variance of a VAE, an encoder's state) stays attached to
that block. A loss that the network took of its own prediction is attached to the joined output, so `loss.backward()`
teaches as if it had been taken outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from skipback.blocks.cuts import Layout
from skipback.blocks.passes import Met, behind
from skipback.blocks.rows import channel_dim, column_spans, joined_shape
from skipback.blocks.trees import is_scalar, map_tensors, named_outputs


class Outputs:
    """The outputs of one pass.

    Args:
        tree: what the network returned.
        layout: which outputs teach.
        met: the tensors at which the pass was cut.

    Raises:
        RuntimeError: none of the outputs that teach was returned.
    """

    def __init__(self, tree: Any, layout: Layout, met: Sequence[Met]) -> None:
        if type(tree) is Tensor:
            self.named = {"output": tree}
        else:
            self.named = named_outputs(tree)
        self.tree = tree
        self.teaching = [self.named[name] for name in layout.outputs if name in self.named]
        self.names = [name for name in layout.outputs if name in self.named]
        self.met = met
        if len(self.names) < len(layout.outputs):
            missing = [name for name in layout.outputs if name not in self.named]
            raise RuntimeError(
                f"the network returned {', '.join(map(repr, self.named)) or 'no tensor'}, and not "
                f"{', '.join(map(repr, missing))}, whose error teaches the blocks: attach again with an example for "
                "which it returns the same outputs as in training"
            )

    @property
    def y(self) -> Tensor:
        """The joined output."""
        return self.joined(self.teaching)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors of the shapes of the outputs, side by side."""
        if len(parts) == 1:
            return parts[0]
        shapes = [tuple(t.shape) for t in parts]
        joined = joined_shape(shapes)
        if any(shape[:1] != joined[:1] for shape in shapes):
            raise ValueError(
                f"the outputs {', '.join(map(repr, self.names))} have shapes {', '.join(map(str, shapes))}: the first "
                "dimension of all must be the batch, for their errors are sent side by side"
            )
        if len(joined) == 2:
            return torch.cat([t.reshape(len(t), -1) for t in parts], 1)
        return torch.cat(list(parts), channel_dim(shapes[0]))

    @property
    def taken(self) -> Any:
        """What a loss is taken of (see `lost_of`)."""
        return lost_of(self.tree)

    def error(self, value: Tensor, ports: Mapping[str, GradientEdge]) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of a loss at the joined output, and at each port of the same graph."""
        places = [*map(get_gradient_edge, self.teaching), *ports.values()]
        found = torch.autograd.grad(value, places, allow_unused=True, materialize_grads=True)
        count = len(self.teaching)
        return self.joined(found[:count]), dict(zip(ports, found[count:], strict=True))

    def connected(self, y: Tensor) -> Any:
        """What the network returned, with the joined output's gradient connected: y is that output, connected."""
        swaps = {id(t): part for t, part in zip(self.teaching, self._split(y), strict=True)}
        swaps |= {id(met.flow): met.tensor for met in self.met}
        losses = [t for t in self.named.values() if t.dim() == 0 and t.requires_grad]
        swaps |= {id(loss): self._of_output(loss, y) for loss in losses}
        return (
            swaps[id(self.tree)] if type(self.tree) is Tensor else map_tensors(self.tree, lambda t: swaps.get(id(t), t))
        )

    def _split(self, y: Tensor) -> list[Tensor]:
        shapes = [tuple(t.shape) for t in self.teaching]
        if len(shapes) == 1:
            return [y]
        spans = column_spans(shapes)
        if y.dim() == 2:
            parts = [y[:, a:b].reshape(shape) for (a, b), shape in zip(spans, shapes, strict=True)]
        else:
            parts = [y.narrow(channel_dim(shapes[0]), a, b - a) for a, b in spans]
        # a compiler makes a view of the output again from what the output is a view of, which has no gradient
        return [part.clone() for part in parts] if torch.compiler.is_compiling() else parts

    def _of_output(self, loss: Tensor, y: Tensor) -> Tensor:
        """A loss that was taken inside, attached to the connected output.

        Raises:
            RuntimeError: it is not a function of the outputs alone.
        """
        if torch.compiler.is_compiling():
            raise RuntimeError(COMPILED_LOSS)
        ends = {t.grad_fn: 0 for t in self.teaching if t.grad_fn is not None}
        found = behind([loss], ends)
        if found.parameters:
            raise RuntimeError(
                "the network returns a loss that depends on its parameters in other ways than through the outputs "
                f"{', '.join(map(repr, self.names))} (an auxiliary loss, a penalty): take the loss of the outputs "
                "outside of the network, and add the other term there"
            )
        grads = torch.autograd.grad(loss, self.teaching, retain_graph=True, allow_unused=True)
        if all(g is None for g in grads):  # a compiler's graph makes both at once
            raise RuntimeError(COMPILED_LOSS)
        parts = [torch.zeros_like(t) if g is None else g for g, t in zip(grads, self.teaching, strict=True)]
        e = self.joined(parts)
        result: Tensor = _LossOf.apply(loss.detach(), e, y)  # type: ignore[no-untyped-call]
        return result


COMPILED_LOSS = (
    "the network is compiled and takes its loss itself, whose gradient at its outputs is not known then: return the "
    "prediction alone, or run the network without compiling it"
)


class _LossOf(torch.autograd.Function):
    """A loss whose gradient at the joined output is known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, e: Tensor, y: Tensor) -> Tensor:
        """Pass the loss on, and save its gradient."""
        ctx.save_for_backward(e)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Send it to the output."""
        return None, None, gradients[0] * ctx.saved_tensors[0]


def joined_output(tree: Any, layout: Layout) -> Tensor:
    """The output that teaches: the tensor, or several joined."""
    return tree if type(tree) is Tensor else Outputs(tree, layout, ()).y


def lost_of(tree: Any) -> Any:
    """What a loss is taken of: the tensor, if the network returns one beside a loss; else all that it returns."""
    if type(tree) is Tensor:
        return tree
    floating = [t for t in named_outputs(tree).values() if not is_scalar(t)]
    return floating[0] if len(floating) == 1 else tree
