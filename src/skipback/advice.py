"""Advice: refuse what cannot work, warn of what is known to collapse, and say why.

Measured on the F3 code (reference: MNIST, depth 1): one-signed feedback columns with a signal that has one sign leave
10-25 % accuracy, since each unit is pushed the same way by every sample until it saturates.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from skipback.distributed import world

ONE_SIGNED = 0.75
"""Share of one-signed columns from which to warn. With two outputs half of the columns of any random draw are such."""


class SkipbackWarning(UserWarning):
    """Something that runs, and is known not to be what was meant."""


def advise(sentences: Iterable[str]) -> None:
    """Warn, each sentence once."""
    for sentence in dict.fromkeys(sentences):
        warnings.warn(sentence, SkipbackWarning, stacklevel=3)


def one_signed_columns(feedback: Mapping[str, Tensor]) -> Iterator[str]:
    """What to say of feedback matrices (C, *P), by block, that get a signal of one sign."""
    for block, B in feedback.items():
        one_signed = ~((B > 0).any(0) & (B < 0).any(0))
        share = one_signed.float().mean().item()
        if share > ONE_SIGNED:
            yield (
                f"{share:.0%} of the units of block {block!r} have feedback of one sign, and so has this signal: every "
                "sample pushes such a unit the same way until it saturates. Use a draw with both signs in each column "
                "(uniform, gaussian, ternary), or for a delayed signal another initial memory (untrained)"
            )


# ------------------------------------------------------------------------------------------ the first error


def advise_error(
    y: Tensor,
    e: Tensor,
    node: object,
    *,
    scale: float | Tensor,
    by_gradient: bool,
    sees_scale: bool,
    sums: bool = False,
) -> None:
    """Look at the first gradient that arrives at an output.

    A network that ends in log-softmax and a nll_loss send a gradient without a prediction in it; measured on the code
    of the 2016 paper, whose classes are trained so (reference: MNIST, 4 epochs): 8.2 % of errors instead of 6.3 %, and
    cosines that fall. And what multiplies a loss (accumulation, a GradScaler, a sum instead of a mean)
    is not seen by early signals and feedback that learns, unless `scale=` says it.

    Args:
        y: the output, detached.
        e: dL/dy.
        node: the autograd node of the output, as the network returned it.
        scale: what `scale=` says.
        by_gradient: the signal is made from the gradient.
        sees_scale: whether signal and feedback see in it what multiplies the loss.
        sums: the signal is a sum over the batch by itself (as published), and so may the loss be.
    """
    if by_gradient and "LogSoftmax" in type(node).__name__:
        if e.shape[-1] > 1 and bool(((e != 0).sum(-1) <= 1).all()):
            advise([TARGET_ONLY])
    elif not sees_scale:
        found, said = cross_entropy_scale(y, e), float(scale)
        fits = (said, said * len(e)) if sums else (said,)
        if found is not None and not any(0.95 < found / right < 1.05 for right in fits):
            advise([SCALE.format(found=found, said=said)])


TARGET_ONLY = (
    "the network ends in log-softmax, so the gradient of nll_loss at its output is -target / N, which is no error: "
    "hidden blocks get a target, as in drtp(). Return the logits, and take the loss by cross_entropy"
)
SCALE = (
    "the error at the output is about {found:.4g} times that of a mean cross-entropy, and scale= says {said:.4g}: what "
    "multiplies the loss (accumulation over k batches 1/k, a GradScaler its scale, a sum over the batch its size) is "
    "not seen by this method's signal or by feedback that learns; call learner(x, ..., scale={found:.4g})"
)


def cross_entropy_scale(y: Tensor, e: Tensor) -> float | None:
    """What a mean cross-entropy of the output y was multiplied with to give this gradient; `None` if it is none.

    Of s (softmax(y) - t) / N, every entry but that of the true class is s softmax(y) / N: they all tell s, and each row
    sums to 0, which rows of a binary cross-entropy do not.
    """
    if y.dim() != 2 or y.shape[1] < 2 or e.shape != y.shape or not y.is_floating_point():
        return None
    kept = e.any(1)
    wide, p = e[kept].double(), y[kept].double().softmax(1)
    told = wide > 0
    if len(wide) == 0 or bool((told.sum(1) != y.shape[1] - 1).any()):
        return None
    if bool((wide.sum(1).abs() > 0.02 * wide.abs().sum(1)).any()):
        return None
    ratio = wide[told] / p[told].clamp_min(1e-30) * len(wide)
    middle = float(ratio.median())
    agree = float(((ratio / middle - 1).abs() < 0.02).double().mean())
    return middle if agree > 0.9 else None


# ------------------------------------------------------------------------------------------------- refusals


INPUT_GRADIENT = (
    "an input of the network requires grad: under a method, its gradient is the teaching of the first block, not "
    "dL/dx, so attacks, saliency maps and penalties look other than they are; take them inside `with learner.exact():`"
)
TRANSFORMED = (
    "the network runs inside a transform of torch.func (grad, vmap, jacrev ...), which no method can be taught "
    "through: use `with learner.exact():` there for plain gradients, or detach() the method"
)


SECOND_ORDER = (
    "create_graph=True asks for the derivative of a teaching, which is no gradient of this loss, so a gradient penalty "
    "or a Hessian would be another one than written: take it inside `with learner.exact():`, or detach() the method"
)
WHOLE_CHECKPOINT = (
    "the whole network runs again in backward (activation checkpointing), which a delayed signal does not survive: "
    "checkpoint parts of the network, not the network itself"
)
TIME_FIRST = (
    "the output {shape} counts time in its first dimension and samples in its second, and a delayed signal stores one "
    "error for each sample: let the network return the batch first (y.transpose(0, 1))"
)
ONE_OUTPUT = (
    "the network returns {count} outputs that are taught ({names}), and this signal is made from the target of one: "
    "return one of them, detach() the others in the network's forward, or take the loss gradient, as dfa() does"
)
SHARED_HEAD = (
    "several outputs come from one head, and this feedback runs the network in forward mode, where their columns "
    "cannot be told apart: return one output, or take feedback without forward mode, as in dfa()"
)


class OptimizerWatch:
    """Notices an optimizer that steps the network, and not the feedback that has a gradient: that is warned of once."""

    def __init__(self) -> None:
        self.versions: tuple[int, int] | None = None  # what was changed when it was last looked at
        self.done = False

    def look(self, weights: Iterable[Tensor], feedback: Sequence[Tensor]) -> None:
        """Compare with the last look.

        Args:
            weights: of the network.
            feedback: the parameters of the method.
        """
        if self.done:
            return
        now = sum(p._version for p in weights), sum(p._version for p in feedback)
        before, self.versions = self.versions, now
        if before is None or now == before:
            return
        if now[1] != before[1]:
            self.done = True
        elif any(p.grad is not None for p in feedback):
            self.done = True
            advise([NOT_STEPPED])


NOT_STEPPED = (
    "the optimizer has changed the network's weights but not the feedback, which learns and has a gradient: give it "
    "learner.parameters() (they have the network's), or in a trainer optimizer.add_param_group("
    '{"params": list(learner.route.parameters())})'
)


def no_context(signal: str, by_ids: bool) -> str:
    """What to say where an early signal has nothing to be made from."""
    what = "target=t, ids=ids" if by_ids else "target=t"
    return (
        f"this signal ({signal}) is sent from what travels with the input: call "
        f"learner(x, {what}), or the network inside `with learner.given({what}):`"
    )


def refuse_untaught(_: Tensor) -> None:
    """Tell whoever calls backward that this forward pass had nothing to teach with."""
    raise RuntimeError(
        "this network is in eval mode and got no target, so its early signal is unknown and nothing can be taught: "
        "call train(), pass target= (and ids=), or use `with learner.exact():` for plain gradients"
    )


def check_ranks(learns: str) -> None:
    """Refuse to train what learns beside the network, if several processes do so and call the network alone.

    DDP averages the gradients of what it wraps. Feedback outside of it would go its own way on each rank, in silence.

    Args:
        learns: what learns, as a sentence; empty if nothing does.

    Raises:
        RuntimeError: it would differ across ranks.
    """
    if learns and world() > 1:
        raise RuntimeError(
            f"{learns}, and would differ across the {world()} ranks: wrap and call the learner, not the network, "
            "e.g. DistributedDataParallel(learner)"
        )
