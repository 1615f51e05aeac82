"""Gather: the weights, buffers and optimizer state of all blocks, from the ranks that train them to all."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipback.engine.stages.line import Line
from skipback.engine.step.chain import Chain
from skipback.engine.step.rules import Dense, Graph, Rule
from skipback.update import Update


def parameters_of(chain: Chain) -> list[list[nn.Parameter]]:
    """The parameters of each block, the head last."""
    return [[p for m in modules_of(rule) for p in m.parameters()] for rule in chain.rules]


def gather(chain: Chain, sizes: Sequence[int], update: Update | None, line: Line) -> None:
    """Overwrite what this rank does not train by what the others have.

    Args:
        chain: the blocks.
        sizes: how many of them each rank keeps.
        update: whose optimizer state is gathered too.
        line: the ranks.
    """
    rules, ends = chain.rules, list(itertools.accumulate(sizes))
    for owner, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        modules = [m for rule in rules[end - size : end] for m in modules_of(rule)]
        for module in modules:
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                overwrite(tensor, owner, line, tensor.device)
        if update is not None and update.optimizer is not None:
            parameters = [p for module in modules for p in module.parameters()]
            _state(update.optimizer, parameters, owner, line)


def modules_of(rule: Rule) -> list[nn.Module]:
    """The modules of a block."""
    if isinstance(rule, Dense):
        return [rule.linear, rule.module]
    assert isinstance(rule, Graph)
    return rule.modules


def overwrite(tensor: Tensor, owner: int, line: Line, device: torch.device) -> None:
    """Give a tensor the owner's values, where it lies here, in the memory format that it has; they go by `device`."""
    got = line.spread(tensor.detach().to(device).contiguous(), owner)
    if line.rank != owner:
        tensor.copy_(got)


def _state(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], owner: int, line: Line) -> None:
    """The state of these parameters: first its form, as it is there only once a parameter was stepped; then values."""
    if not parameters:
        return
    forms = _told([_form(optimizer.state.get(p, {})) for p in parameters], owner, line, parameters[0].device)
    for p, form in zip(parameters, forms, strict=True):
        if line.rank != owner and form:
            optimizer.state[p] = {key: _room(value, p) for key, value in form.items()}
        for key, value in form.items():
            if isinstance(value, _Form):
                overwrite(optimizer.state[p][key], owner, line, p.device)


def _told(forms: list[dict[str, Any]], owner: int, line: Line, device: torch.device) -> list[dict[str, Any]]:
    """What the owner has; torch's own `broadcast_object_list` does this through NumPy, which it does not install."""
    mine = torch.frombuffer(bytearray(pickle.dumps(forms)), dtype=torch.uint8).to(device)
    size = line.spread(torch.tensor(len(mine), device=device), owner)
    room = mine if line.rank == owner else torch.empty(int(size), dtype=torch.uint8, device=device)
    told: list[dict[str, Any]] = pickle.loads(bytes(line.spread(room, owner).tolist()))  # noqa: S301 - by our own ranks
    return told


class _Form:
    """Shape and dtype of a tensor, and whether it lies on the CPU, as torch's step counts may."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.host = tensor.shape, tensor.dtype, tensor.device.type == "cpu"


def _form(state: dict[str, Any]) -> dict[str, Any]:
    return {key: _Form(value) if isinstance(value, Tensor) else value for key, value in state.items()}


def _room(value: Any, p: nn.Parameter) -> Any:
    if not isinstance(value, _Form):
        return value
    device = torch.device("cpu") if value.host else p.device
    like = p.detach() if value.shape == p.shape else torch.empty(value.shape)  # moments have the format of the weight
    return torch.empty_like(like, dtype=value.dtype, device=device)
