"""The stepper: one training step of a direct method, each block taught and changed as soon as its signal is known.

    early signal    in the forward pass, block by block: nothing is kept, so memory does not grow with depth
    late signal     after the loss, block by block

The numbers are those of `backward` and a `torch.optim` optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks import Layout, first_tensor
from skipback.engine.ports import Ports
from skipback.engine.star import Given, Star
from skipback.engine.step import onednn
from skipback.engine.step.chain import Chain, Signature, chain
from skipback.engine.step.checks import check_kept, check_taught, once, opaque
from skipback.engine.step.compiled import Compiler
from skipback.engine.step.dual import dense, run_dual
from skipback.engine.step.errors import error, unscaled
from skipback.engine.step.forms import drop, formed
from skipback.engine.step.ranks import Ranks, world
from skipback.engine.step.rules import Attached, Ran, Rule
from skipback.feedback import Matrix
from skipback.types import Loss
from skipback.update import Update

_NOTHING, _APART = contextlib.nullcontext(), onednn.Apart()


class Stepper:
    """Steps a direct method (or the head alone) on one network.

    Args:
        net: the network.
        layout: its blocks.
        ports: where they are cut.
        star: feedback and memory; `None` for the head alone.
    """

    def __init__(self, net: nn.Module, layout: Layout, ports: Ports, star: Star | None) -> None:
        self.net, self.layout, self.ports, self.star = net, layout, ports, star
        self.signature: Signature | None = None
        self.whole = False
        self.ranks = Ranks()
        self.chain: Chain | None = None
        self.parameters: dict[str, tuple[nn.Parameter, ...]] = {}  # of the hidden blocks: one may be called "head", too
        self.head: tuple[nn.Parameter, ...] = ()
        self.index = {segment.block: k for k, segment in enumerate(layout.segments[:-1])}
        # a product that `project` has made is nobody else's; what another feedback returns may be
        self.own = star is not None and type(star.method.feedback).project is Matrix.project

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether this network can be changed block by block, as it is now. May run it once, leaving no trace."""
        if self.signature is None or not self.signature.holds():
            self.chain = chain(self.net, self.layout)
            self.whole = self.chain is None and (opaque(self.net) or not self._once(args))
            *hidden, head = [tuple(p for p in s.parameters if p.requires_grad) for s in self.layout.segments]
            self.parameters = dict(zip(self.index, hidden, strict=True))
            self.head = head
            self.signature = Signature(self.net)
        return not self.whole

    def __call__(
        self,
        args: tuple[Any, ...],
        t: Tensor,
        loss: Loss,
        update: Update,
        given: Given,
        compiler: Compiler | None = None,
    ) -> Tensor:
        """One step. Returns the loss, before it."""
        averaged = None
        if world() > 1:
            averaged = self.ranks.open(update, self.net, () if self.star is None else self.star.parts.values())
        assert self.signature is not None
        run = _Run(self, averaged or update, given, self.signature.parameters[0].device)
        run.compiler = compiler
        try:
            with torch.no_grad():
                value = run(args, t, loss)
                if averaged is None:
                    update.finish()
                else:
                    self.ranks.close(averaged)
        except BaseException:
            self._drop()
            raise
        return value

    def _once(self, args: tuple[Any, ...]) -> bool:
        plain, self.ports.plain = self.ports.plain, True
        try:
            return once(self.net, self.layout, args)
        finally:
            self.ports.plain = plain

    def _drop(self) -> None:
        """Let go of what a step that failed has kept."""
        if self.star is not None:
            self.star.ahead = {}
        if self.chain is not None:
            drop(self.chain)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the chain is found again."""
        return {**vars(self), "chain": None, "signature": None}


class _Run:
    """One step in progress."""

    def __init__(self, stepper: Stepper, update: Update, given: Given, device: torch.device) -> None:
        self.stepper, self.star, self.update, self.given = stepper, stepper.star, update, given
        self.cast = torch.is_autocast_enabled(device.type)
        self.device = device
        self.compiler: Compiler | None = None
        self.signal: Tensor | None = None
        self.target: Tensor | None = None
        self.waits = True
        self.pending: list[tuple[str, Rule, Tensor, int]] = []
        self.learned: dict[Tensor, Tensor] = {}
        self.ahead: Mapping[str, Tensor] = {}

    def __call__(self, args: tuple[Any, ...], t: Tensor, loss: Loss) -> Tensor:
        chain = self.stepper.chain
        if chain is None or len(args) != 1 or not isinstance(args[0], Tensor):
            return self._close(*self._hooked(args), t, loss)
        streams = self.star is not None and self.star.stream is not None  # forward mode has a form of its own
        kernel = not self.cast and not streams and onednn.takes(chain, args[0])
        with _APART if kernel else _NOTHING:
            form = formed(chain, cast=self.cast, compiler=self.compiler, kernel=kernel)
            return self._close(*self._along(form, args[0]), t, loss)

    def _backward(self) -> contextlib.AbstractContextManager[None]:
        """Without autocast, as `backward` is called; and what it keeps of the weights is stale when they change."""
        return self._uncast() if self.cast else _NOTHING

    @contextlib.contextmanager
    def _uncast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, enabled=False):
            yield
        torch.clear_autocast_cache()

    def _along(self, chain: Chain, x: Tensor) -> tuple[Tensor, Rule]:
        """Run the blocks one by one, without hooks. Returns the output and the head."""
        star = self.star
        if star is not None and star.stream is not None and dense(chain):
            star.check_views(x, self.given)
            star.follow(self.device)
            self.signal = self._early()
            y, self.ahead, ports = run_dual(chain, x, star.stream, star.method.feedback.tangents)
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
        """Run the network, and meet its blocks where it is cut. Returns the output and the head."""
        ports, own = self.stepper.ports, self.stepper.parameters
        seen: set[str] = set()

        def meet(block: str, port: Tensor) -> None:
            if block in seen:
                raise RuntimeError(
                    f"block {block!r} is called more than once, which it was not when the network was looked at: its "
                    "update has to wait for all calls, so train this network by loss.backward() and an optimizer"
                )
            seen.add(block)
            with torch.no_grad():
                self._met(block, Ran(port, own[block]), port.detach())

        self._open(args)
        ports.meet = meet
        try:
            with torch.enable_grad():
                output = first_tensor(self.stepper.net(*args))
        finally:
            ports.meet = None
        assert output is not None
        return output.detach(), Ran(output, self.stepper.head)

    def _open(self, args: tuple[Any, ...]) -> None:
        """Before the network runs: what forward mode finds, and the signal if it is early."""
        star = self.star
        if star is None:
            return
        star.follow(self.device)
        star.open(self.stepper.net, args, {}, self.given, training=True)
        if star.ahead:  # to set an attribute of a module takes microseconds
            self.ahead, star.ahead = star.ahead, {}
        self.signal = self._early()
        self.waits = self.signal is None

    def _early(self) -> Tensor | None:
        """The signal, if it is early."""
        if self.star is None or not self.star.early_known:
            return None
        signal, self.target = self.star.early(self.given)
        return self._scaled(signal)

    def _met(self, block: str, rule: Rule, y: Tensor) -> None:
        """A block has run: teach it now if the signal is known, else later."""
        if self.star is None or not rule.parameters:  # frozen: nobody taught it in backward, either
            rule.drop()
        elif self.waits or self.signal is None:
            self.pending.append((block, rule, y, y._version))
        else:
            check_taught(self.star.ports[block], y, self.signal)
            with self._backward():
                self._teach(block, rule, y, self.signal)

    def _close(self, y: Tensor, head: Rule, t: Tensor, loss: Loss) -> Tensor:
        """The loss, the head's exact gradient, and the blocks that waited for it."""
        value, e = error(loss, y, t, self.given.scale)
        if self.star is not None:
            self.star.remember(y, self.given, self.target)
        with self._backward():
            self._taught(y, e, head)
            head.learn(e, self.update)
            for part, change in self.learned.items():
                self.update.apply((part,), (change,))  # type: ignore[arg-type]  # what learns is a parameter
        return value

    def _taught(self, y: Tensor, e: Tensor, head: Rule) -> None:
        star = self.star
        if star is None:
            return
        signal = self.signal if self.signal is not None else self._scaled(star.late(e, y, self.given))
        for block, _, port, version in self.pending:  # all, before the first of them is changed
            check_kept(block, port, version)
            check_taught(star.ports[block], port, signal)
        star.look(e, head.y if isinstance(head, Attached) else None)
        for block, rule, port, _ in self.pending:
            self._teach(block, rule, port, signal)

    def _scaled(self, signal: Tensor) -> Tensor:
        assert self.star is not None
        plain = unscaled(self.given.scale) or self.star.method.signal.scales
        return signal if plain else signal * self.given.scale

    def _teach(self, block: str, rule: Rule, y: Tensor, signal: Tensor) -> None:
        star, scale = self.star, self.given.scale
        assert star is not None
        k, plan = self.stepper.index[block], star.plan(star.blocks)
        feedback, parts = star.method.feedback, star.parts_of(block)
        activity, ahead = y if star.by_activity else None, self.ahead.get(block)
        teaching = plan.teaching(k, signal, scale, parts, activity, ahead)
        if teaching.shape != y.shape or teaching.dtype != y.dtype:
            teaching = teaching.reshape(y.shape).to(y.dtype)
        if feedback.learns:
            plain = plan.lesson(k, signal.to(parts[0].dtype) / scale, activity, ahead)
            for part, change in zip(parts, feedback.gradient(plain, parts), strict=True):
                if part.requires_grad:  # ports may share a part: it is changed once, by the sum
                    kept = self.learned.get(part)
                    self.learned[part] = change * scale if kept is None else kept + change * scale
        rule.learn(teaching, self.update, own=self.stepper.own)
