"""An F3 step written by hand: the kernels of a dense net with tanh and nothing else, the least that a step can take.

Used by mnist.py, and by bench.py, which first holds it against `learner.step`: the same weights, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipback.learner import Learner
from skipback.step.onednn import LEAST
from skipback.lab.bench.plain import LR

aten, ONE = torch.ops.aten, torch.ones(())
Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_hand(learner: Learner, optimizer: str, *, lr: float = LR, kernel: bool = False) -> Step:
    """Steps the network of a learner, with its feedback and its memory.

    Args:
        learner: F3 on a dense net with tanh. Its memory is read as it is: it must have seen every sample.
        optimizer: "adam" or "sgd".
        lr: its rate.
        kernel: large products by oneDNN's kernel, as `learner.step` does where the setting asks for it.

    Returns:
        step(x, t, ids), which returns the loss: x (N, ...), t (N,) classes, ids (N,) of the samples.
    """
    layers = [(m.weight, m.bias) for m in learner.net.modules() if isinstance(m, nn.Linear)]
    feedback, rows = list(learner.feedback.values()), learner.memory.rows
    learn = {"adam": _Adam, "sgd": _SGD}[optimizer](layers, lr, kernel)
    classes = rows.shape[1]

    @torch.no_grad()
    def step(x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        signal, h = rows.index_select(0, ids) * (1 / len(x)), x.flatten(1)
        for k, B in enumerate(feedback):
            W, b = layers[k]
            fused = kernel and _large(h, W)
            y = torch.ops.mkldnn._linear_pointwise(h, W, b, "tanh", [], "") if fused else F.linear(h, W, b).tanh_()
            g = signal @ B
            learn(k, aten.tanh_backward.grad_input(g, y, grad_input=g), h)
            h = y
        y = F.linear(h, *layers[-1])
        one_hot = torch.zeros(len(t), classes).scatter_(1, t.unsqueeze(1), 1.0)
        rows.index_copy_(0, ids, torch.softmax(y, 1) - one_hot)
        logs = torch.log_softmax(y, 1)
        loss, weight = aten.nll_loss_forward.default(logs, t, None, 1, -100)
        at_logs = aten.nll_loss_backward.default(ONE, logs, t, None, 1, -100, weight)
        learn(len(feedback), aten._log_softmax_backward_data.default(at_logs, logs, 1, y.dtype), h)
        return loss

    return step


def _large(h: Tensor, W: Tensor) -> bool:
    return len(h) * W.numel() >= LEAST


class _Adam:
    def __init__(self, layers: list[tuple[Tensor, Tensor]], lr: float, kernel: bool) -> None:
        self.layers, self.lr, self.kernel = layers, lr, kernel
        self.moments = [[torch.zeros_like(p) for p in layer] for layer in layers]
        self.squares = [[torch.zeros_like(p) for p in layer] for layer in layers]
        self.steps = [[torch.zeros(()) for _ in layer] for layer in layers]

    def __call__(self, k: int, delta: Tensor, h: Tensor) -> None:
        fused = self.kernel and _large(h, self.layers[k][0])
        dW = torch.ops.mkldnn._linear_pointwise(delta.t(), h.t(), None, "none", [], "") if fused else delta.t() @ h
        settings = {"lr": self.lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        torch._foreach_add_(self.steps[k], 1)
        of = self.layers[k], [dW, delta.sum(0)], self.moments[k], self.squares[k], [], self.steps[k]
        torch._fused_adam_(*of, amsgrad=False, maximize=False, **settings)


class _SGD:
    def __init__(self, layers: list[tuple[Tensor, Tensor]], lr: float, kernel: bool) -> None:
        assert not kernel, "it adds to nothing"
        self.layers, self.lr = layers, lr

    def __call__(self, k: int, delta: Tensor, h: Tensor) -> None:
        W, b = self.layers[k]
        W.addmm_(delta.t(), h, alpha=-self.lr)
        b.sub_(delta.sum(0), alpha=self.lr)
