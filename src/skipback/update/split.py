"""Several updates as one, each for some of the parameters: Muon for hidden matrices and AdamW for the rest, say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from skipback.update.base import NOT_HELD, Parameters, Update
from skipback.update.optimizers import ParameterGroup, check_sparse, hooked

Which = Iterable[nn.Parameter] | Callable[[str, nn.Parameter], bool]
"""Some parameters of a learner: themselves, or whether one is meant, from its name in `learner.named_parameters()`."""


def split(*parts: tuple[Update, Which] | Update) -> Update:
    """Several updates as one, each for some of the parameters.

        update = split((muon(), lambda name, p: name in hidden), adamw())

    Args:
        parts: an update and its parameters; one of them may come without, and gets all that no other one names.
    """
    return SplitUpdate([part if isinstance(part, tuple) else (part, None) for part in parts])


class SplitUpdate(Update):
    """See `split`.

    Attributes:
        optimizer: all of them as one (`Joined`), for schedulers and `state_dict`; `parts[k].optimizer` is each.
    """

    def __init__(self, parts: Sequence[tuple[Update, Which | None]]) -> None:
        super().__init__(lambda parameters: Joined([]))
        self._parts = tuple(update for update, _ in parts)
        self._which = [_chooser(which) for _, which in parts]
        self._owners: dict[int, Update] = {}
        if sum(choose is None for choose in self._which) > 1:
            raise ValueError("split() takes one update without parameters at most: it gets all that no other one names")

    @property
    def parts(self) -> Sequence[Update]:
        """The updates, in the order in which they were given."""
        return self._parts

    def bind(self, of: nn.Module | Iterable[nn.Parameter]) -> Optimizer:
        """See `Update`.

        Raises:
            ValueError: a parameter is named for two updates or for none, or an update got no parameter.
        """
        if self.optimizer is None:
            made = [part.bind(share) for part, share in zip(self.parts, self._shares(of), strict=True)]
            if isinstance(of, nn.Module):
                for one in made:
                    check_sparse(one, of)
            self.optimizer = Joined(made)
        for part in self.parts:
            part.bind(())
        self._collected, self.blockwise = {}, not hooked(self.optimizer)
        return self.optimizer

    def _shares(self, of: nn.Module | Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
        """The parameters of each update."""
        named = of.named_parameters() if isinstance(of, nn.Module) else ((f"number {k}", p) for k, p in enumerate(of))
        shares: list[list[nn.Parameter]] = [[] for _ in self.parts]
        for name, p in named:
            owners = [k for k, choose in enumerate(self._which) if choose is not None and choose(name, p)]
            owners = owners or [k for k, choose in enumerate(self._which) if choose is None]
            if len(owners) > 1 or (not owners and p.requires_grad):
                what = f"named for {len(owners)} of them" if owners else "named for none, and no update takes the rest"
                raise ValueError(f"split() gives each parameter to one update, but {name!r} is {what}")
            for k in owners:
                shares[k].append(p)
        if not all(shares):
            raise ValueError(f"update {shares.index([])} of split() has no parameter of this learner")
        return shares

    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """See `Update`."""
        if not self.blockwise:
            super().apply(parameters, gradients)
            return
        shares: dict[Update, tuple[list[nn.Parameter], list[Tensor | None]]] = {}
        for p, g in zip(parameters, gradients, strict=True):
            ps, gs = shares.setdefault(self.part_of(p), ([], []))
            ps.append(p)
            gs.append(g)
        for part, (ps, gs) in shares.items():
            part.apply(ps, gs)

    def finish(self) -> None:
        """See `Update`."""
        if not self.blockwise:
            super().finish()
            return
        for part in self.parts:
            part.finish()
        self._called()

    def group(self, parameter: Tensor) -> ParameterGroup:
        """See `Update`."""
        return self.part_of(parameter).group(parameter)

    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        """See `Update`."""
        return self.part_of(parameter).fusable_rate(parameter) if self.blockwise else None

    def part_of(self, parameter: Tensor) -> Update:
        """The update of a parameter.

        Raises:
            ValueError: none of them has it.
        """
        if id(parameter) not in self._owners:
            self._owners = {
                id(p): part
                for part in self.parts
                for group in (part.optimizer.param_groups if part.optimizer is not None else ())
                for p in group["params"]
            }
        if id(parameter) not in self._owners:
            raise ValueError(NOT_HELD)
        return self._owners[id(parameter)]

    def __getstate__(self) -> dict[str, Any]:
        """See `Update`. The parameters were chosen when the optimizers were built."""
        chosen = {"_which": [None] * len(self.parts), "make": Joined} if self.optimizer is not None else {}
        return {**super().__getstate__(), "_owners": {}, **chosen}


def _chooser(which: Which | None) -> Callable[[str, nn.Parameter], bool] | None:
    if which is None or callable(which):
        return which
    ids = {id(p) for p in which}
    return lambda name, p: id(p) in ids


class Joined(Optimizer):
    """Several optimizers where torch takes one: its groups are theirs, so that a scheduler changes them.

    Args:
        optimizers: of different parameters.
    """

    optimizers: list[Optimizer]

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        # not super().__init__, which wants groups of its own; this makes what hooks and schedulers need
        self.__setstate__({"optimizers": list(optimizers), "defaults": {}})

    @property
    def param_groups(self) -> list[ParameterGroup]:  # type: ignore[override]
        """Those of all optimizers."""
        return [group for one in self.optimizers for group in one.param_groups]

    @property
    def state(self) -> Mapping[Tensor, Any]:  # type: ignore[override]
        """That of all optimizers, to look at."""
        return MappingProxyType({p: state for one in self.optimizers for p, state in one.state.items()})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step all of them."""
        for one in self.optimizers:
            one.step()

    def add_param_group(self, param_group: ParameterGroup) -> None:
        """Refuse: only the user knows which of them is meant."""
        raise ValueError("several optimizers are joined here: call add_param_group of one of update.parts[k].optimizer")

    def state_dict(self) -> dict[str, Any]:
        """Those of all, in order."""
        return {"optimizers": [one.state_dict() for one in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load one into each."""
        for one, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            one.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers, "defaults": self.defaults}
