"""Scores over a whole split: fed batch by batch on the device, read once at the end.

A metric is not a mean of batch values (the last, smaller batch would weigh too much): counts are whole numbers, sums
are float64, and what needs all samples at once keeps them. Outputs are logits or scores y (N, C); targets t are class
indices (N,) or values (N, C), where one-hot values mean classes.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from skipback.signals import Link, identity


class Metric(Protocol):
    """A score that is accumulated."""

    def update(self, y: Tensor, t: Tensor, /) -> None:
        """Take the outputs and targets of one batch."""

    def value(self) -> float:
        """The score of all batches; NaN if there was none, or where the score is not defined."""


class Accuracy:
    """Percent of samples whose class is among the `k` largest outputs.

    A tie with the k-th output is resolved as torch's argmax (k = 1) or topk does.
    """

    def __init__(self, k: int = 1) -> None:
        self.k = k
        self.right: Tensor | int = 0
        self.samples = 0

    def update(self, y: Tensor, t: Tensor) -> None:
        """Take one batch."""
        labels = classes(t)
        best = y.argmax(1, keepdim=True) if self.k == 1 else y.topk(min(self.k, y.shape[1])).indices
        self.right = self.right + (best == labels[:, None]).sum()
        self.samples += len(y)

    def value(self) -> float:
        """100 right / samples."""
        return 100 * int(self.right) / self.samples if self.samples else math.nan


class F1:
    """F1 = 2 tp / (2 tp + fp + fn) of the class with the largest output.

    Not the F1 that F3 prints: its MultilabelF1 takes every class whose probability exceeds 0.5, so a sample may have
    none of them, or several.

    Args:
        macro: whether it is the mean over classes, those that are neither target nor prediction left out; else it is of
            the counts of all classes together, which for one class per sample is the accuracy.
    """

    def __init__(self, *, macro: bool = True) -> None:
        self.macro = macro
        self.counts: Tensor | None = None  # (C, C) samples of a class (row) that were taken for another (column)

    def update(self, y: Tensor, t: Tensor) -> None:
        """Take one batch."""
        C = y.shape[1]
        counts = torch.bincount(classes(t) * C + y.argmax(1), minlength=C * C).view(C, C)
        self.counts = counts if self.counts is None else self.counts + counts

    def value(self) -> float:
        """The score, 0 to 1."""
        if self.counts is None:
            return math.nan
        right, there, said = self.counts.diagonal().double(), self.counts.sum(1), self.counts.sum(0)
        if not self.macro:
            return float(2 * right.sum() / (there + said).sum())
        occurs = there + said > 0
        return float((2 * right[occurs] / (there + said)[occurs]).mean())


class Auroc:
    """Area under the ROC curve: the chance that a sample of the class scores above one that is not, a tie counts half.

    Of two columns or one, the second (the only one) scores the positive class 1; of more, the mean over one-vs-rest
    areas of the classes that have both kinds of samples. It keeps all outputs, as ranks need them.

    Args:
        link: from outputs to comparable scores: softmax for cross-entropy, where logits of different samples have no
            common zero. A link that acts on each output by itself (sigmoid) changes no rank, but for rounding.
    """

    def __init__(self, link: Link = identity) -> None:
        self.link = link
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, y: Tensor, t: Tensor) -> None:
        """Take one batch."""
        self.scores.append(self.link(y.detach()))
        self.labels.append(classes(t))

    def value(self) -> float:
        """The area, 0 to 1."""
        if not self.scores:
            return math.nan
        scores, labels = torch.cat(self.scores), torch.cat(self.labels)
        wanted = range(scores.shape[1]) if scores.shape[1] > 2 else (1,)
        areas = [area(scores[:, min(c, scores.shape[1] - 1)], labels == c) for c in wanted]
        defined = [a for a in areas if not math.isnan(a)]
        return sum(defined) / len(defined) if defined else math.nan


class Errors:
    """The mean over samples and targets of some function of prediction and target.

    The subclasses say which; predictions and targets are turned into the targets' own unit first.

    Args:
        std: of standardised targets; an error is multiplied with it.
        mean: of standardised targets.
    """

    def __init__(self, std: float = 1.0, mean: float = 0.0) -> None:
        self.std, self.mean = std, mean
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, y: Tensor, t: Tensor) -> None:
        """Take one batch.

        Raises:
            ValueError: outputs and targets differ in shape, where broadcasting would silently compare all with all.
        """
        if y.shape != t.shape:
            raise ValueError(f"outputs of shape {tuple(y.shape)} cannot be compared with targets {tuple(t.shape)}")
        y, t = (part.detach().double() * self.std + self.mean for part in (y, t))
        self.total = self.total + self.of(y, t).sum()
        self.count += t.numel()

    def of(self, y: Tensor, t: Tensor) -> Tensor:
        """The error of each element, in float64."""
        raise NotImplementedError

    def value(self) -> float:
        """The mean."""
        return float(self.total) / self.count if self.count else math.nan


class MeanSquaredError(Errors):
    """MSE: the mean of (y - t)^2."""

    def of(self, y: Tensor, t: Tensor) -> Tensor:
        """Squares."""
        return (y - t).square()


class MeanAbsoluteError(Errors):
    """MAE: the mean of |y - t|."""

    def of(self, y: Tensor, t: Tensor) -> Tensor:
        """Absolute values."""
        return (y - t).abs()


class MeanAbsolutePercentageError(Errors):
    """MAPE: the mean of 100 |y - t| / |t|, in percent.

    Of targets in their own unit. F3 reports it of standardised ones, which lie around zero, where it says nothing: the
    two are not to be compared.
    """

    def of(self, y: Tensor, t: Tensor) -> Tensor:
        """Relative to the target, at least the smallest step of float64 at 1, as in scikit-learn."""
        return 100 * (y - t).abs() / t.abs().clamp_min(torch.finfo(torch.float64).eps)


class Perplexity:
    """exp of the mean negative log-likelihood per target, of logits y (..., C) and class indices t (...)."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, y: Tensor, t: Tensor) -> None:
        """Take one batch; one-hot targets are taken as classes."""
        labels = t.argmax(-1) if t.is_floating_point() else t
        losses = F.cross_entropy(y.detach().flatten(0, -2), labels.flatten(), reduction="none")
        self.total = self.total + losses.double().sum()
        self.count += labels.numel()

    def value(self) -> float:
        """At least 1; the number of classes for a guess."""
        mean = float(self.total) / self.count if self.count else math.nan
        return math.exp(mean) if mean < 700 else mean * math.inf  # float64 ends at exp(709)


def classes(t: Tensor) -> Tensor:
    """Class indices (N,) of targets: as they are, or the place of the largest of one-hot values (N, C)."""
    return t.argmax(1) if t.is_floating_point() else t


def area(scores: Tensor, positive: Tensor) -> float:
    """The area under the ROC curve of scores (N,) for samples that are positive (N,) or not.

    By Mann-Whitney: (sum of the positives' ranks - P (P + 1) / 2) / (P (N - P)), where equal scores share their mean
    rank. NaN without both kinds, or where a score is NaN.
    """
    P = int(positive.sum())
    if P in (0, len(scores)) or bool(scores.isnan().any()):
        return math.nan
    _, place, many = scores.unique(return_inverse=True, return_counts=True)
    last = many.cumsum(0)
    ranks = last.double() - (many - 1).double() / 2
    return float((ranks[place][positive].sum() - P * (P + 1) / 2) / (P * (len(scores) - P)))


def classification(outputs: int, link: Link = identity) -> dict[str, Metric]:
    """All scores of a classifier, by the names that they have in records."""
    top = {"top5_accuracy_percent": Accuracy(5)} if outputs > 5 else {}
    f1 = {"f1_macro": F1(), "f1_micro": F1(macro=False)}
    return {"accuracy_percent": Accuracy(), **top, "auroc": Auroc(link), **f1}


def regression(std: float, mean: float | None) -> dict[str, Metric]:
    """All scores of a regression with targets standardised by `std` and `mean`, by the names that they have in records.

    MSE is that of the standardised targets; the percentage error is left out where `mean` is not known.
    """
    scores: dict[str, Metric] = {"mse": MeanSquaredError(), "mae_original_units": MeanAbsoluteError(std)}
    return scores if mean is None else {**scores, "mape_percent": MeanAbsolutePercentageError(std, mean)}
