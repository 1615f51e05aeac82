"""Updates: how `learner.step` updates the weights, block by block, as soon as their gradients are known.

An update is a `torch.optim` optimizer that is called block by block. The optimizer holds the state, in torch's own
layout: pass `update.optimizer` to a scheduler, and its `state_dict()` to a loop with `backward`, or back. Fused kernels
are called directly where torch has one, as calling an optimizer takes longer than computing a small block's gradient.
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

from skipback.renamed import renamed

__getattr__ = renamed(__name__, {"Group": "ParameterGroup", "Make": "MakeOptimizer"})

Parameters = Sequence[nn.Parameter]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
ParameterGroup = dict[str, Any]


class Update:
    """Steps the parameters of one block at a time.

    Args:
        make: makes the optimizer from the parameters of the learner.

    Attributes:
        optimizer: the `torch.optim` optimizer, once the first step has made it.
        fuses: whether a step may be fused into a product (`fusable_rate`).
    """

    def __init__(self, make: MakeOptimizer) -> None:
        self.make = make
        self.optimizer: Optimizer | None = None
        self._seen: tuple[list[ParameterGroup] | None, int] = (None, 0)
        self._groups: dict[int, ParameterGroup] = {}  # by id, as hashing a tensor is slow
        self._held: list[int] = []
        self.fuses = False

    def bind(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimizer; the first call makes it from these parameters."""
        if self.optimizer is None:
            self.optimizer = self.make(parameters)
        held = [len(group["params"]) for group in self.optimizer.param_groups]
        if held != self._held:  # a group has gained or lost a parameter
            self._held, self._seen = held, (None, 0)
        return self.optimizer

    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Step these parameters by these gradients; `None` leaves its parameter alone. Call it under no_grad.

        Raises:
            ValueError: the optimizer does not hold one of the parameters.
        """
        assert self.optimizer is not None
        by_group: dict[int, tuple[ParameterGroup, list[Tensor], list[Tensor]]] = {}
        for p, g in zip(parameters, gradients, strict=True):
            if g is not None:
                group = self.group(p)
                _, ps, gs = by_group.setdefault(id(group), (group, [], []))
                ps.append(p)
                gs.append(_laid_out(g, p))
        for group, ps, gs in by_group.values():
            self._apply(group, ps, gs)

    def group(self, parameter: Tensor) -> ParameterGroup:
        """The optimizer's current group of a parameter; loading a state replaces the groups."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        if groups is not self._seen[0] or len(groups) != self._seen[1] or id(parameter) not in self._groups:
            self._seen = groups, len(groups)
            self._groups = {id(p): group for group in groups for p in group["params"]}
        group = self._groups.get(id(parameter))
        if group is None:
            raise ValueError(
                "this update holds the optimizer of other parameters: make an update for each learner, after adding "
                "parameters call update.optimizer.add_param_group, and freeze a parameter that is not to be "
                "trained by p.requires_grad_(False)"
            )
        return group

    def _apply(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Call the optimizer's own `step` with these parameters only, and restore their `.grad` afterwards."""
        assert self.optimizer is not None
        saved = [p.grad for p in parameters]
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
            for p, before in zip(parameters, saved, strict=True):
                p.grad = before

    def _called(self) -> None:
        """Mark the optimizer as called, which a scheduler checks: the fused kernel ran in its place."""
        self.optimizer._opt_called = True  # type: ignore[union-attr]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, whose parameters have other ids."""
        return {**vars(self), "_seen": (None, 0), "_groups": {}}

    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        """If the step is exactly W -= rate * (a @ b) (plain SGD), return `rate`, to be fused into the matmul."""
        return None


def check_update(update: object) -> None:
    """Refuse an optimizer in the place of an update.

    Raises:
        TypeError: it is one, or something else.
    """
    if not isinstance(update, Update):
        raise TypeError(
            f"update must be one of skipback.update, such as skipback.update.adam(), not a {type(update).__name__}: of "
            "another optimizer of torch, skipback.update.Update(lambda ps: torch.optim.Adagrad(ps))"
        )


def hooked(optimizer: Optimizer | None) -> bool:
    """Whether the optimizer has step hooks, which a fused kernel in its place would not call."""
    assert optimizer is not None
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _laid_out(g: Tensor, p: Tensor) -> Tensor:
    """Return the gradient with the strides of its parameter, which fused kernels assume."""
    if g.layout is not torch.strided or (g.dtype == p.dtype and g.stride() == p.stride()):
        return g
    return torch.empty_like(p, requires_grad=False).copy_(g)


def _strided(gradients: Sequence[Tensor]) -> bool:
    return all([g.layout is torch.strided for g in gradients])  # noqa: C419  # a generator is slower than a list of two


class FusedAdam(Update):
    """Adam and AdamW by torch's fused kernel, the one that `fused=True` calls."""

    @override
    def _apply(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
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
            self.increment(steps),
            amsgrad=False,
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        self._called()

    def by_kernel(self, group: ParameterGroup) -> bool:
        """Whether the fused kernel replaces the optimizer's own `step`."""
        return bool(group["fused"]) and not group["amsgrad"] and not hooked(self.optimizer)

    def lists(self, parameters: Parameters | list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """First moments, second moments and step counts of these parameters."""
        held = self.optimizer.state  # type: ignore[union-attr]
        states = [held[p] or self.state(p) for p in parameters]
        return [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [s["step"] for s in states]

    def increment(self, steps: list[Tensor]) -> list[Tensor]:
        """Add 1 to these step counts, and return them."""
        torch._foreach_add_(steps, 1)
        return steps

    def state(self, p: Tensor) -> dict[str, Tensor]:
        """The state of a parameter, initialised as `torch.optim` does."""
        assert self.optimizer is not None
        state: dict[str, Tensor] = self.optimizer.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


class _FusedSGD(Update):
    """Plain SGD by torch's fused kernel, or fused into the product of the gradient; momentum by the optimizer."""

    def __init__(self, make: MakeOptimizer, *, inside: bool) -> None:
        super().__init__(make)
        self.fuses = inside

    @override
    def _apply(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
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
        if not self.fuses:
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
