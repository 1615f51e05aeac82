"""The stepper: one training step of a direct method, each block taught and updated as soon as its signal is known.

    early signal    in the forward pass, block by block: no activation is cached, so memory does not grow with depth
    late signal     after the loss, block by block

The numbers are those of `backward` and a `torch.optim` optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipback.core.broadcast import lesson_gradient, scaled, teaching
from skipback.core.direct import DirectRoute
from skipback.core.feedback import Matrix
from skipback.core.outputs import joined_output
from skipback.core.records import BatchContext, Loss
from skipback.core.route import Call, CutRoute
from skipback.distributed import world
from skipback.step import onednn
from skipback.step.chain import Chain, NetworkFingerprint, chain
from skipback.step.checks import check_taught, check_unchanged, meets_each_block_once, needs_backward
from skipback.step.compiled import Compiler
from skipback.step.errors import error
from skipback.step.forms import release, specialise
from skipback.step.jvp_chain import all_dense, forward_with_jacobian
from skipback.step.ranks import Ranks
from skipback.step.rules import AutogradBlock, HookedBlock, Rule
from skipback.step.step_pass import StepPass
from skipback.update import Update

_NOTHING, _NATIVE = contextlib.nullcontext(), onednn.native_matmul()


class Stepper:
    """Steps a direct method (or the head alone) on one network.

    Args:
        net: the network.
        route: where it is cut; of a direct method, also its feedback and memory.
    """

    def __init__(self, net: nn.Module, route: CutRoute) -> None:
        self.net, self.route, self.layout = net, route, route.layout
        self.direct = direct = route.direct_route
        layout = route.layout
        self.fingerprint: NetworkFingerprint | None = None
        self.by_backward = False
        self.ranks = Ranks()
        self.chain: Chain | None = None
        self.parameters: dict[str, tuple[nn.Parameter, ...]] = {}  # of hidden blocks: a user may name one "head"
        self.head: tuple[nn.Parameter, ...] = ()
        self.index = {segment.block: k for k, segment in enumerate(layout.segments[:-1])}
        # the product of `Matrix.project` is a fresh tensor; other feedback may return one that it holds
        self.may_overwrite = direct is not None and type(direct.direct.feedback).project is Matrix.project

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether this network can be updated block by block, as it is now. May run it once, changing nothing."""
        if self.fingerprint is None or not self.fingerprint.holds():
            self.chain = chain(self.net, self.layout)
            unfit = self.chain is None and (needs_backward(self.net) or not self._meets_each_block_once(args))
            self.by_backward = unfit
            *hidden, head = [tuple(p for p in s.parameters if p.requires_grad) for s in self.layout.segments]
            self.parameters = dict(zip(self.index, hidden, strict=True))
            self.head = head
            self.fingerprint = NetworkFingerprint(self.net)
        return not self.by_backward

    def __call__(
        self,
        args: tuple[Any, ...],
        t: Tensor,
        loss: Loss,
        update: Update,
        context: BatchContext,
        compiler: Compiler | None = None,
    ) -> Tensor:
        """One step. Returns the loss before the update."""
        averaged = None
        if world() > 1:
            averaged = self.ranks.open(update, self.net, () if self.direct is None else self.direct.parts.values())
        assert self.fingerprint is not None
        run = _Run(self, averaged or update, context, self.fingerprint.parameters[0].device)
        run.compiler = compiler
        try:
            with torch.no_grad():
                value = run(args, t, loss)
                if averaged is None:
                    update.finish()
                else:
                    self.ranks.close(averaged)
        except BaseException:
            if self.chain is not None:  # free the activations that the failed step has saved
                release(self.chain)
            raise
        return value

    def _meets_each_block_once(self, args: tuple[Any, ...]) -> bool:
        gate = self.route.gate
        plain, gate.plain = gate.plain, True
        try:
            return meets_each_block_once(self.net, self.layout, args)
        finally:
            gate.plain = plain

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which find their own chain."""
        return {**vars(self), "chain": None, "fingerprint": None}


class _Run:
    """One step in progress."""

    def __init__(self, stepper: Stepper, update: Update, context: BatchContext, device: torch.device) -> None:
        self.stepper, self.direct, self.update, self.context = stepper, stepper.direct, update, context
        self.cast = torch.is_autocast_enabled(device.type)
        self.device = device
        self.compiler: Compiler | None = None
        self.signal: Tensor | None = None
        self.target: Tensor | None = None
        self.output: Sequence[int] = ()
        self.pending: list[tuple[str, Rule, Tensor, int]] = []
        self.learned: dict[Tensor, Tensor] = {}
        self.ahead: Mapping[str, Tensor] = {}

    def __call__(self, args: tuple[Any, ...], t: Tensor, loss: Loss) -> Tensor:
        chain = self.stepper.chain
        if chain is None or len(args) != 1 or not isinstance(args[0], Tensor):
            return self._close(*self._hooked(args), t, loss)
        streams = self.direct is not None and self.direct.stream is not None  # forward mode has a form of its own
        kernel = not self.cast and not streams and onednn.takes(chain, args[0])
        with _NATIVE if kernel else _NOTHING:
            form = specialise(chain, cast=self.cast, compiler=self.compiler, kernel=kernel)
            return self._close(*self._along(form, args[0]), t, loss)

    def _backward(self) -> contextlib.AbstractContextManager[None]:
        """The context of teaching and update: outside of autocast, as `backward` is. Frees autocast's cache."""
        return self._uncast() if self.cast else _NOTHING

    @contextlib.contextmanager
    def _uncast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, enabled=False):
            yield
        torch.clear_autocast_cache()

    def _along(self, chain: Chain, x: Tensor) -> tuple[Tensor, Rule]:
        """Run the blocks one by one, without hooks. Returns the output and the head."""
        direct = self.direct
        # 0 where a feedback of the user's own estimates the Jacobian in another way
        tangents: int = getattr(direct.direct.feedback, "tangents", 0) if direct is not None else 0
        if direct is not None and direct.stream is not None and tangents and all_dense(chain):
            direct.check_inputs(x, self.context)
            direct.follow(self.device)
            self._early(direct)
            y, self.ahead, ports = forward_with_jacobian(chain, x, direct.stream, tangents)
            for (block, rule), port in zip(chain.hidden, ports, strict=True):
                self.pending.append((block, rule, port, port._version))
            return y, chain.head
        self._open((x,))
        h = x
        for block, rule in chain.hidden:
            h = rule.run(h)
            self._met(block, rule, h)
        return chain.head.run(h), chain.head

    def _hooked(self, args: tuple[Any, ...]) -> tuple[Tensor, Rule]:
        """Run the network; hooks at its cuts teach each block or store it. Returns the output and the head."""
        stepper, cutter, own = self.stepper, self.stepper.route.cutter, self.stepper.parameters

        def meet(block: str, port: Tensor) -> None:
            with torch.no_grad():
                self._met(block, HookedBlock(port, own[block]), port.detach())

        self._open(args)
        before, cutter.run = cutter.run, (run := StepPass(stepper.net, stepper.layout, meet))
        stepper.route.gate.running = True
        try:
            with torch.enable_grad():
                output = joined_output(stepper.net(*args), stepper.layout)
            run.close()
        finally:
            cutter.run, stepper.route.gate.running = before, False
        return output.detach(), HookedBlock(output, stepper.head)

    def _open(self, args: tuple[Any, ...]) -> None:
        """Before the network runs: run forward mode if the feedback needs it, and compute an early signal."""
        direct = self.direct
        if direct is not None:
            direct.follow(self.device)
            if direct.looks_ahead or direct.memory is not None:
                self.ahead = direct.open(Call(self.stepper.net.forward, args, {}), self.context)
            self._early(direct)

    def _early(self, direct: DirectRoute) -> None:
        """Compute the signal if it is early."""
        if direct.early_known:
            signal, self.target = direct.early(self.context)
            self.output = direct.output_shape(self.target, self.context)
            self.signal = self._scaled(signal, direct)

    def _met(self, block: str, rule: Rule, y: Tensor) -> None:
        """After a block has run: teach it now if the signal is known, else store it for `_taught`."""
        direct, signal = self.direct, self.signal
        if direct is None or not rule.parameters:  # a frozen block: `backward` would not teach it either
            rule.release()
        elif signal is None:
            self.pending.append((block, rule, y, y._version))
        else:
            check_taught(direct.ports[block], y, signal, self.output)
            with self._backward():
                self._teach(direct, block, rule, y, signal)

    def _close(self, y: Tensor, head: Rule, t: Tensor, loss: Loss) -> Tensor:
        """Compute the loss, teach the stored blocks, and update the head by its exact gradient."""
        value, e = error(loss, y, t, self.context.scale)
        if self.direct is not None:
            self.direct.remember(y, self.context, self.target)
        with self._backward():
            self._taught(y, e, head)
            head.learn(e, self.update)
            for part, change in self.learned.items():
                self.update.apply((part,), (change,))  # type: ignore[arg-type]  # learned feedback is a parameter
        return value

    def _taught(self, y: Tensor, e: Tensor, head: Rule) -> None:
        direct, signal = self.direct, self.signal
        if direct is None:
            return
        if signal is None:
            signal, self.output = self._scaled(direct.late(e, y, self.context), direct), y.shape
        for block, _, port, version in self.pending:  # check all blocks before the first update
            check_unchanged(block, port, version)
            check_taught(direct.ports[block], port, signal, self.output)
        if not direct.error_seen:
            attached = head.y if isinstance(head, AutogradBlock) else None
            direct.look(y, e, self.context, None if attached is None else attached.grad_fn)
        for block, rule, port, _ in self.pending:
            self._teach(direct, block, rule, port, signal)

    def _scaled(self, signal: Tensor, direct: DirectRoute) -> Tensor:
        return signal * self.context.scale if scaled(self.context.scale) and not direct.direct.signal.scales else signal

    def _teach(self, direct: DirectRoute, block: str, rule: Rule, y: Tensor, signal: Tensor) -> None:
        k, plan, parts, context = self.stepper.index[block], direct.whole_plan(), direct.parts_of(block), self.context
        h = y if direct.by_activity else None
        lesson = plan.lesson(k, signal, self.output, y.shape, h, self.ahead.get(block))
        taught = teaching(plan, k, lesson, parts, context, y.shape, y.dtype)
        if direct.direct.feedback.learns:
            for part, change in zip(parts, lesson_gradient(plan, lesson, parts, context), strict=True):
                if part.requires_grad:  # ports may share a tensor: it is updated once, by the sum of its gradients
                    total = self.learned.get(part)
                    self.learned[part] = change if total is None else total + change
        rule.learn(taught, self.update, may_overwrite=self.stepper.may_overwrite)
