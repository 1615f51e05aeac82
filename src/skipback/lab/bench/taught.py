"""A method's training step, by its ways: `learner.step`, and `loss.backward()` with an optimizer.

A method with a memory is measured as from the second epoch on, when every sample has been seen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipback as sb
from skipback.core.method import Direct, HeadOnly, Method
from skipback.lab import choices
from skipback.lab.bench.plain import LR, OPTIMIZERS
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.timing import Variant
from skipback.lab.losses import LOSSES
from skipback.learner import Learner
from skipback.step.compiled import Compiler

SAMPLES = 60_000


def steps(name: str) -> bool:
    """Whether `learner.step` has a way of its own for a method: block by block. Others run it by `backward`."""
    return isinstance(_method(name), Direct | HeadOnly)


def step(
    shape: Shape, name: str, optimizer: str, *, closed_form: bool = True, compile: bool | Compiler = False
) -> Variant:
    """`learner.step`."""
    net, (x, t) = shape.build(), shape.data()
    if not closed_form:
        without_closed_form(net)
    taught, ids, update = learner(net, name, x), torch.arange(len(x), device=x.device), OPTIMIZERS[optimizer][1]()
    return lambda: taught.step(x, t, loss=F.cross_entropy, update=update, ids=ids, compile=compile)


def backward(shape: Shape, name: str, optimizer: str) -> Variant:
    """`loss.backward()` and a fused optimizer."""
    net, (x, t) = shape.build(), shape.data()
    taught, ids = learner(net, name, x), torch.arange(len(x), device=x.device)
    plain = OPTIMIZERS[optimizer][0](taught.parameters(), lr=LR, fused=True)  # type: ignore[call-arg]

    def call() -> None:
        plain.zero_grad()
        F.cross_entropy(taught(x, target=t, ids=ids), t).backward()
        plain.step()

    return call


def _method(name: str) -> Method:
    return choices.method(
        name, as_published=False, feedback=None, signal=None, loss=LOSSES["ce"], samples=SAMPLES
    )  # fmt: skip


def learner(net: nn.Module, name: str, x: Tensor) -> Learner:
    """A network with a method attached, whose memory has seen every sample."""
    found = sb.attach(net, _method(name), example=x[:2], show=None)  # a whole batch would leave holes in the heap
    if found.memory is not None:
        found.memory.seen.fill_(True)
        found.memory.all_seen = True
        found.memory.input_checks_left = 0
    return found


class _Linear(nn.Linear):
    """A linear layer of a type that has no closed form."""


def without_closed_form(net: nn.Module) -> None:
    """Make every block of a network one for autograd."""
    for module in net.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear
