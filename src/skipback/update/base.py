"""The update of one optimizer, which `learner.step` calls block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skipback.update.optimizers import (
    BLOCKWISE,
    ParameterGroup,
    check_closure,
    check_sparse,
    hooked,
    name_of,
    needs_closure,
    no_sparse,
    strided,
    takes_sparse,
)

Parameters = Sequence[nn.Parameter]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

NOT_HELD = (
    "this update holds the optimizer of other parameters: make an update for each learner, after adding parameters "
    "call update.optimizer.add_param_group, and of what is not to be trained say p.requires_grad_(False)"
)


_PARAMETERS = itemgetter("params")


class Update:
    """Steps the parameters of one block at a time.

    Laws that every update obeys, checked by `skipback.testing.check_update`: all `apply` calls of one step together,
    then `finish`, change the weights as one `optimizer.step()` does that finds the same gradients in `.grad`; a
    parameter whose gradient is `None` or does not come is left alone; and `.grad` is as it was before.

    Args:
        make: builds the optimizer from the parameters of the learner.
        by_parameter: the optimizer keeps all of its state by parameter, so that it may be called for some of them.
            `None`: as far as that is known of its class (`BLOCKWISE`). Say `True` of your own, such as Lion.

    Attributes:
        optimizer: `torch.optim`'s, once the first step has bound it.
        fuses: whether a step may be fused into a product (`fusable_rate`).
        blockwise: each block is stepped when its gradients come. Else they are collected and stepped by `finish`.
    """

    def __init__(self, make: MakeOptimizer, *, by_parameter: bool | None = None) -> None:
        self.make, self.by_parameter = make, by_parameter
        self.optimizer: Optimizer | None = None
        self.blockwise, self.fuses = True, False
        self._collected: dict[nn.Parameter, Tensor] = {}
        self._seen: tuple[list[ParameterGroup] | None, int] = (None, 0)
        self._groups: dict[int, ParameterGroup] = {}  # by id: a tensor takes long to hash
        self._held: list[int] = []

    @property
    def parts(self) -> Sequence[Update]:
        """The updates that this one is made of, one for each optimizer."""
        return (self,)

    def bind(self, of: nn.Module | Iterable[nn.Parameter]) -> Optimizer:
        """Begin a step. Returns the optimizer, built unless it was before.

        Args:
            of: the learner, or its parameters.

        Raises:
            TypeError: `make` builds something else than an optimizer.
            ValueError: the optimizer needs a closure, or refuses sparse gradients that a module is known to have.
        """
        if self.optimizer is None:
            self.optimizer = self._made(of)
        held = list(map(len, map(_PARAMETERS, self.optimizer.param_groups)))
        if held != self._held:  # somebody has taken a parameter out of a group
            self._held, self._seen = held, (None, 0)
        known = type(self.optimizer) in BLOCKWISE if self.by_parameter is None else self.by_parameter
        self.blockwise = known and not hooked(self.optimizer)  # hooks are called once for each step
        if self._collected:
            self._collected = {}  # of a step that failed
        return self.optimizer

    def _made(self, of: nn.Module | Iterable[nn.Parameter]) -> Optimizer:
        made = self.make(of.parameters() if isinstance(of, nn.Module) else of)
        if not isinstance(made, Optimizer):
            raise TypeError(f"an update is made from a torch.optim.Optimizer, not from a {type(made).__name__}")
        check_closure(made)
        if isinstance(of, nn.Module):
            check_sparse(made, of)
        return made

    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Step these parameters by these gradients; `None` leaves one alone, as in torch. To be called without grad.

        Raises:
            ValueError: the optimizer does not hold one of them.
        """
        assert self.optimizer is not None
        by_group: dict[int, tuple[ParameterGroup, list[Tensor], list[Tensor]]] = {}
        known = self._groups if self.optimizer.param_groups is self._seen[0] else {}  # a call takes longer than a look
        for p, g in zip(parameters, gradients, strict=True):
            if g is not None:
                group = known.get(id(p)) or self.group(p)
                _, ps, gs = by_group.setdefault(id(group), (group, [], []))
                ps.append(p)
                strided = g.layout is torch.strided
                gs.append(g if strided and g.dtype == p.dtype and g.stride() == p.stride() else laid_out(g, p))
        for group, ps, gs in by_group.values():
            if self.blockwise:
                self._apply(group, ps, gs)
            else:
                self._collected.update(zip(ps, gs, strict=True))  # type: ignore[arg-type]  # the optimizer holds them

    def finish(self) -> None:
        """End a step: one `optimizer.step()` for all, where the blocks were not stepped by themselves."""
        if self.blockwise:
            return
        assert self.optimizer is not None
        collected, self._collected = self._collected, {}
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        before = [p.grad for p in held]
        try:
            for p in held:
                p.grad = collected.get(p)
            self.optimizer.step()
        except Exception as error:
            if "closure" in f"{type(error).__name__} {error}".lower():
                raise ValueError(needs_closure(self.optimizer)) from error
            raise
        finally:
            for p, grad in zip(held, before, strict=True):
                p.grad = grad

    def group(self, parameter: Tensor) -> ParameterGroup:
        """The optimizer's group of a parameter, as it is now: loading a state makes new ones."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        if groups is not self._seen[0] or len(groups) != self._seen[1] or id(parameter) not in self._groups:
            self._seen = groups, len(groups)
            self._groups = {id(p): group for group in groups for p in group["params"]}
        group = self._groups.get(id(parameter))
        if group is None:
            raise ValueError(NOT_HELD)
        return group

    def _apply(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """By the optimizer's own `step`, which sees these parameters only, and whose user's `.grad` is put back."""
        assert self.optimizer is not None
        if not strided(gradients) and not takes_sparse(self.optimizer, group):
            p = next(p for p, g in zip(parameters, gradients, strict=True) if g.layout is not torch.strided)
            raise ValueError(no_sparse(self.optimizer, f"a weight of shape {tuple(p.shape)}"))
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
        return {**vars(self), "_seen": (None, 0), "_groups": {}, "_collected": {}}

    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        """If the step is exactly W -= rate * (a @ b) (plain SGD), return `rate`, to fuse it into the product."""
        return None


def check_one_by_one(update: Update, what: str) -> None:
    """Refuse an update that does not step each parameter by itself.

    Args:
        update: which has begun a step.
        what: "a wavefront", or what else steps blocks at different times.

    Raises:
        ValueError: it collects the gradients of a step, or has several optimizers.
    """
    if len(update.parts) > 1 or not update.blockwise:
        why = (
            "has several optimizers"
            if len(update.parts) > 1
            else f"calls {name_of(update.optimizer)} once for each step"
        )
        raise ValueError(
            f"{what} steps each block by itself, but this update {why}: train by learner.step, or take an update such "
            "as skipback.update.adam()"
        )


def laid_out(g: Tensor, p: Tensor) -> Tensor:
    """The gradient with the strides of its parameter, as `.grad` has: fused kernels read one as the other lies."""
    if g.layout is not torch.strided or (g.dtype == p.dtype and g.stride() == p.stride()):
        return g
    return torch.empty_like(p, requires_grad=False).copy_(g)


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
