"""The direct route: feedback and memory of a direct method on one network, and how it connects an output to ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from skipback.advice import (
    ONE_OUTPUT,
    SHARED_HEAD,
    TIME_FIRST,
    WHOLE_CHECKPOINT,
    advise,
    advise_error,
    no_context,
    one_signed_columns,
    refuse_untaught,
)
from skipback.blocks import Pass, first_tensor, in_backward, packed
from skipback.blocks.outputs import Outputs
from skipback.blocks.rows import columns, grouped, joined_shape, output_rows, row_width
from skipback.blocks.specs import PortSpec, input_batch, is_time_first, spec_of, specs
from skipback.core.broadcast import Broadcast, Plan, where_error
from skipback.core.feedback import FeedbackTensors, ForwardPasses, Sees
from skipback.core.method import Direct
from skipback.core.per_port import PerPort
from skipback.core.records import BatchContext, Needs, SignalInputs
from skipback.core.route import Call, CutRoute, Site, ports_of
from skipback.draws import seeded
from skipback.memory import Memory
from skipback.streams import Stream
from skipback.targets import as_matrix, masked, matrix_of

SHAPE, VERSION = attrgetter("shape"), attrgetter("_version")


class DirectRoute(CutRoute, runs=(Direct,)):
    """Feedback and memory of a direct method on one network.

    Attributes:
        ports: by block, what its feedback must fit.
        memory: the per-sample memory of a delayed signal.
        stream: of the random directions of forward mode.
        shape: of the output, of several outputs joined.
    """

    steps = True
    memory: Memory | None
    stream: Stream | None

    def __init__(self, method: Direct, site: Site) -> None:
        super().__init__(method, site)
        self.direct, self.seed, self.like = method, site.seed, (next(site.net.parameters()),)
        needs, sees = method.signal.needs, method.feedback.sees
        # asked at every step, and a flag takes as long to ask as a small product
        self.by_ids, self.by_target = Needs.IDS in needs, Needs.TARGET in needs
        self.by_gradient, self.by_activity = Needs.GRADIENT in needs, Sees.ACTIVITY in sees
        self.early_known = not self.by_gradient and Needs.OUTPUT not in needs
        self.looks_ahead = bool(sees & (Sees.JACOBIAN | Sees.RELAY))
        self.learns = method.feedback.learns
        self.targets_seen = self.error_seen = False
        shapes = list(site.layout.outputs.values())
        if len(shapes) > 1 and self.by_target:
            raise ValueError(ONE_OUTPUT.format(count=len(shapes), names=", ".join(map(repr, site.layout.outputs))))
        if self.looks_ahead and len(site.layout.groups) < len(shapes):
            raise ValueError(SHARED_HEAD)
        self.shape, self.dtype = joined_shape(shapes), self.like[0].dtype
        self.width = row_width(self.shape)
        self.ports: dict[str, PortSpec] = {}
        self.names: dict[str, list[str]] = {}
        self.plans: dict[Any, Plan] = {}
        self.whole: Plan | None = None
        fitted, shared = grouped(site.layout, self.shape), method.feedback.shares_positions
        found = specs(site.net, site.layout, self.shape, fitted, shared, site.look)
        if isinstance(method.feedback, PerPort):
            method.feedback.check(found)
        self._fill(found, method.feedback.init(found, seeded("direct feedback", site.seed)))
        self.stream = Stream(site.seed) if Sees.JACOBIAN in sees else None
        self.memory = method.signal.memory(torch.Size(self.shape[1:]).numel()) if self.by_ids else None
        self.input_batch = 0
        if self.memory is not None:
            self.memory.to(self.like[0].device)
            self.input_batch = input_batch(site.look, self.shape)
            if is_time_first(site.look, self.shape):
                raise ValueError(TIME_FIRST.format(shape=self.shape))

    # -------------------------------------------------------------------------------------------- the feedback

    def _fill(self, found: Sequence[PortSpec], filled: Sequence[FeedbackTensors]) -> None:
        """Register the tensors of these ports' feedback, each once."""
        known: dict[int, str] = {}
        for k, (spec, parts) in enumerate(zip(found, filled, strict=True), len(self.ports)):
            self.ports[spec.name] = replace(spec, reader=None)
            for i, part in enumerate(parts):
                if id(part) not in known:
                    known[id(part)] = f"feedback_{k}_{i}" if i else f"feedback_{k}"
                    self._register(known[id(part)], part)
            self.names[spec.name] = [known[id(part)] for part in parts]
        self.blocks = tuple(self.ports)

    def _register(self, name: str, part: Tensor) -> None:
        if self.learns:
            self.register_parameter(name, nn.Parameter(part))
        else:
            self.register_buffer(name, part)

    def parts_of(self, block: str) -> FeedbackTensors:
        """The tensors of one block's feedback."""
        held: Any = self._parameters if self.learns else self._buffers  # getattr takes twice as long
        return tuple(map(held.__getitem__, self.names[block]))

    @property
    def parts(self) -> dict[str, FeedbackTensors]:
        """The tensors of each block's feedback."""
        return {block: self.parts_of(block) for block in self.names}

    @property
    @override
    def feedback(self) -> dict[str, Tensor]:
        matrix = self.direct.feedback.matrix
        return {block: matrix(self.ports[block], parts) for block, parts in self.parts.items() if parts}

    @override
    def describe(self, block: str) -> str:
        spec = self.ports[block]
        return " x ".join(map(str, (spec.outputs, *spec.shape))) if self.names[block] else "relayed"

    def follow(self, device: torch.device) -> None:
        """Move the feedback along if the network was moved without its learner."""
        held: Any = self._parameters if self.learns else self._buffers
        for name, part in held.items():
            if part.device == device:
                continue
            if isinstance(part, nn.Parameter):
                part.data = part.data.to(device)  # in place: an optimizer holds it
            else:
                self._buffers[name] = part.to(device)

    @property
    @override
    def direct_route(self) -> DirectRoute:
        return self

    # -------------------------------------------------------------------------------------------------- a pass

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        ahead = self.open(call, context) if self.looks_ahead or self.memory is not None else None
        cutter = self.cutter
        before, cutter.run = (
            cutter.run,
            (run := Pass(self.net_of[0], ports=self.layout.ports, constants=self.layout.constants)),
        )
        try:
            output = call.forward(*call.args, **call.kwargs)
        finally:
            cutter.run = before
        return self.connect(output, run, context, ahead)

    def open(self, call: Call, context: BatchContext) -> Mapping[str, Tensor]:
        """Before the network runs: check the memory's samples, run what the feedback sees in forward mode."""
        self.check_inputs((call.args, call.kwargs), context)
        return self.forward_mode(call) if self.looks_ahead else {}

    def check_inputs(self, inputs: Any, context: BatchContext) -> None:
        """Check that the memory sees the inputs that it saw before."""
        memory = self.memory
        if memory is None or context.ids is None or torch.compiler.is_compiling():
            return
        if in_backward():
            raise RuntimeError(WHOLE_CHECKPOINT)
        x = first_tensor(inputs) if memory.input_checks_left > 0 else None
        if x is not None and not packed(inputs):  # whose rows are no samples
            memory.check_views(context.ids, x.movedim(self.input_batch, 0) if x.dim() > self.input_batch else x)

    def forward_mode(self, call: Call) -> Mapping[str, Tensor]:
        """What the feedback sees that needs forward-mode passes of its own, by block."""
        passes = ForwardPasses(
            net=self.net,
            layout=self.layout,
            args=call.args,
            kwargs=call.kwargs,
            ports=self.ports,
            parts=self.parts,
            stream=self.stream,
        )
        return self.direct.feedback.forward_mode(passes)

    @override
    def connect(self, output: Any, run: Pass, context: BatchContext, ahead: Mapping[str, Tensor] | None = None) -> Any:
        if type(output) is Tensor:
            return self._connected(output, output, run, context, ahead)
        outputs = Outputs(output, self.layout, run.met)
        return outputs.connected(self._connected(outputs.y, output, run, context, ahead))

    def _connected(
        self, y: Tensor, output: Any, run: Pass, context: BatchContext, ahead: Mapping[str, Tensor] | None
    ) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if compiling:
            key = run.fingerprint((y,))
        else:  # the same; written out, as it is asked at every pass
            key = (*run.calls, *run.marks, -1 if y.grad_fn is None else y.grad_fn._sequence_nr() - run.first)
        plan = self.plans.get(key) or self._plan(key, output, run)
        if not plan.ports:  # all hidden blocks are frozen
            self.remember(y, context)
            return y
        held: Any = self._parameters if self.learns else self._buffers
        parts = list(map(held.__getitem__, plan.names))
        if parts and parts[0].device != y.device:
            self.follow(y.device)
            parts = list(map(held.__getitem__, plan.names))
        ports = run.tensors if plan.picks is None else [run.tensors[i] for i in plan.picks]
        if compiling:  # which knows no attrgetter
            self._check_ports(plan, run, y)
        elif (y.shape, *map(SHAPE, ports)) not in plan.fitted or list(map(VERSION, run.tensors)) != run.versions:
            self._check_ports(plan, run, y)
            plan.fitted.add((y.shape, *map(SHAPE, ports)))
        known, target = self._known(y, ports[0], context) if self.by_target else (None, None)
        seen = _in_order(ahead, plan) if ahead else [None] * len(ports)
        first = None if compiling or self.error_seen else self.look
        result: Tensor = Broadcast.apply(plan, context, first, y, known, target, *ports, *seen, *parts)  # type: ignore[no-untyped-call]
        return result

    def _plan(self, key: Any, output: Any, run: Pass) -> Plan:
        """The plan of a pass that takes a new way through the network."""
        path = self.path(output, run, key)
        met = ports_of(run, path)
        for block, one in met:
            if block not in self.ports:
                self._add(block, one.tensor)
        leads = [lead for block, lead in zip(path.blocks, path.leads, strict=True) if block is not None]
        plan = self.plans[key] = self.plan([block for block, _ in met], leads)
        if len(met) < len(run.met):
            plan.picks = tuple(k for k, block in enumerate(path.blocks) if block is not None)
        return plan

    def _check_ports(self, plan: Plan, run: Pass, y: Tensor) -> None:
        output = grouped(self.layout, y.shape)
        for spec, k in zip(plan.ports, plan.picks or range(len(run.tensors)), strict=True):
            spec.check(run.tensors[k], run.versions[k], output)

    def look(self, y: Tensor, e: Tensor, context: BatchContext, node: object) -> None:
        """Look at the first error that arrives (see `advise_error`)."""
        if not self.error_seen:
            self.error_seen, signal = True, self.direct.signal
            seen, sums = signal.scales and not self.learns, not signal.scales and not signal.means
            advise_error(y, e, node, scale=context.scale, by_gradient=self.by_gradient, sees_scale=seen, sums=sums)

    def plan(self, blocks: Sequence[str], leads: Sequence[frozenset[str] | None]) -> Plan:
        """What the broadcast must know of a pass that met these ports, each of which leads to these outputs."""
        order = list(dict.fromkeys(name for block in blocks for name in self.names[block]))
        return Plan(
            method=self.direct,
            ports=tuple(self.ports[block] for block in blocks),
            names=tuple(order),
            indices=tuple(tuple(order.index(name) for name in self.names[block]) for block in blocks),
            columns=tuple(columns(self.layout, lead) for lead in leads),
        )

    def whole_plan(self) -> Plan:
        """The plan of a pass that meets each port once."""
        if self.whole is None or len(self.whole.ports) < len(self.blocks):
            lead = dict(zip(self.layout.first.blocks, self.layout.first.leads, strict=True))
            self.whole = self.plan(self.blocks, [lead.get(block) for block in self.blocks])
        return self.whole

    def _add(self, block: str, port: Tensor) -> None:
        """Draw the feedback of a block that the pass which found the blocks did not run.

        Raises:
            RuntimeError: the feedback learns: the optimizer would not know it.
        """
        feedback = self.direct.feedback
        if feedback.learns or self.looks_ahead:
            raise RuntimeError(
                f"block {block!r} did not run in the pass that found the blocks, so its feedback is unknown to the "
                "optimizer: attach with an example, and in a mode, in which all layers run (such as net.eval())"
            )
        output = grouped(self.layout, self.shape)
        spec = spec_of(block, port.shape, output, self.like[0], feedback.shares_positions)
        self._fill([spec], feedback.init([spec], seeded("direct feedback", self.seed, block)))

    # ---------------------------------------------------------------------------------------------- the signal

    def _known(self, y: Tensor, port: Tensor, context: BatchContext) -> tuple[Tensor | None, Tensor | None]:
        """The signal if it is known by now, and the target for signals that need it together with the gradient."""
        rows = output_rows(y.detach())
        if context.target is None or (self.by_ids and context.ids is None):
            if self.net.training:
                raise ValueError(no_context(type(self.direct.signal).__name__, self.by_ids))
            port.register_hook(refuse_untaught)  # evaluation is free; training by it would silently be something else
            return torch.zeros_like(rows), None
        target, mask = self._target(context, rows.shape, rows.dtype, rows.device)
        if self.by_gradient:
            return None, target
        signal = self.signal_of(None, rows, target, mask, context.ids)
        if self.memory is not None and context.ids is not None:
            self.memory.write(context.ids, rows, target)
        return signal, target

    def early(self, context: BatchContext) -> tuple[Tensor, Tensor]:
        """The signal of a pass that has not begun, and the target as a matrix. For early signals only."""
        t, ids = context.target, context.ids
        if t is None or (self.by_ids and ids is None):
            raise ValueError(no_context(type(self.direct.signal).__name__, self.by_ids))
        width, each = self.width, t.shape[1:].numel() == 1 or t.dim() == len(self.shape) - 1
        indices = each and width > 1 and not t.is_floating_point()
        count = t.numel() if indices else len(t) if t.numel() % width else t.numel() // width
        target, mask = self._target(context, (count, width), self.dtype, t.device)
        return self.signal_of(None, None, target, mask, ids), target

    def _target(
        self, context: BatchContext, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """The target of a batch as a matrix (R, C), and which of its rows are taught (R, 1); `None` for all."""
        assert context.target is not None
        target, mask = matrix_of(context.target, shape, dtype, device)
        if context.mask is not None:
            mask = masked(target, mask, context.mask)
        if not self.targets_seen:
            self.advise(target)
        return target, mask

    def signal_of(
        self, e: Tensor | None, rows: Tensor | None, target: Tensor | None, mask: Tensor | None, ids: Tensor | None
    ) -> Tensor:
        """The signal from matrices of the error, the output and the target, without the rows that are not taught.

        A signal that is a mean over the rows is then one over those that are left.
        """
        memory, stored = self.memory, None
        if memory is not None and ids is not None and target is not None:
            stored = memory.read(ids, target)
        signal = self.direct.signal(SignalInputs(gradient=e, output=rows, target=target, memory=stored))
        if mask is None or e is not None:
            return signal
        if not self.direct.signal.means or rows is not None:  # after the pass, the error says how many are left
            return signal * mask
        return signal * (mask * (len(mask) / mask.sum().clamp_min(1).to(signal.dtype)))

    def late(self, e: Tensor, y: Tensor, context: BatchContext) -> Tensor:
        """The signal of a pass that has run, from the gradient at its output y. For late signals only."""
        rows, error, target = output_rows(y), output_rows(e), None
        if self.by_target and context.target is not None:
            target = as_matrix(context.target, rows)
            if not self.targets_seen:
                self.advise(target)
        if self.by_gradient:
            return self.signal_of(error, rows, target, None, None)
        return where_error(self.direct, self.signal_of(None, rows, target, None, None), error)

    def remember(self, y: Tensor, context: BatchContext, target: Tensor | None = None) -> None:
        """Write this batch's errors to the memory although another signal (an anchor pass, `step`) did the teaching."""
        if self.memory is not None and context.target is not None and context.ids is not None:
            rows = output_rows(y.detach())
            self.memory.write(context.ids, rows, as_matrix(context.target, rows) if target is None else target)

    def advise(self, target: Tensor) -> None:
        """Warn of targets (R, C) with which signal and feedback run, and are known to collapse."""
        if torch.compiler.is_compiling():
            return
        self.targets_seen, signal = True, self.direct.signal
        advise(signal.advice(target))
        if signal.one_signed and bool((target >= 0).all()):
            stored = {block: parts[0] for block, parts in self.parts.items() if len(parts) == 1}
            shapes = {block: (spec.outputs, *spec.shape) for block, spec in self.ports.items()}
            advise(one_signed_columns({block: B for block, B in stored.items() if B.shape == shapes[block]}))


def _in_order(ahead: Mapping[str, Tensor], plan: Plan) -> list[Tensor]:
    """What forward mode found for each port of a pass.

    Raises:
        RuntimeError: the passes of forward mode took another way.
    """
    missing = [spec.name for spec in plan.ports if spec.name not in ahead]
    if missing:
        raise RuntimeError(
            f"block {missing[0]!r} ran in this forward pass, but not in that of forward mode, which this feedback sees "
            "and which comes first: the network chooses by chance which layers run, so take feedback without forward "
            "mode, as in dfa()"
        )
    return [ahead[spec.name] for spec in plan.ports]
