"""Updates: how `learner.step` changes the weights, some of them at a time, as soon as their gradients are there.

An update is a `torch.optim` optimizer that is called block by block. Its state lies in that optimizer, in torch's own
layout: `update.optimizer` is what a scheduler takes, its `state_dict()` goes on in a loop with `backward`, and back.
Fused kernels are called directly where there are some, as an optimizer object costs more than a small block's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from typing_extensions import override

Parameters = Sequence[nn.Parameter]
Make = Callable[[Iterable[nn.Parameter]], Optimizer]
Group = dict[str, Any]


class Update:
    """Steps the parameters of one block at a time.

    Args:
        make: builds the optimizer from the parameters of the learner.

    Attributes:
        optimizer: `torch.optim`'s, once the first step has bound it.
    """

    def __init__(self, make: Make) -> None:
        self.make = make
        self.optimizer: Optimizer | None = None
        self._seen: tuple[list[Group] | None, int] = (None, 0)
        self._groups: dict[int, Group] = {}  # by id: a tensor takes long to hash
        self._held: list[int] = []

    def bind(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer, built from these parameters unless it was before."""
        if self.optimizer is None:
            self.optimizer = self.make(parameters)
        held = [len(group["params"]) for group in self.optimizer.param_groups]
        if held != self._held:  # somebody has taken a parameter out of a group
            self._held, self._seen = held, (None, 0)
        return self.optimizer

    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Step these parameters by these gradients; `None` leaves one alone, as in torch. To be called without grad.

        Raises:
            ValueError: the optimizer does not hold one of them.
        """
        assert self.optimizer is not None
        by_group: dict[int, tuple[Group, list[Tensor], list[Tensor]]] = {}
        for p, g in zip(parameters, gradients, strict=True):
            if g is not None:
                group = self.group(p)
                _, ps, gs = by_group.setdefault(id(group), (group, [], []))
                ps.append(p)
                gs.append(_laid_out(g, p))
        for group, ps, gs in by_group.values():
            self._apply(group, ps, gs)

    def group(self, parameter: Tensor) -> Group:
        """The optimizer's group of a parameter, as it is now: loading a state makes new ones."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        if groups is not self._seen[0] or len(groups) != self._seen[1] or id(parameter) not in self._groups:
            self._seen = groups, len(groups)
            self._groups = {id(p): group for group in groups for p in group["params"]}
        group = self._groups.get(id(parameter))
        if group is None:
            raise ValueError(
                "this update holds the optimizer of other parameters: make an update for each learner, after adding "
                "parameters call update.optimizer.add_param_group, and of what is not to be trained say "
                "p.requires_grad_(False)"
            )
        return group

    def _apply(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """By the optimizer's own `step`, which sees these parameters only, and whose user's `.grad` is put back."""
        assert self.optimizer is not None
        kept = [p.grad for p in parameters]
        held = [one["params"] for one in self.optimizer.param_groups]
        for one in self.optimizer.param_groups:
            one["params"] = parameters if one is group else []
        try:
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            self.optimizer.step()
        finally:
            for one, params in zip(self.optimizer.param_groups, held, strict=True):
                one["params"] = params
            for p, before in zip(parameters, kept, strict=True):
                p.grad = before

    def _called(self) -> None:
        """Tell a scheduler, which looks whether the optimizer was called before it, that a kernel was in its place."""
        self.optimizer._opt_called = True  # type: ignore[union-attr]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: their parameters have other ids."""
        return {**vars(self), "_seen": (None, 0), "_groups": {}}

    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        """The rate of W <- W - rate * (a b), where that is all there is to a step: it fits inside the product."""
        return None


def hooked(optimizer: Optimizer | None) -> bool:
    """Whether somebody waits for the optimizer's own `step`, which a kernel in its place would not tell them of."""
    assert optimizer is not None
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _laid_out(g: Tensor, p: Tensor) -> Tensor:
    """The gradient with the strides of its parameter, as `.grad` has: fused kernels read one as the other lies."""
    if g.layout is not torch.strided or (g.dtype == p.dtype and g.stride() == p.stride()):
        return g
    return torch.empty_like(p, requires_grad=False).copy_(g)


def _strided(gradients: Sequence[Tensor]) -> bool:
    return all([g.layout is torch.strided for g in gradients])  # noqa: C419  # a generator takes longer than two looks


class FusedAdam(Update):
    """Adam and AdamW by torch's fused kernel, which is what `fused=True` calls."""

    def _apply(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if not self.by_kernel(group) or not _strided(gradients):
            super()._apply(group, parameters, gradients)
            return
        moments, squares, steps = self.lists(parameters)
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        beta1, beta2 = group["betas"]
        kernel(
            parameters,
            gradients,
            moments,
            squares,
            [],
            self.counted(steps),
            amsgrad=False,
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        self._called()

    def by_kernel(self, group: Group) -> bool:
        """Whether the kernel is called in place of the optimizer."""
        return bool(group["fused"]) and not group["amsgrad"] and not hooked(self.optimizer)

    def lists(self, parameters: Parameters | list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """First moments, second moments and counts of these parameters."""
        held = self.optimizer.state  # type: ignore[union-attr]
        states = [held[p] or self.state(p) for p in parameters]
        return [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [s["step"] for s in states]

    def counted(self, steps: list[Tensor]) -> list[Tensor]:
        """The counts of these parameters, one step on."""
        torch._foreach_add_(steps, 1)
        return steps

    def state(self, p: Tensor) -> dict[str, Tensor]:
        """As `torch.optim` lays it out."""
        assert self.optimizer is not None
        state: dict[str, Tensor] = self.optimizer.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


class _FusedSGD(Update):
    """Plain SGD by torch's fused kernel, or inside the product that makes the gradient; momentum by the optimizer."""

    def __init__(self, make: Make, *, inside: bool) -> None:
        super().__init__(make)
        self.inside = inside

    def _apply(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if group["momentum"] or not group["fused"] or not _strided(gradients) or hooked(self.optimizer):
            super()._apply(group, parameters, gradients)
            return
        torch._fused_sgd_(
            parameters,
            gradients,
            [],
            weight_decay=group["weight_decay"],
            momentum=0.0,
            lr=float(group["lr"]),
            dampening=0.0,
            nesterov=False,
            maximize=group["maximize"],
            is_first_step=False,
        )
        self._called()

    @override
    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        if not self.inside:
            return None
        group = self.group(parameter)
        if group["momentum"] or group["weight_decay"] or group["maximize"] or hooked(self.optimizer):
            return None
        self._called()
        return float(group["lr"])


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
    return _FusedSGD(partial(SGD, lr=lr, weight_decay=weight_decay, fused=True), inside=inside)


def momentum(lr: float = 1e-3, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> Update:
    """SGD with momentum, as `torch.optim.SGD`."""
    return Update(partial(SGD, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay))


def rmsprop(lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> Update:
    """RMSprop, as `torch.optim.RMSprop`."""
    return Update(partial(RMSprop, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay))
