"""Plain backprop as people run it: eager, checkpointed, accumulated, compiled."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.utils.checkpoint import checkpoint_sequential

import skipback as sb
from skipback.lab.bench.shapes import Shape
from skipback.lab.bench.timing import Variant
from skipback.lab.errors import LabError
from skipback.update import Update

LR = 1e-4
OPTIMIZERS: dict[str, tuple[type[Optimizer], Callable[[], Update]]] = {
    "adam": (Adam, lambda: sb.update.adam(lr=LR)),
    "sgd": (SGD, lambda: sb.update.sgd(lr=LR)),
}
"""The optimizer of a loop with `backward`, and the update of a step."""


def backprop(
    shape: Shape,
    optimizer: str,
    *,
    fused: bool | None = True,
    parts: int = 1,
    through: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda net: net,
) -> Variant:
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


def backprop_in_place(shape: Shape) -> Variant:
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


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """A network, or a block of one, by `torch.compile`, for this one shape of batch."""
    fast: Callable[..., Any] = torch.compile(run, dynamic=False)
    return fast


def check_compiler() -> None:
    """Compile a trifle, so that a machine without a C++ compiler says so before an hour of measuring.

    Raises:
        LabError: `torch.compile` does not work here.
    """
    try:
        torch.compile(lambda x: x.tanh() + 1, dynamic=False)(torch.zeros(8))
    except Exception as error:  # of many kinds: of dynamo, of inductor, of the compiler that it runs
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise LabError(f"--compile needs torch.compile, and that a C++ compiler; here it fails: {why}") from None


def no_compiling() -> contextlib.AbstractContextManager[object]:
    """Inside, a call that would compile once more fails: that must not be timed as a step."""
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("fail_on_recompile")
    return stance
