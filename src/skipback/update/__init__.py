"""Updates: how `learner.step` changes the weights, some of them at a time, as soon as their gradients are there.

An update is a `torch.optim` optimizer that is called block by block. Its state lies in that optimizer, in torch's own
layout: `update.optimizer` is what a scheduler takes, its `state_dict()` goes on in a loop with `backward`, and back.
Fused kernels are called directly where there are some, as an optimizer object costs more than a small block's gradient.
An optimizer that is not known to keep all of its state by parameter is called once, at the end of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn, optim
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from skipback.renamed import renamed
from skipback.update.base import MakeOptimizer, Parameters, Update, check_one_by_one, check_update
from skipback.update.fused import FusedAdam, FusedSGD
from skipback.update.optimizers import BLOCKWISE, ParameterGroup, hooked
from skipback.update.split import Joined, SplitUpdate, Which, split

__getattr__ = renamed(__name__, {"Group": "ParameterGroup", "Make": "MakeOptimizer"})

__all__ = [
    "BLOCKWISE",
    "FusedAdam",
    "FusedSGD",
    "Joined",
    "MakeOptimizer",
    "ParameterGroup",
    "Parameters",
    "SplitUpdate",
    "Update",
    "Which",
    "adam",
    "adamw",
    "check_one_by_one",
    "check_update",
    "hooked",
    "momentum",
    "muon",
    "rmsprop",
    "sgd",
    "split",
]


def adam(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Update:
    """Adam (Kingma and Ba 2015), as `torch.optim.Adam(fused=True)`."""
    return FusedAdam(partial(Adam, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True))


def adamw(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2
) -> Update:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as `torch.optim.AdamW(fused=True)`."""
    return FusedAdam(partial(AdamW, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True))


def sgd(lr: float = 1e-3, weight_decay: float = 0.0, *, inside: bool = True) -> Update:
    """Plain SGD, as `torch.optim.SGD(fused=True)`.

    Args:
        lr: the rate.
        weight_decay: L2.
        inside: step a dense layer inside the product that makes its gradient, W <- W - lr * (delta^T h), where there is
            no decay. That rounds once less: the weights differ from torch's in the last bit. `False` keeps its bits.
    """
    return FusedSGD(partial(SGD, lr=lr, weight_decay=weight_decay, fused=True), inside=inside)


def momentum(lr: float = 1e-3, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> Update:
    """SGD with momentum, as `torch.optim.SGD`."""
    return Update(partial(SGD, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay))


def muon(lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95) -> Update:
    """Muon (Jordan 2024), as `torch.optim.Muon`: for matrices (weights of dense layers) alone, so use `split`."""
    return Update(partial(_muon, lr=lr, weight_decay=weight_decay, momentum=momentum))


def _muon(parameters: Iterable[nn.Parameter], **settings: Any) -> Optimizer:
    held = list(parameters)
    if any(p.dim() != 2 for p in held):
        raise ValueError(
            "Muon steps matrices only, and some parameters are none: skipback.update.split((skipback.update.muon(), "
            "lambda name, p: p.dim() == 2), skipback.update.adamw())"
        )
    return optim.Muon(held, **settings)


def rmsprop(lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> Update:
    """RMSprop, as `torch.optim.RMSprop`."""
    return Update(partial(RMSprop, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay))
