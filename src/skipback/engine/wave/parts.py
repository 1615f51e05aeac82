"""FeedbackTensors: a network as the wavefront runs it: a first block, a stack of equal layers, a head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from skipback.core.direct import DirectRoute
from skipback.core.feedback import Fixed
from skipback.core.method import Direct
from skipback.distributed import world
from skipback.learner import Learner
from skipback.step.chain import chain
from skipback.step.checks import shared
from skipback.step.rules import Dense, Rule

UNFIT = (
    "a wavefront needs a signal that is known before the forward pass, sent through fixed matrices in every pass: "
    "drtp() and f3() have one, this method has not; use learner.step()"
)


@dataclass(frozen=True)
class WaveParts:
    """The parts of a network that compute in one tick.

    Attributes:
        star: feedback and memory.
        first: the first block; its outputs are as wide as the stack.
        stack: L dense layers of one width with one activation.
        blocks: names of the first block and of the layers of the stack.
        head: the rule of the last block.
    """

    star: DirectRoute
    first: Rule
    stack: list[Dense]
    blocks: list[str]
    head: Rule


def parts(learner: Learner) -> WaveParts:
    """The parts of a learner's network.

    Raises:
        ValueError: the signal is not early, or the network has another form.
        RuntimeError: several processes train.
    """
    star = _star(learner)
    assert learner.layout is not None
    found = None if shared(learner.layout) else chain(learner.net, learner.layout)
    stack = [] if found is None else [rule for _, rule in found.hidden[1:] if isinstance(rule, Dense)]
    ends = [] if found is None else [found.hidden[0][1], found.head] if found.hidden else []
    whole = found is not None and len(stack) == len(found.hidden) - 1 and all(isinstance(end, Dense) for end in ends)
    if not stack or not whole or not _alike(stack):
        raise ValueError(
            "a wavefront needs a plain nn.Sequential without other hooks: a first dense block, then dense layers of "
            "one width with one activation and, all or none, a bias, then a dense head, all trainable; train other "
            "networks by learner.step()"
        )
    assert found is not None
    return WaveParts(star, ends[0], stack, [block for block, _ in found.hidden], ends[1])


def _star(learner: Learner) -> DirectRoute:
    """Feedback and memory, if the method sends an early signal through fixed matrices."""
    if world() > 1:
        raise RuntimeError(f"a wavefront runs in one process, and {world()} train together: use learner.step()")
    if not isinstance(learner.method, Direct) or learner.anchor is not None:
        raise ValueError(UNFIT)
    if learner.direct is None:
        raise ValueError("the blocks are not known yet: pass example=... to attach()")
    if not learner.direct.needs.early or not isinstance(learner.direct.method.feedback, Fixed):
        raise ValueError(UNFIT)
    return learner.direct


def _alike(stack: list[Dense]) -> bool:
    """Whether all layers have one shape, one activation with one setting, and a bias all or none."""
    first = stack[0].linear
    square = first.in_features == first.out_features
    looks = {(rule.linear.weight.shape, rule.linear.bias is None, repr(rule.module)) for rule in stack}
    return square and len(looks) == 1


def check_cast(device: torch.device) -> None:
    """Refuse autocast, which chooses the precision of each call."""
    if torch.is_autocast_enabled(device.type):
        raise RuntimeError(
            "a wavefront runs in the precision of its weights: leave torch.autocast, or use learner.step()"
        )
