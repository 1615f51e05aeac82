"""The stepper: one training step of a direct method, each block taught and updated as soon as its signal is known.

    early signal    in the forward pass, block by block: no activation is cached, so memory does not grow with depth
    late signal     after the loss, block by block

The numbers are those of `backward` and a `torch.optim` optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skipback import precision
from skipback.core.direct import DirectRoute
from skipback.core.feedback import Matrix
from skipback.core.outputs import joined_output
from skipback.core.records import BatchContext, Loss
from skipback.core.route import Call, CutRoute
from skipback.distributed import world
from skipback.step import onednn
from skipback.step.batch_signal import NOTHING, BatchSignal, early_signal, late_signal
from skipback.step.chain import Chain, NetworkFingerprint, chain
from skipback.step.checks import check_taught, check_unchanged, meets_each_block_once, needs_backward
from skipback.step.compiled import Compiler
from skipback.step.errors import error
from skipback.step.forms import release, specialise
from skipback.step.jvp_chain import all_dense, forward_with_jacobian
from skipback.step.ranks import Ranks
from skipback.step.rules import AutogradBlock, HookedBlock, Rule
from skipback.step.step_pass import StepPass
from skipback.streams import Stream
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
        self.parameters: list[tuple[nn.Parameter, ...]] = []  # those that are trained, by block, the head's last
        self.shapes: dict[int, object] = {}  # of ports that were found to fit
        self.index = {segment.block: k for k, segment in enumerate(layout.segments[:-1])}
        # the product of `Matrix.project` is a fresh tensor; other feedback may return one that it holds
        self.may_overwrite = direct is not None and type(direct.direct.feedback).project is Matrix.project
        self.learns = direct is not None and direct.direct.feedback.learns
        # 0 where a feedback of the user's own estimates the Jacobian in another way
        self.tangents: int = 0 if direct is None else getattr(direct.direct.feedback, "tangents", 0)
        self.streamless = direct is None or direct.stream is None  # forward mode has a form of its own

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether this network can be updated block by block, as it is now. May run it once, changing nothing."""
        if self.fingerprint is None or not self.fingerprint.holds():
            self.chain = chain(self.net, self.layout)
            unfit = self.chain is None and (needs_backward(self.net) or not self._meets_each_block_once(args))
            self.by_backward = unfit
            self.parameters = [tuple(p for p in s.parameters if p.requires_grad) for s in self.layout.segments]
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
        try:
            with torch.no_grad():
                value = _Run(self, averaged or update, context, compiler)(args, t, loss)
                if averaged is None:
                    update.finish()
                else:
                    self.ranks.close(averaged)
        except BaseException:
            if self.chain is not None:  # free the activations that the failed step has saved
                release(self.chain)
            raise
        return value

    def check(self, k: int, port: Tensor, signal: BatchSignal) -> None:
        """Refuse a port whose shape does not fit."""
        check_taught(signal.plan.ports[k], port, signal.signal, signal.output)
        self.shapes[k] = port.shape, signal.output

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

    def __init__(self, stepper: Stepper, update: Update, context: BatchContext, compiler: Compiler | None) -> None:
        assert stepper.fingerprint is not None
        self.stepper, self.direct, self.update, self.context = stepper, stepper.direct, update, context
        self.device, self.compiler = stepper.fingerprint.parameters[0].device, compiler
        self.cast = torch.is_autocast_enabled(self.device.type)
        self.signal: BatchSignal | None = None
        self.pending: list[tuple[int, Rule, Tensor, int]] = []
        self.learned: dict[Tensor, Tensor] = {}
        self.ahead: Mapping[str, Tensor] = NOTHING

    def __call__(self, args: tuple[Any, ...], t: Tensor, loss: Loss) -> Tensor:
        chain = self.stepper.chain
        if chain is None or len(args) != 1 or not isinstance(args[0], Tensor):
            return self._close(*self._hooked(args), t, loss)
        kernel = (
            not self.cast and precision.product() == "bf16" and self.stepper.streamless and onednn.takes(chain, args[0])
        )
        if not kernel and not self.cast and self.compiler is None:
            return self._close(*self._along(chain, args[0]), t, loss)
        with _NATIVE if kernel else _NOTHING:
            form = specialise(chain, cast=self.cast, compiler=self.compiler, kernel=kernel)
            return self._close(*self._along(form, args[0]), t, loss)

    def _outside(self) -> contextlib.AbstractContextManager[None]:
        """The context of teaching and update: outside of autocast, as `backward` is. Frees autocast's cache."""
        return _uncast(self.device.type) if self.cast else _NOTHING

    # ------------------------------------------------------------------------------------------------ the pass

    def _along(self, chain: Chain, x: Tensor) -> tuple[Tensor, Rule]:
        """Run the blocks one by one, without hooks. Returns the output and the head."""
        direct = self.direct
        if direct is not None and direct.stream is not None and self.stepper.tangents and all_dense(chain):
            return self._with_jacobian(direct, direct.stream, chain, x)
        self._open((x,))
        h = x
        for k, (_, rule) in enumerate(chain.hidden):
            h = rule.run(h)
            self._met(k, rule, h)
        return chain.head.run(h), chain.head

    def _with_jacobian(self, direct: DirectRoute, stream: Stream, chain: Chain, x: Tensor) -> tuple[Tensor, Rule]:
        direct.check_inputs(x, self.context)
        direct.follow(self.device)
        signal = early_signal(direct, self.context) if direct.early_known else None
        y, self.ahead, ports = forward_with_jacobian(chain, x, stream, self.stepper.tangents)
        if signal is not None:
            self.signal, signal.ahead = signal, self.ahead
        for k, ((_, rule), port) in enumerate(zip(chain.hidden, ports, strict=True)):
            self.pending.append((k, rule, port, port._version))
        return y, chain.head

    def _hooked(self, args: tuple[Any, ...]) -> tuple[Tensor, Rule]:
        """Run the network; hooks at its cuts teach each block or store it. Returns the output and the head."""
        stepper, cutter = self.stepper, self.stepper.route.cutter

        def meet(block: str, port: Tensor) -> None:
            k = stepper.index[block]
            with torch.no_grad():
                self._met(k, HookedBlock(port, stepper.parameters[k]), port.detach())

        self._open(args)
        before, cutter.run = cutter.run, (run := StepPass(stepper.net, stepper.layout, meet))
        stepper.route.gate.running = True
        try:
            with torch.enable_grad():
                output = joined_output(stepper.net(*args), stepper.layout)
            run.close()
        finally:
            cutter.run, stepper.route.gate.running = before, False
        return output.detach(), HookedBlock(output, stepper.parameters[-1])

    def _open(self, args: tuple[Any, ...]) -> None:
        """Before the network runs: run forward mode if the feedback needs it, and compute an early signal."""
        direct = self.direct
        if direct is None:
            return
        direct.follow(self.device)
        if direct.looks_ahead or (direct.memory is not None and direct.memory.input_checks_left > 0):
            self.ahead = direct.open(Call(self.stepper.net.forward, args, {}), self.context)
        if direct.early_known:
            self.signal = early_signal(direct, self.context, self.ahead)

    # -------------------------------------------------------------------------------------- teaching and update

    def _met(self, k: int, rule: Rule, y: Tensor) -> None:
        """After a block has run: teach it now if the signal is known, else store it for `_taught`."""
        if self.direct is None or not rule.parameters:  # a frozen block: `backward` would not teach it either
            rule.release()
        elif self.signal is None:
            self.pending.append((k, rule, y, y._version))
        else:
            if self.stepper.shapes.get(k) != (y.shape, self.signal.output):
                self.stepper.check(k, y, self.signal)
            with self._outside() if self.cast else _NOTHING:
                taught = self.signal.teaching(k, y, self._learn if self.stepper.learns else None)
                rule.learn(taught, self.update, may_overwrite=self.stepper.may_overwrite)

    def _close(self, y: Tensor, head: Rule, t: Tensor, loss: Loss) -> Tensor:
        """Compute the loss, teach the stored blocks, and update the head by its exact gradient."""
        value, e = error(loss, y, t, self.context.scale)
        if self.direct is not None:
            self.direct.remember(y, self.context, None if self.signal is None else self.signal.target)
        with self._outside() if self.cast else _NOTHING:
            if self.direct is not None and (self.pending or self.signal is None or not self.direct.error_seen):
                self._taught(self.direct, y, e, head)
            head.learn(e, self.update)
            for part, change in self.learned.items():
                self.update.apply((part,), (change,))  # type: ignore[arg-type]  # learned feedback is a parameter
        return value

    def _taught(self, direct: DirectRoute, y: Tensor, e: Tensor, head: Rule) -> None:
        """Teach the stored blocks."""
        signal = self.signal or late_signal(direct, e, y, self.context, self.ahead)
        for k, _, port, version in self.pending:  # check all blocks before the first update
            check_unchanged(signal.plan.ports[k].name, port, version)
            self.stepper.check(k, port, signal)
        if not direct.error_seen:
            attached = head.y if isinstance(head, AutogradBlock) else None
            direct.look(y, e, self.context, None if attached is None else attached.grad_fn)
        for k, rule, port, _ in self.pending:
            taught = signal.teaching(k, port, self._learn if self.stepper.learns else None)
            rule.learn(taught, self.update, may_overwrite=self.stepper.may_overwrite)

    def _learn(self, part: Tensor, change: Tensor) -> None:
        """Add a gradient of learned feedback: ports may share a tensor, which is updated once, by the sum."""
        if part.requires_grad:
            total = self.learned.get(part)
            self.learned[part] = change if total is None else total + change


@contextlib.contextmanager
def _uncast(device: str) -> Iterator[None]:
    with torch.autocast(device, enabled=False):
        yield
    torch.clear_autocast_cache()
