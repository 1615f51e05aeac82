"""Attach: the one verb that a user needs; and the learner that it returns, a taught network that makes whole steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipback.core.learner import Forward
from skipback.core.method import Method
from skipback.core.records import BatchContext, Loss, Watch
from skipback.core.route import ROUTES, CutRoute
from skipback.observed import ObservedNetwork
from skipback.precision import Precision, checked
from skipback.step.by_backward import CompiledLearner, step_by_backward
from skipback.step.checks import shared
from skipback.step.compiled import Compiler, compiler
from skipback.step.fit import check
from skipback.step.stepper import Stepper
from skipback.update import Update, check_update


class Learner(ObservedNetwork):
    """A network with a method attached, as `attach` returns it: for your own loop, or `step` by `step`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stepper: Stepper | None = None
        self._compiled: CompiledLearner | None = None

    def step(
        self,
        x: Any,
        t: Tensor,
        *,
        loss: Loss,
        update: Update,
        ids: Tensor | None = None,
        scale: float | Tensor = 1.0,
        mask: Tensor | None = None,
        precision: Precision | None = None,
        compile: bool | Compiler = False,
        watch: Watch | None = None,
    ) -> Tensor:
        """One whole training step: forward, teaching and update, each block as soon as its signal is known.

        For an early signal (DRTP, F3) that is during the forward pass, so that no activation waits and memory does not
        grow with depth. The numbers are those of `loss(learner(x)).backward()` and a `torch.optim` optimizer, whose
        state the update keeps. Gradients are gone at once: to clip them, or to accumulate, use `backward`. Where
        several processes train, each block's gradients are averaged over them, and buffers are those of rank 0 before
        each forward pass, as under DDP.

        Args:
            x: the input, or a tuple of inputs.
            t: the target, of the loss and of the signal.
            loss: loss(output, target); the output is the tensor that the network returns beside a loss of its own, a
                leaf here: a loss that writes over it needs a clone. What made x (an encoder in front) gets no gradient.
                Of a network that returns several tensors, loss gets all that it returns.
            update: what changes the weights, e.g. `skipback.update.adam()`. Pass the same one at every step.
            ids: for delayed signals.
            scale: what the loss is multiplied with.
            mask: (N,) or (N, T), the rows that the loss counts: an early signal teaches before the loss can say so.
            precision: `skipback.precision.bf16()` or `.onednn()`, for this step; `None` leaves torch's settings alone.
            compile: run the blocks that go by autograd through `torch.compile` (dense blocks have a closed form, which
                gains nothing), and a network without a chain of blocks, or a method by `backward`, as a whole. Also
                what compiles: `functools.partial(torch.compile, dynamic=True)`; pass the same one at every step.
            watch: is called once, without gradients, with what the loss gets (output, target): to count errors, say.

        Returns:
            The loss, before the update.

        Raises:
            TypeError: the update is an optimizer, or the loss returns no tensor.
            ValueError: the network is in eval mode, the update holds the optimizer of other parameters, or the
                precision is not to be had here.
            RuntimeError: the method was taken off; inference mode is on; or, with several processes, another rank
                failed, or an earlier step was broken off.
        """
        args, context = x if isinstance(x, tuple) else (x,), BatchContext(t, ids, scale, mask)
        check_update(update)
        if not (self.attached and self.net.training) or torch.is_inference_mode_enabled():
            check("step", self, now=True)
        if self.route is None:
            self.discover(*args)
        groups = update.bind(self).param_groups
        if precision is not None:
            with checked(precision).during([p for group in groups for p in group["params"]]):
                rest: Any = {"ids": ids, "scale": scale, "mask": mask, "compile": compile, "watch": watch}
                return self.step(x, t, loss=loss, update=update, **rest)
        how, stepper = None if compile is False else compiler(compile), self._stepper or self._block_by_block()
        if stepper is not None and not self.gate.plain and stepper.fits(args) and (how is None or stepper.chain):
            return stepper(args, t, loss, update, context, how, watch)
        if self._compiled is None:
            self._compiled = CompiledLearner()
        return step_by_backward(self, self._compiled.get(self, how), args, t, loss, update, context, watch)

    def _block_by_block(self) -> Stepper | None:
        """The stepper, where the method and the network allow one."""
        route, layout = self.route, self.layout
        if not isinstance(route, CutRoute) or not route.steps or layout is None:
            return None
        if layout.returned == 1 and not shared(layout):
            self._stepper = Stepper(self.net, route)
        return self._stepper

    @property
    def star(self) -> Any:
        """The old name of `direct`."""
        warnings.warn("learner.star is learner.direct now", DeprecationWarning, stacklevel=2)
        return self.direct


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
        net: any module. Its own parameters, `state_dict()` and outputs stay as they are. Of a compiled one, the module
            inside, which is compiled anew.
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
    net = getattr(net, "_orig_mod", net)
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError(
            "a scripted network cannot be cut, and backprop would run through it: attach before scripting it"
        )
    if isinstance(vars(net).get("forward"), Forward):
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
    if example is None and inner.learns:
        raise ValueError(
            f"{inner.learns}, so the optimizer must know: pass example=x, one batch of inputs, to attach()"
        )
    if example is not None and ROUTES[type(inner)].cuts:
        learner.discover(*(example if isinstance(example, tuple) else (example,)))


def _silent(_: str) -> None:
    pass
