"""The stepper: one training step of a direct method, each block taught and updated as soon as its signal is known.

    early signal    in the forward pass, block by block: no activation is cached, so memory does not grow with depth
    late signal     after the loss, block by block

The numbers are those of `backward` and a `torch.optim` optimizer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skipback.core.feedback import Matrix
from skipback.core.records import BatchContext, Loss, Watch
from skipback.core.route import CutRoute
from skipback.distributed import world
from skipback.step.batch_signal import BatchSignal
from skipback.step.chain import Chain, NetworkFingerprint, chain
from skipback.step.checks import check_taught, meets_each_block_once, needs_backward
from skipback.step.compiled import Compiler
from skipback.step.forms import release
from skipback.step.ranks import Ranks
from skipback.step.run import StepRun
from skipback.update import Update


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
        watch: Watch | None = None,
    ) -> Tensor:
        """One step. Returns the loss before the update."""
        assert self.fingerprint is not None
        device, averaged = self.fingerprint.parameters[0].device, None
        cast = torch.is_autocast_enabled(device.type)
        if world() > 1:
            averaged = self.ranks.open(update, self.net, () if self.direct is None else self.direct.parts.values())
        try:
            with torch.no_grad():
                run = StepRun(self, self.direct, averaged or update, context, compiler, device, cast, watch)
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
