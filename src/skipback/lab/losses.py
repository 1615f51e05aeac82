"""The losses: how a network's output becomes a prediction, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from skipback.lab.data import Task
from skipback.signals import Link, identity, sigmoid, softmax


@dataclass(frozen=True, kw_only=True)
class TaskLoss:
    """A mean loss on outputs, and what it stands on.

    Attributes:
        of_output: loss(output, target), the one that is trained: on logits where there is a link.
        link: from output to prediction.
        of_prediction: the same loss as a function of the prediction.
        one_hot: whether class indices become one-hot values.
    """

    of_output: Callable[[Tensor, Tensor], Tensor]
    link: Link
    of_prediction: Callable[[Tensor, Tensor], Tensor]
    one_hot: bool

    def targets(self, t: Tensor, outputs: int) -> Tensor:
        """The targets as this loss takes them."""
        if self.one_hot and not t.is_floating_point():
            return F.one_hot(t, outputs).to(torch.float32)
        return t


def _cross_entropy(p: Tensor, t: Tensor) -> Tensor:
    return -(t * p.clamp_min(1e-30).log()).sum(1).mean()


LOSSES = {
    "ce": TaskLoss(of_output=F.cross_entropy, link=softmax, of_prediction=_cross_entropy, one_hot=False),
    "bce": TaskLoss(
        of_output=F.binary_cross_entropy_with_logits, link=sigmoid, of_prediction=F.binary_cross_entropy, one_hot=True
    ),
    "mse": TaskLoss(of_output=F.mse_loss, link=identity, of_prediction=F.mse_loss, one_hot=True),
}


def task_of(loss: str, tasks: tuple[Task, ...]) -> Task:
    """The task that a loss asks of a data set: mse a regression where there is one, all else classes."""
    wanted = Task.REGRESSION if loss == "mse" else Task.CLASSIFICATION
    return wanted if wanted in tasks else tasks[0]
