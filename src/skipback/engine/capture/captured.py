"""The public call."""

from __future__ import annotations

from torch import Tensor

from skipback.engine.capture.checks import check_data
from skipback.engine.capture.recorder import CudaGraphs, Recorder
from skipback.engine.capture.steps import Captured, Transform
from skipback.engine.learner import Learner
from skipback.types import Loss
from skipback.update import Update


def captured(
    learner: Learner,
    x: Tensor,
    t: Tensor,
    *,
    batch: int,
    loss: Loss,
    update: Update,
    transform: Transform | None = None,
    refuse: bool = True,
    recorder: Recorder | None = None,
) -> Captured:
    """Train by whole epochs on a data set that lies where the network lies.

        steps = skipback.captured(learner, x, t, batch=50, loss=F.cross_entropy, update=skipback.update.adam())
        mean = steps.epoch(torch.randperm(len(x)))

    On CUDA one step becomes a CUDA graph, and each full batch is one launch of it. On the CPU the same steps run one by
    one, by `learner.step`. Either way an epoch is trained to the same numbers, and `learner.step` may take turns.

    Args:
        learner: of any method on the CPU; on CUDA see `reason`.
        x: the inputs of all samples (M, ...), on the device of the network.
        t: their targets (M, ...), likewise.
        batch: N, the samples of a full batch.
        loss: loss(output, target), as in `learner.step`.
        update: what changes the weights; the same one at every epoch.
        transform: maps the rows of a batch to what the network takes, e.g. from uint8; `None` leaves them as they are.
        refuse: what cannot be captured. `False` trains it one by one, and `why` of what is returned says why.
        recorder: what captures; `None` takes CUDA graphs on CUDA, and nothing elsewhere.

    Raises:
        ValueError: data, network and memory do not fit, or the step cannot be captured.
    """
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
    )
    steps.check()
    return steps
