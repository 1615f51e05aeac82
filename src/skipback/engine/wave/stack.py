"""The stack: L equal layers as one tensor of weights; all layers that have a minibatch compute at once.

    a_l = h_l W_l^T + b_l        y_l = f(a_l)        delta_l = (s_l B_l) * f'(a_l)        dW_l = delta_l^T h_l

    h, y, delta    (layers, N, D)    W (L, D, D)    b (L, D)    s, the signals (layers, N, C)    B (L, C, D)

Each line is one batched call. The layers that have a minibatch are always consecutive, so while a wave fills or drains
the calls take slices: a layer without a minibatch keeps its weights, moments and step count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from skipback.step.rules import Dense
from skipback.update import Parameters, Update


@dataclass(frozen=True)
class Slice:
    """Views of consecutive layers, cached because making them at each tick would take as long as a product.

    Attributes:
        W, b, B: weights, biases and feedback.
        weight_gradients, bias_gradients: buffers that each tick overwrites.
        parameters, gradients: the same tensors layer by layer, as an update takes them.
    """

    W: Tensor
    b: Tensor | None
    B: Tensor
    weight_gradients: Tensor
    bias_gradients: Tensor | None
    parameters: Parameters
    gradients: list[Tensor]


class LayerStack:
    """The layers, with their weights in one tensor inside `bound`.

    Args:
        layers: of one shape, with one activation.
        feedback: B (L, C, D).
    """

    def __init__(self, layers: Sequence[Dense], feedback: Tensor) -> None:
        self.feedback, self.activation = feedback, layers[0].activation
        self.weights = [layer.parameters[0] for layer in layers]
        self.biases = [p for layer in layers for p in layer.parameters[1:]]
        self.W = torch.stack([p.detach() for p in self.weights])
        self.b = torch.stack([p.detach() for p in self.biases]) if self.biases else None
        self.dW = torch.empty_like(self.W)
        self.db = None if self.b is None else torch.empty_like(self.b)
        self.slices: dict[tuple[int, int], Slice] = {}
        self.depth = len(layers)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Context in which each parameter is a view of the one tensor; afterwards it has memory of its own again."""
        views = [*self.W, *(() if self.b is None else self.b)]
        parameters = [*self.weights, *self.biases]
        own = [p.data for p in parameters]
        for p, view in zip(parameters, views, strict=True):
            p.data = view
        try:
            yield
        finally:
            for p, memory in zip(parameters, own, strict=True):
                p.data = memory.copy_(p.data)

    def work(self, low: int, h: Tensor, signals: Tensor, update: Update) -> Tensor:
        """Run, teach and update the layers low .. low + len(h) - 1. Returns their outputs, from before the update.

        Args:
            low: the first of these layers.
            h: the input of each (layers, N, D).
            signals: the signal of each layer's minibatch (layers, N, C).
            update: steps the weights.
        """
        key = low, low + h.shape[0]
        if key not in self.slices:
            self.slices[key] = self._slice(slice(*key))
        at = self.slices[key]
        a = h @ at.W.mT if at.b is None else torch.baddbmm(at.b.unsqueeze(1), h, at.W.mT)
        y = self.activation.f(a)
        saved = a if self.activation.needs_input else y
        delta = self.activation.backward_owned(torch.bmm(signals, at.B), saved)
        self._change(at, delta, h, update)
        return y

    def _slice(self, at: slice) -> Slice:
        b, db = (None, None) if self.b is None or self.db is None else (self.b[at], self.db[at])
        parameters = (*self.weights[at], *self.biases[at])
        gradients = [*self.dW[at], *(() if db is None else db)]
        return Slice(self.W[at], b, self.feedback[at], self.dW[at], db, parameters, gradients)

    def _change(self, at: Slice, delta: Tensor, h: Tensor, update: Update) -> None:
        rate = update.fusable_rate(self.weights[0])
        if rate is None:
            torch.bmm(delta.mT, h, out=at.weight_gradients)
            if at.bias_gradients is not None:
                torch.sum(delta, 1, out=at.bias_gradients)
            update.apply(at.parameters, at.gradients)
            return
        at.W.baddbmm_(delta.mT, h, alpha=-rate)
        if at.b is not None:
            at.b.sub_(delta.sum(1), alpha=rate)
