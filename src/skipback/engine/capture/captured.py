"""The public call."""

from __future__ import annotations

from torch import Tensor

from skipback.core.records import Loss, Watch
from skipback.engine.capture.checks import check_data
from skipback.engine.capture.recorder import CudaGraphs, Recorder
from skipback.engine.capture.steps import BatchTransform, Captured
from skipback.learner import Learner
from skipback.step.fit import check
from skipback.update import Update, check_update


def captured(
    learner: Learner,
    x: Tensor,
    t: Tensor,
    *,
    batch: int,
    loss: Loss,
    update: Update,
    transform: BatchTransform | None = None,
    watch: Watch | None = None,
    refuse: bool = True,
    recorder: Recorder | None = None,
) -> Captured:
    """Train by whole epochs on a data set that is on the device of the network.

        steps = skipback.captured(learner, x, t, batch=50, loss=F.cross_entropy, update=skipback.update.adam())
        mean = steps.epoch(torch.randperm(len(x)))

    On CUDA one step becomes a CUDA graph, and each full batch is one launch of it. On the CPU the same steps run one by
    one, by `learner.step`. Either way an epoch trains to the same numbers, and `learner.step` may be called in between.

    Args:
        learner: of any method on the CPU; on CUDA of those that `step.fit` says can be captured.
        x: the inputs of all samples (M, ...), on the device of the network.
        t: their targets (M, ...), likewise.
        batch: N, the samples of a full batch.
        loss: loss(output, target), as in `learner.step`.
        update: steps the weights; the same one at every epoch.
        transform: maps the rows of a batch to the network's input, e.g. from uint8; `None` passes the rows unchanged.
        watch: as in `learner.step`; it is recorded too, so it may only work on tensors that stay (`total.add_(..)`).
        refuse: raise if the step cannot be captured. `False` runs steps one by one, and `why` of the result says so.
        recorder: captures the step; `None` takes CUDA graphs on CUDA, and runs steps one by one elsewhere.

    Raises:
        TypeError: the update is none.
        ValueError: data, network and memory do not fit, or the step cannot be captured.
        RuntimeError: the method was taken off.
    """
    check_update(update)
    check("step", learner)
    check_data(learner, x, t, batch)
    if recorder is None and x.is_cuda:
        recorder = CudaGraphs(x.device)
    steps = Captured(
        learner,
        x,
        t,
        batch=batch,
        loss=loss,
        update=update,
        transform=transform,
        recorder=recorder,
        refuse=refuse,
        watch=watch,
    )
    steps.check()
    return steps
