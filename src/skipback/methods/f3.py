"""Feed-forward-only training (F3): each sample brings the error that it left at its last visit.

    teaching_l = M[ids] B_l / N          M[ids] <- link(y) - t after use

    M      memory (samples, C): one row per training sample, carried from epoch to epoch
    ids    position of each sample of the batch in the unshuffled training set
    link   softmax for cross-entropy, sigmoid for BCE, identity for MSE

The signal is known before the forward pass, as in DRTP, but it says how wrong the network was.

Paper: Flügel, Coquelin, Weiel, Debus, Streit, Götz, "Feed-Forward Optimization With Delayed Feedback for Neural Network
Training", ICONIP 2024, LNCS 15289, arXiv 2304.13372. Defaults: F3-Error, Kaiming-uniform feedback, as in its code.

Deviations of the library's convention from the published code:
1. Sign. Published errors are target minus output and are descended as they are; here output minus target, the sign of
   dL/dy. The same in distribution for a symmetric draw.
2. Batch scaling. Published errors are summed over the batch while the head's gradient is a mean, so hidden blocks see a
   gradient N C times larger. Adam hides that, SGD does not. Here the rows are divided by N.
3. First visit. Published memory starts at the target, so epoch 1 is DRTP and every one-signed draw collapses. Here it
   starts at the error of an output of zeros (1/C - t for softmax), which has both signs.
4. Loss rows. Published "delayed_loss" rows carry 1/(N C) of the batch in which they were stored, on a memory that
   starts at size 1: Adam then remembers the large first epoch for a long time. Here rows are per sample, on one scale.
5. Output. Published fully connected networks end in a sigmoid; here networks return logits, and `link` is the sigmoid.
   The softmax kinds as published are therefore of softmax(sigmoid(y)), nearly uniform whatever y. Under cross-entropy
   the published network (the code's transformer) returns logits too, and its softmax is that of the loss: with
   `link=softmax` they are of softmax(y), here as there.
6. Printed loss. Of a BCE, whose mean over batch and classes is trained, the code prints C times that; the lab prints
   what is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from skipback.core.feedback import Feedback, Fixed
from skipback.core.method import Direct, Paper
from skipback.core.records import Loss
from skipback.draws import KaimingUniform
from skipback.memory import Initial
from skipback.signals import (
    Delayed,
    Link,
    Masked,
    OutputError,
    OutputGradient,
    Scaled,
    Signal,
    Target,
    Zero,
    identity,
    minus_target,
    sigmoid,
    softmax,
    untrained,
)

PAPER = Paper(
    title="Feed-Forward Optimization With Delayed Feedback for Neural Network Training",
    authors="Katharina Flügel, Daniel Coquelin, Marie Weiel, Charlotte Debus, Achim Streit, Markus Götz",
    year=2024,
    venue="ICONIP 2024, LNCS 15289",
    url="https://arxiv.org/abs/2304.13372",
)


def f3(
    *, memory: int, link: Link = softmax, signal: Signal | None = None, feedback: Feedback = Fixed(KaimingUniform())
) -> Direct:
    """Feed-forward-only training with delayed errors. Pass target and ids along: `learner(x, target=t, ids=ids)`.

    Args:
        memory: number of training samples.
        link: from the network's output to the prediction: softmax for CE, sigmoid for BCE, identity for MSE.
        signal: another per-sample signal (see `signals`) instead of the delayed error.
        feedback: how the signal is projected to a port.
    """
    signal = signal or Delayed(memory, of=OutputError(link))
    return Direct(paper=PAPER, signal=Scaled(signal, mean=True), feedback=feedback)


def as_published(
    *, memory: int, link: Link = sigmoid, signal: Signal | None = None, feedback: Feedback = Fixed(KaimingUniform())
) -> Direct:
    """The published update: target minus output, summed over the batch, on a memory that starts at the target.

    Args:
        memory: number of training samples.
        link: from the network's output to the prediction: sigmoid for classes, identity for regression.
        signal: another per-sample signal (see `published_signals`) instead of the delayed error.
        feedback: how the signal is projected to a port.
    """
    signal = signal or Delayed(memory, of=OutputError(link), initial=minus_target)
    return Direct(paper=PAPER, signal=Scaled(signal, factor=-1.0), feedback=feedback)


def signals(*, memory: int, link: Link, loss: Loss) -> dict[str, Signal]:
    """The nine signals of the F3 code ("error information"), in the library's convention, by their published names.

    Gradients ("loss") are taken at the network's own output, per sample.

    Args:
        memory: number of training samples.
        link: from the network's output to the prediction.
        loss: loss(prediction, target), the mean loss of predictions (probabilities), as in the F3 code.
    """
    at_output = OutputGradient(_After(loss, link))
    softened = OutputGradient(_After(loss, softmax))
    return _nine(memory, untrained, OutputError(link), at_output, OutputError(softmax), softened)


def published_signals(*, memory: int, link: Link, loss: Loss) -> dict[str, Signal]:
    """The same nine as published: gradients at the published network's output, memory from the target on.

    That output is the prediction, link(y), and the softmax kinds take the softmax after the link. Under cross-entropy
    (`link=softmax`) it is y, the logits: the softmax kinds take softmax(y), never the softmax of a softmax, and the
    "loss" kinds are (softmax(y) - t) / N.

    Args:
        memory: number of training samples.
        link: from the network's output to the prediction.
        loss: loss(prediction, target), the mean loss of predictions (probabilities), as in the F3 code.
    """
    of_logits, soft_loss = link is softmax, _After(loss, softmax)
    output: Link = identity if of_logits else link
    softened = OutputGradient(soft_loss, output, per_sample=False)
    return _nine(
        memory,
        minus_target,
        OutputError(link),
        softened if of_logits else OutputGradient(loss, link, per_sample=False),
        OutputError(softmax if of_logits else _Chain(link, softmax)),
        softened,
    )


def _nine(
    memory: int,
    initial: Initial,
    error: OutputError,
    gradient: OutputGradient,
    soft_error: OutputError,
    soft_gradient: OutputGradient,
) -> dict[str, Signal]:
    def delayed(of: OutputError | OutputGradient) -> Delayed:
        return Delayed(memory, of=of, initial=initial)

    return {
        "delayed_error": delayed(error),
        "delayed_loss": delayed(gradient),
        "delayed_error_one_hot": Masked(delayed(error)),
        "delayed_loss_one_hot": Masked(delayed(gradient)),
        "delayed_error_softmax": delayed(soft_error),
        "delayed_loss_softmax": delayed(soft_gradient),
        "current_error": error,
        "one_hot_target": Scaled(Target(), factor=-1.0),
        "zeros": Zero(),
    }


@dataclass(frozen=True)
class _Chain:
    """then(first(y)). A record rather than a lambda, so that a method prints, compares and pickles."""

    first: Link
    then: Link

    def __call__(self, y: Tensor) -> Tensor:
        return self.then(self.first(y))


@dataclass(frozen=True)
class _After:
    """loss(link(z), t)."""

    loss: Loss
    link: Link

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.link(z), target)
