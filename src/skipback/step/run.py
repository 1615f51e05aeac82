"""A run: one step in progress. It runs the blocks, teaches each as soon as its signal is known, and updates it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skipback import precision
from skipback.blocks.outputs import joined_output
from skipback.core.direct import DirectRoute
from skipback.core.records import BatchContext, Loss, Watch
from skipback.core.route import Call
from skipback.step import onednn
from skipback.step.batch_signal import BatchSignal, early_signal, late_signal
from skipback.step.chain import Chain
from skipback.step.compiled import Compiler
from skipback.step.errors import error
from skipback.step.forms import specialise
from skipback.step.jvp_chain import all_dense, forward_with_jacobian
from skipback.step.rules import AutogradBlock, HookedBlock, Rule
from skipback.step.step_pass import StepPass
from skipback.streams import Stream
from skipback.update import Update

if TYPE_CHECKING:
    from skipback.step.stepper import Stepper

_NOTHING, _NATIVE = contextlib.nullcontext(), onednn.native_matmul()


@dataclass
class StepRun:
    """One step in progress.

    Attributes:
        pending: the blocks that wait for their signal: number, rule, port, and the port's version.
        learned: gradients of learned feedback so far.
    """

    stepper: Stepper
    direct: DirectRoute | None
    update: Update
    context: BatchContext
    compiler: Compiler | None
    device: torch.device
    cast: bool
    watch: Watch | None = None
    signal: BatchSignal | None = None
    ahead: Mapping[str, Tensor] = field(default_factory=dict)
    pending: list[tuple[int, Rule, Tensor, int]] = field(default_factory=list)
    learned: dict[Tensor, Tensor] = field(default_factory=dict)

    def __call__(self, args: tuple[Any, ...], t: Tensor, loss: Loss) -> Tensor:
        """Make the step. Returns the loss before the update."""
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
        direct, memory, ids = self.direct, None if self.direct is None else self.direct.memory, self.context.ids
        if direct is not None and direct.stream is not None and self.stepper.tangents and all_dense(chain):
            return self._with_jacobian(direct, direct.stream, chain, x)
        if direct is not None and direct.looks_ahead:
            self._open((x,))
        elif direct is not None:
            direct.follow(self.device)
            if memory is not None and ids is not None and memory.input_checks_left > 0:
                memory.check_views(ids, x)
            self.signal = early_signal(direct, self.context) if direct.early_known else None
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
        if self.watch is not None:
            self.watch(y, t)
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
            signal.plan.ports[k].check_unchanged(port, version)
            if self.stepper.shapes.get(k) != (port.shape, signal.output):
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
