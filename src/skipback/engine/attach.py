"""Attach: the one verb that a user needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from skipback.engine.learner import Learner
from skipback.method import Direct, Exact, Layerwise, Method, Perturbed


def attach(
    net: nn.Module,
    method: Method,
    example: Any = None,
    blocks: Sequence[str] | str = "auto",
    *,
    seed: int = 0,
    show: Callable[[str], object] | None = print,
) -> Learner:
    """Train `net` by `method` from now on, with the training loop that you have.

    Args:
        net: any module. Its own parameters, `state_dict()` and outputs stay as they are.
        method: what to train it with, e.g. `skipback.dfa()`.
        example: an input (or a tuple of inputs). With it the blocks are found and the feedback is drawn at once, which
            `torch.compile` and `load_state_dict` need; without it, at the first forward pass.
        blocks: names of the modules whose output is taught, as in `net.named_modules()`, or "auto".
        seed: of the feedback. The same on all ranks, so feedback is too. torch's global generator is left alone.
        show: is called once with the table of blocks; `None` keeps quiet.

    Returns:
        The learner. Give `learner.parameters()` to the optimizer, and call `detach()` at the end.

    Raises:
        ValueError: the network already has a method attached, or a block cannot be found or taught.
    """
    hooks = net._forward_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), Learner) for hook in hooks):
        raise ValueError("this network already has a method attached: call detach() on its learner first")
    if isinstance(blocks, str) and blocks != "auto":
        raise ValueError(f'blocks must be "auto" or a list of module names, not {blocks!r}')
    names = None if blocks == "auto" else list(blocks)
    learner = Learner(net, method, blocks=names, seed=seed, show=show or _silent)
    try:
        _begin(learner, example)
    except BaseException:
        learner.detach()  # nobody else could: the caller has no learner
        raise
    return learner


def _begin(learner: Learner, example: Any) -> None:
    """Find the blocks if there is an example; else refuse what needs one."""
    inner = learner.method
    if example is None and isinstance(inner, Direct | Layerwise | Perturbed) and inner.learns:
        raise ValueError(
            f"{inner.learns}, so the optimizer must know: pass example=x, one batch of inputs, to attach()"
        )
    if example is not None and not isinstance(inner, Exact):
        learner.discover(*(example if isinstance(example, tuple) else (example,)))


def _silent(_: str) -> None:
    pass
