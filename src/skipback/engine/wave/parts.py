"""Parts: a network as the wavefront runs it: a first block, a stack of equal layers, a head."""

from __future__ import annotations

from dataclasses import dataclass

from skipback.core.direct import DirectRoute
from skipback.learner import Learner
from skipback.step.fit import check
from skipback.step.rules import Dense, Rule
from skipback.update import Update, check_update


@dataclass(frozen=True)
class WaveParts:
    """The parts of a network that compute in one tick.

    Attributes:
        direct: feedback and memory.
        first: the first block; its outputs are as wide as the stack.
        stack: L dense layers of one width with one activation.
        blocks: names of the first block and of the layers of the stack.
        head: the rule of the last block.
    """

    direct: DirectRoute
    first: Rule
    stack: list[Dense]
    blocks: list[str]
    head: Rule


def parts(learner: Learner, update: Update, *, now: bool) -> WaveParts:
    """The parts of a learner's network.

    Args:
        learner: of the network.
        update: steps the weights.
        now: training begins now.

    Raises:
        TypeError: the update is none.
        ValueError: the signal is not early, or the network has another form, or is in eval mode.
        RuntimeError: several processes train, the method was taken off, or inside autocast or inference mode.
    """
    check_update(update)
    found = check("wavefront", learner, update, now=now).chain
    assert found is not None
    stack = [rule for _, rule in found.hidden[1:] if isinstance(rule, Dense)]
    return WaveParts(learner.direct, found.hidden[0][1], stack, [block for block, _ in found.hidden], found.head)
