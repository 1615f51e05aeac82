"""What must be known of an optimizer before it is called block by block."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

ParameterGroup = dict[str, Any]

BLOCKWISE = (
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adadelta, optim.Adagrad),
    *(optim.ASGD, optim.RMSprop, optim.Rprop, optim.Adafactor, optim.SparseAdam, optim.Muon),
)
"""Optimizers that keep all of their state by parameter, so that stepping them block by block is stepping them once. By
exact class: others (schedulefree, Prodigy, SOAP, a user's own) may count steps, or measure norms, by group."""


def hooked(optimizer: Optimizer | None) -> bool:
    """Whether somebody waits for the optimizer's own `step`, which a kernel in its place would not tell them of."""
    assert optimizer is not None
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def check_closure(optimizer: Optimizer) -> None:
    """Refuse an optimizer that runs the loss itself, several times in a step.

    Raises:
        ValueError: its `step` has to be given a closure.
    """
    takes = inspect.signature(optimizer.step).parameters.values()
    named = [one for one in takes if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if any(one.default is one.empty for one in named) or hasattr(optimizer, "first_step"):
        raise ValueError(needs_closure(optimizer))


def needs_closure(optimizer: Optimizer) -> str:
    """The refusal of an optimizer that runs the loss itself."""
    return (
        f"{name_of(optimizer)} computes the loss several times in one step (it takes a closure), and learner.step "
        "computes it once: train by loss.backward() in a closure, and optimizer.step(closure)"
    )


def name_of(optimizer: Optimizer | None) -> str:
    """The class of an optimizer."""
    return type(optimizer).__name__


def check_sparse(optimizer: Optimizer, module: nn.Module) -> None:
    """Refuse, before anything is changed, an optimizer that fails at the gradients that it will get.

    Raises:
        ValueError: an embedding with sparse=True meets an optimizer that takes none, or SparseAdam another weight.
    """
    sparse = {
        id(m.weight): f"{name}.weight" for name, m in module.named_modules() if getattr(m, "sparse", None) is True
    }
    for group in optimizer.param_groups:
        for p in [p for p in group["params"] if p.requires_grad]:
            if id(p) in sparse and not takes_sparse(optimizer, group):
                raise ValueError(no_sparse(optimizer, repr(sparse[id(p)])))
            if id(p) not in sparse and type(optimizer) is optim.SparseAdam:
                name = next((name for name, q in module.named_parameters() if q is p), "another")
                raise ValueError(
                    f"SparseAdam takes sparse gradients only, and that of {name!r} is dense: "
                    "skipback.update.split((Update(SparseAdam), [embedding.weight]), skipback.update.adam())"
                )


def takes_sparse(optimizer: Optimizer, group: ParameterGroup) -> bool:
    """Whether the optimizer can step by sparse gradients; torch's decay of weights cannot."""
    kind = type(optimizer)
    if kind is optim.SparseAdam or kind not in BLOCKWISE:  # of others nothing is known: they will say so themselves
        return True
    return kind in (SGD, optim.Adagrad) and not group["weight_decay"]


def no_sparse(optimizer: Optimizer, what: str) -> str:
    """The refusal of an optimizer that takes dense gradients only."""
    return (
        f"the gradient of {what} is sparse (sparse=True), which {name_of(optimizer)} with these settings does not "
        "take: use sparse=False, skipback.update.sgd() without weight decay, or SparseAdam for it alone by "
        "skipback.update.split"
    )


_LAYOUT, _STRIDED = attrgetter("layout"), {torch.strided}


def strided(gradients: Sequence[Tensor]) -> bool:
    """Whether none of the gradients is sparse."""
    return set(map(_LAYOUT, gradients)) == _STRIDED  # a comprehension takes longer
