"""What a task asks of a run: what the network is given, which outputs count, how they are scored, what a method heeds.

The trainer has one loop for all tasks; what differs between them is this table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from skipback.core.method import Method
from skipback.core.records import Needs
from skipback.lab.data import Task
from skipback.lab.data.nodes import labelled
from skipback.lab.data.pipeline import Feeds
from skipback.lab.data.pipeline_rows import Feed
from skipback.lab.errors import LabError
from skipback.lab.labelled import of_labelled
from skipback.lab.losses import LOSSES, TaskLoss
from skipback.lab.metrics import Accuracy, MeanAbsoluteError, Metric, classification, regression
from skipback.lab.nets import Takes

SelectRows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From outputs and targets of a batch to those rows (N, C) and their targets that a loss and a score take."""


def every_sample(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Every sample counts."""
    return y, t


def positions(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Every position of every sequence counts: (N, T, V) and (N, T) to (N T, V) and (N T,)."""
    return y.flatten(0, 1), t.flatten(0, 1)


def with_label(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The nodes that have a label count."""
    has = labelled(t)
    return y[has], t[has]


def _accuracy(data: Feeds) -> dict[str, Metric]:
    return {"accuracy_percent": Accuracy()}


def _absolute_error(data: Feeds) -> dict[str, Metric]:
    return {"mae_original_units": MeanAbsoluteError(data.target_std)}  # its mean cancels


def _all_of_classes(data: Feeds, loss: TaskLoss) -> dict[str, Metric]:
    return classification(data.outputs, loss.link)


def _all_of_values(data: Feeds, loss: TaskLoss) -> dict[str, Metric]:
    return regression(data.target_std, data.target_mean)


def _of_tokens(data: Feeds, loss: TaskLoss) -> dict[str, Metric]:
    top = {"top5_accuracy_percent": Accuracy(5)} if data.outputs > 5 else {}
    return {"accuracy_percent": Accuracy(), **top}  # no AUROC: it keeps V numbers of every token


def _squared_error(loss: float, data: Feeds) -> dict[str, float]:
    return {"mse": loss, "rmse_original_units": loss**0.5 * data.target_std}


def _surprise(loss: float, data: Feeds) -> dict[str, float]:
    """Of a loss in nats per token; a token of the texts here is a character, or a byte of one."""
    return {"bits_per_character": loss / math.log(2), "perplexity": math.exp(min(loss, 700.0))}  # e^710 is too large


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What one task asks.

    Attributes:
        given: what the data set gives to the network.
        losses: the names of those that fit.
        rows: which outputs and targets count.
        scores: what is asked of a split besides the loss, in every epoch.
        every: what is asked of the test split at the end.
        of_loss: what follows from the mean loss.
        method: the method as it must be here.
        counts: whether there are classes, whose errors are counted while a network trains.
        local: whether a block can have a classifier of its own samples.
    """

    given: Takes = Takes.NUMBERS
    losses: tuple[str, ...] = tuple(LOSSES)
    rows: SelectRows = every_sample
    scores: Callable[[Feeds], dict[str, Metric]] = _accuracy
    every: Callable[[Feeds, TaskLoss], dict[str, Metric]] = _all_of_classes
    of_loss: Callable[[float, Feeds], dict[str, float]] = lambda loss, data: {}
    method: Callable[[Method], Method] = lambda method: method
    counts: bool = True
    local: bool = True

    def terms(self, t: Tensor) -> int:
        """How many terms a mean loss of these targets averages: rows of classes, or values."""
        return self.rows(t, t)[1].numel()

    def loss(self, name: str) -> TaskLoss:
        """The loss of a name, on the outputs and targets of this task.

        Raises:
            LabError: it does not fit.
        """
        if name not in self.losses:
            raise LabError(f"--loss {name}: here a network is trained with {' or '.join(self.losses)}")
        plain, rows = LOSSES[name], self.rows
        if rows is every_sample:
            return plain
        return dataclasses.replace(plain, of_output=lambda y, t: plain.of_output(*rows(y, t)))

    def fit(self, name: str, method: Method, feed: Feed) -> Method:
        """The method as it must be here.

        Raises:
            LabError: it cannot teach this task, or not from these feeds.
        """
        _check_ids(name, method, feed)
        estimate = getattr(method.base, "estimate", None)
        if not self.local and estimate is not None and estimate.local:
            raise LabError(
                f"method {name!r} gives each block a classifier of whole samples, which the positions of a text and "
                "the nodes of a graph are not: choose another method"
            )
        return self.method(method)


def remembers(method: Method) -> bool:
    """Whether it stores an error per sample."""
    return Needs.IDS in method.needs


def _check_ids(name: str, method: Method, feed: Feed) -> None:
    """Refuse feeds that a memory cannot work with, before the first epoch rather than in it.

    Raises:
        LabError: the method stores an error per sample, and the samples have no ids, or change from visit to visit.
    """
    if not remembers(method):
        return
    if not feed.numbered:
        raise LabError(
            f"method {name!r} stores one error per sample, but this DataLoader does not tell which sample is which: "
            "use a data set that is indexed, or batches (x, t, ids) with each sample's position in the unshuffled set"
        )
    if feed.augmented:
        raise LabError(
            f"method {name!r} stores one error per sample, which augmentation makes stale: switch augmentation off, or "
            "take a method without a memory"
        )


RULES: dict[Task, Rules] = {
    Task.CLASSIFICATION: Rules(),
    Task.REGRESSION: Rules(scores=_absolute_error, every=_all_of_values, of_loss=_squared_error, counts=False),
    Task.LANGUAGE: Rules(
        given=Takes.TOKENS, losses=("ce",), rows=positions, every=_of_tokens, of_loss=_surprise, local=False
    ),
    Task.NODES: Rules(given=Takes.GRAPH, rows=with_label, method=of_labelled, local=False),
}
