"""Gather: each rank broadcasts the weights, buffers and optimizer state of the blocks that it trains."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipback.engine.stages.rank_pipeline import RankPipeline
from skipback.step.chain import Chain
from skipback.step.rules import Dense, ModulesBlock, Rule
from skipback.update import Update


def parameters_of(chain: Chain) -> list[list[nn.Parameter]]:
    """The parameters of each block, the head last."""
    return [[p for m in modules_of(rule) for p in m.parameters()] for rule in chain.rules]


def gather(chain: Chain, sizes: Sequence[int], update: Update | None, pipeline: RankPipeline) -> None:
    """Overwrite the tensors of blocks that other ranks train by the values of those ranks.

    Args:
        chain: the blocks.
        sizes: the number of consecutive blocks of each rank.
        update: its optimizer state is gathered too.
        pipeline: the ranks.
    """
    rules, ends = chain.rules, list(itertools.accumulate(sizes))
    for owner, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        modules = [m for rule in rules[end - size : end] for m in modules_of(rule)]
        for module in modules:
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                overwrite(tensor, owner, pipeline, tensor.device)
        if update is not None and update.optimizer is not None:
            parameters = [p for module in modules for p in module.parameters()]
            _state(update.optimizer, parameters, owner, pipeline)


def modules_of(rule: Rule) -> list[nn.Module]:
    """The modules of a block."""
    if isinstance(rule, Dense):
        return [rule.linear, rule.module]
    assert isinstance(rule, ModulesBlock)
    return rule.modules


def overwrite(tensor: Tensor, owner: int, pipeline: RankPipeline, device: torch.device) -> None:
    """Overwrite a tensor in place by the owner's values, sent through `device`; it keeps its own memory format."""
    got = pipeline.spread(tensor.detach().to(device).contiguous(), owner)
    if pipeline.rank != owner:
        tensor.copy_(got)


def _state(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], owner: int, pipeline: RankPipeline
) -> None:
    """The state of these parameters: first its form, as it is there only once a parameter was stepped; then values."""
    if not parameters:
        return
    forms = _told([_form(optimizer.state.get(p, {})) for p in parameters], owner, pipeline, parameters[0].device)
    for p, form in zip(parameters, forms, strict=True):
        if pipeline.rank != owner and form:
            optimizer.state[p] = {key: _room(value, p) for key, value in form.items()}
        for key, value in form.items():
            if isinstance(value, _Form):
                overwrite(optimizer.state[p][key], owner, pipeline, p.device)


def _told(
    forms: list[dict[str, Any]], owner: int, pipeline: RankPipeline, device: torch.device
) -> list[dict[str, Any]]:
    """What the owner has; torch's own `broadcast_object_list` does this through NumPy, which it does not install."""
    mine = torch.frombuffer(bytearray(pickle.dumps(forms)), dtype=torch.uint8).to(device)
    size = pipeline.spread(torch.tensor(len(mine), device=device), owner)
    room = mine if pipeline.rank == owner else torch.empty(int(size), dtype=torch.uint8, device=device)
    told: list[dict[str, Any]] = pickle.loads(bytes(pipeline.spread(room, owner).tolist()))  # noqa: S301 - by our own ranks
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
    # moments have the memory format of the weight
    like = p.detach() if value.shape == p.shape else torch.empty(value.shape)
    return torch.empty_like(like, dtype=value.dtype, device=device)
