"""Baked: the host-side state that a CUDA-graph recording depends on. When it changes, the step is recorded again.

A recording holds the addresses of weights, feedback, memory and optimizer state, numbers such as the learning rate, and
the branches that Python took in the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from skipback.learner import Learner
from skipback.step.chain import NetworkFingerprint


def baked(learner: Learner, optimizer: Optimizer) -> object:
    """The state that a recording of this learner's step depends on; equal states give equal recordings."""
    memory = learner.memory
    return (
        NetworkFingerprint(learner.net).recorded,
        [module.training for module in learner.net.modules()],
        [_of(tensor) for tensor in _tensors(learner, optimizer)],
        [_settings(group) for group in optimizer.param_groups],
        None if memory is None else memory.all_seen,
        (learner.gate.plain, torch.are_deterministic_algorithms_enabled(), *_kernels()),
    )


def _kernels() -> tuple[str, str]:
    """The precision settings of float32 products and convolutions: they select the kernels."""
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
    """Address, dtype, shape, strides and `requires_grad` of a tensor."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group, and the ids of its parameters."""
    return {**group, "params": [id(p) for p in group["params"]]}
