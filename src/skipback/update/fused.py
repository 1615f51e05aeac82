"""Updates by torch's fused kernels, called directly: an optimizer object costs more than a small block's gradient."""

from __future__ import annotations

from operator import attrgetter, itemgetter

import torch
from torch import Tensor, nn

from skipback.update.base import MakeOptimizer, Parameters, Update
from skipback.update.optimizers import ParameterGroup, strided

_STATE = itemgetter("exp_avg", "exp_avg_sq", "step")
_LAYOUT, _STRIDED = attrgetter("layout"), {torch.strided}


class FusedAdam(Update):
    """Adam and AdamW by torch's fused kernel, which is what `fused=True` calls."""

    def _apply(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        kernel = group["fused"] and not group["amsgrad"] and self.blockwise  # `by_kernel` and `strided`, without a call
        if not kernel or set(map(_LAYOUT, gradients)) != _STRIDED:
            super()._apply(group, parameters, gradients)
            return
        moments, squares, steps = self.advanced(parameters)
        step = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        beta1, beta2 = group["betas"]
        step(
            parameters,
            gradients,
            moments,
            squares,
            [],
            steps,
            amsgrad=False,
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        self.optimizer._opt_called = True  # type: ignore[union-attr]  # `_called`, without the call

    def by_kernel(self, group: ParameterGroup) -> bool:
        """Whether the kernel is called in place of the optimizer."""
        return bool(group["fused"]) and not group["amsgrad"] and self.blockwise

    def advanced(self, parameters: Parameters | list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """First moments, second moments and step counts of these parameters; the counts, one step on."""
        held = self.optimizer.state  # type: ignore[union-attr]
        states = list(map(held.__getitem__, parameters))
        if not all(states):
            states = list(map(self.state, parameters))
        moments, squares, steps = map(list, zip(*map(_STATE, states), strict=True))
        torch._foreach_add_(steps, 1)
        return moments, squares, steps

    def state(self, p: Tensor) -> dict[str, Tensor]:
        """As `torch.optim` lays it out."""
        assert self.optimizer is not None
        state: dict[str, Tensor] = self.optimizer.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


class FusedSGD(Update):
    """Plain SGD by torch's fused kernel, or inside the product that makes the gradient; momentum by the optimizer."""

    def __init__(self, make: MakeOptimizer, *, inside: bool) -> None:
        super().__init__(make)
        self.fuses = inside

    def _apply(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if not strided(gradients):
            self._unfused(group, parameters, gradients)
            return
        if group["momentum"] or not group["fused"]:
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

    def _unfused(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """By torch's plain loop: its fused kernel takes no sparse gradients."""
        how = {"fused": group["fused"], "foreach": group["foreach"]}
        group.update(fused=False, foreach=False)
        try:
            super()._apply(group, parameters, gradients)
        finally:
            group.update(how)

    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        """See `Update`."""
        if not self.fuses or not self.blockwise:
            return None
        group = self.group(parameter)
        if group["momentum"] or group["weight_decay"] or group["maximize"]:
            return None
        self._called()
        return float(group["lr"])
