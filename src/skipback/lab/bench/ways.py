"""The variants of one training step: plain backprop as people run it, and each method by its ways.

Each is a call without arguments, on a network of its own with the same weights and data. A method with a memory is
measured as from the second epoch on, when every sample has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.utils.checkpoint import checkpoint_sequential

import skipback as sb
from skipback import precision
from skipback.engine.learner import Learner
from skipback.lab import choices
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.timing import Call
from skipback.lab.losses import LOSSES
from skipback.update import Update

REFERENCE = "backprop"
SAMPLES = 60_000
LR = 1e-4
ACCUMULATED = 4
OPTIMIZERS: dict[str, tuple[type[Optimizer], Callable[[], Update]]] = {
    "adam": (Adam, lambda: sb.update.adam(lr=LR)),
    "sgd": (SGD, lambda: sb.update.sgd(lr=LR)),
}


def ways(
    shape: Shape, methods: Sequence[str], optimizer: str, *, compiled: bool = False
) -> dict[str, Callable[[], Call]]:
    """How to build each variant, by its name.

    Args:
        shape: network and data.
        methods: names of direct methods.
        optimizer: of `OPTIMIZERS`.
        compiled: also time `torch.compile` (minutes).
    """
    found: dict[str, Callable[[], Call]] = {
        REFERENCE: lambda: backprop(shape, optimizer),
        f"{REFERENCE}, default optimizer": lambda: backprop(shape, optimizer, fused=None),
        f"{REFERENCE}, checkpointed": lambda: backprop(shape, optimizer, through=checkpointed),
        f"{REFERENCE}, accumulated over {ACCUMULATED}": lambda: backprop(shape, optimizer, parts=ACCUMULATED),
    }
    if compiled:
        found[f"{REFERENCE}, compiled"] = lambda: backprop(shape, optimizer, through=torch.compile)
    for name in methods:
        found |= _of_method(shape, name, optimizer)
    if precision.exact():
        fast = {name: make for name, make in found.items() if name == REFERENCE or name.endswith("step")}
        found |= {f"{name}, oneDNN float32": partial(_fast, make) for name, make in fast.items()}
    return found


def _of_method(shape: Shape, name: str, optimizer: str) -> dict[str, Callable[[], Call]]:
    found = {
        f"{name} step": lambda: step(shape, name, optimizer),
        f"{name} backward": lambda: backward(shape, name, optimizer),
    }
    if shape.net == "mlp":  # elsewhere there is hardly a closed form to leave out
        found[f"{name} step, by autograd"] = lambda: step(shape, name, optimizer, closed_form=False)
    return found


def backprop(
    shape: Shape,
    optimizer: str,
    *,
    fused: bool | None = True,
    parts: int = 1,
    through: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda net: net,
) -> Call:
    """Plain PyTorch.

    Args:
        shape: network and data.
        optimizer: of `OPTIMIZERS`.
        fused: the fused kernel, or the default.
        parts: of a batch, whose gradients are accumulated.
        through: what runs the network.
    """
    net, (x, t) = shape.build(), shape.data()
    run, plain = through(net), OPTIMIZERS[optimizer][0](net.parameters(), lr=LR, fused=fused)  # type: ignore[call-arg]
    batches = list(zip(x.chunk(parts), t.chunk(parts), strict=True))

    def call() -> None:
        plain.zero_grad()
        for some, target in batches:
            loss = F.cross_entropy(run(some), target)
            (loss if parts == 1 else loss * (len(some) / len(x))).backward()
        plain.step()

    return call


def backprop_in_place(shape: Shape) -> Call:
    """Checkpointed, each gradient used (by SGD) and freed as soon as it is there: the least of plain PyTorch."""
    net, (x, t) = shape.build(), shape.data()
    run = checkpointed(net)

    def use(p: Tensor) -> None:
        assert p.grad is not None
        with torch.no_grad():
            p.sub_(p.grad, alpha=LR)
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(use)
    return lambda: F.cross_entropy(run(x), t).backward()


def checkpointed(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Keep about sqrt(depth) activations, and run the segments again in the backward pass."""
    assert isinstance(net, nn.Sequential)
    segments = max(1, round(math.sqrt(len(net))))
    return lambda x: checkpoint_sequential(net, segments, x, use_reentrant=False)


def step(shape: Shape, name: str, optimizer: str, *, closed_form: bool = True) -> Call:
    """`learner.step`."""
    net, (x, t) = shape.build(), shape.data()
    if not closed_form:
        without_closed_form(net)
    learner, ids, update = _learner(net, name, x), torch.arange(len(x), device=x.device), OPTIMIZERS[optimizer][1]()
    return lambda: learner.step(x, t, loss=F.cross_entropy, update=update, ids=ids)


def backward(shape: Shape, name: str, optimizer: str) -> Call:
    """`loss.backward()` and a fused optimizer."""
    net, (x, t) = shape.build(), shape.data()
    learner, ids = _learner(net, name, x), torch.arange(len(x), device=x.device)
    plain = OPTIMIZERS[optimizer][0](learner.parameters(), lr=LR, fused=True)  # type: ignore[call-arg]

    def call() -> None:
        plain.zero_grad()
        F.cross_entropy(learner(x, target=t, ids=ids), t).backward()
        plain.step()

    return call


def _learner(net: nn.Module, name: str, x: Tensor) -> Learner:
    method = choices.method(
        name, as_published=False, feedback=None, signal=None, loss=LOSSES["ce"], samples=SAMPLES
    )  # fmt: skip
    learner = sb.attach(net, method, example=x[:2], show=None)  # a whole batch would leave holes in the heap
    if learner.memory is not None:
        learner.memory.seen.fill_(True)
        learner.memory.complete = True
        learner.memory.checks_left = 0
    return learner


class _Linear(nn.Linear):
    """A linear layer of a type that has no closed form."""


def without_closed_form(net: nn.Module) -> None:
    """Make every block of a network one for autograd."""
    for module in net.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear


def _fast(make: Callable[[], Call]) -> Call:
    return through_onednn(make())


def through_onednn(call: Call) -> Call:
    """The same call by the float32 product that `skipback train` uses (`machine.fast_float32`)."""

    def fast() -> None:
        before = precision.product()
        precision.choose_product("bf16")
        try:
            call()
        finally:
            precision.choose_product(before)

    return fast
