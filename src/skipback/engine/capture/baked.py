"""Baked: all that a recording took from the host, so that it is made anew when one of these things has changed.

A recording holds addresses and numbers: where weights, feedback, memory and optimizer state lie, the learning rate, and
which way Python went through the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from skipback.engine.learner import Learner
from skipback.engine.step.chain import Signature


def baked(learner: Learner, optimizer: Optimizer) -> object:
    """What a recording of this learner's step would be of; two that are equal give the same recording."""
    memory = learner.memory
    return (
        Signature(learner.net).first,
        [module.training for module in learner.net.modules()],
        [_of(tensor) for tensor in _tensors(learner, optimizer)],
        [_settings(group) for group in optimizer.param_groups],
        None if memory is None else memory.all_seen,
        (learner.ports.plain, torch.are_deterministic_algorithms_enabled(), *_kernels()),
    )


def _kernels() -> tuple[str, str]:
    """What products and convolutions in float32 may round to: another setting takes other kernels."""
    backends = torch.backends
    return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]


def _tensors(learner: Learner, optimizer: Optimizer) -> Iterator[Tensor]:
    yield from learner.parameters()
    yield from learner.buffers()
    if learner.memory is not None:
        yield from learner.memory.tensors
    for state in optimizer.state.values():
        yield from _only(state.values())


def _only(values: Iterable[Any]) -> Iterator[Tensor]:
    yield from (value for value in values if isinstance(value, Tensor))


def _of(tensor: Tensor) -> tuple[object, ...]:
    """Where it lies, and how."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a group, and which parameters it has."""
    return {**group, "params": [id(p) for p in group["params"]]}
