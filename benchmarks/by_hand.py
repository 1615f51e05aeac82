"""An F3 step written by hand: the kernels of a dense net with tanh and nothing else, the least that a step can take.

Used by bench.py, which first holds it against `learner.step`: the same weights, to the bit (SGD rounds once less).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipback.engine.learner import Learner
from skipback.lab.bench.plain import LR
from skipback.lab.bench.timing import Call

aten = torch.ops.aten


def by_hand(learner: Learner, x: Tensor, t: Tensor, ids: Tensor, optimizer: str) -> Call:
    """Steps the network of a learner, with its feedback and its memory.

    Args:
        learner: F3 on a dense net with tanh, whose memory has seen every sample.
        x: (N, ...).
        t: (N,) classes.
        ids: of the samples.
        optimizer: "adam" or "sgd".
    """
    layers = [(m.weight, m.bias) for m in learner.net.modules() if isinstance(m, nn.Linear)]
    feedback, rows = list(learner.feedback.values()), learner.memory.rows
    learn = {"adam": _Adam, "sgd": _SGD}[optimizer](layers)
    flat, classes, mean = x.flatten(1), rows.shape[1], 1 / len(x)

    @torch.no_grad()
    def step() -> Tensor:
        signal, h = rows.index_select(0, ids) * mean, flat
        for k, B in enumerate(feedback):
            y = F.linear(h, *layers[k]).tanh_()
            g = signal @ B
            learn(k, aten.tanh_backward.grad_input(g, y, grad_input=g), h)
            h = y
        y = F.linear(h, *layers[-1])
        one_hot = torch.zeros(len(t), classes).scatter_(1, t.unsqueeze(1), 1.0)
        rows.index_copy_(0, ids, torch.softmax(y, 1) - one_hot)
        logs = torch.log_softmax(y, 1)
        loss, weight = aten.nll_loss_forward.default(logs, t, None, 1, -100)
        at_logs = aten.nll_loss_backward.default(torch.ones_like(loss), logs, t, None, 1, -100, weight)
        learn(len(feedback), aten._log_softmax_backward_data.default(at_logs, logs, 1, y.dtype), h)
        return loss

    return step


class _Adam:
    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = layers
        self.moments = [[torch.zeros_like(p) for p in layer] for layer in layers]
        self.squares = [[torch.zeros_like(p) for p in layer] for layer in layers]
        self.steps = [[torch.zeros(()) for _ in layer] for layer in layers]

    def __call__(self, k: int, delta: Tensor, h: Tensor) -> None:
        settings = {"lr": LR, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        torch._foreach_add_(self.steps[k], 1)
        of = self.layers[k], [delta.t() @ h, delta.sum(0)], self.moments[k], self.squares[k], [], self.steps[k]
        torch._fused_adam_(*of, amsgrad=False, maximize=False, **settings)


class _SGD:
    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = layers

    def __call__(self, k: int, delta: Tensor, h: Tensor) -> None:
        W, b = self.layers[k]
        W.addmm_(delta.t(), h, alpha=-LR)
        b.sub_(delta.sum(0), alpha=LR)
