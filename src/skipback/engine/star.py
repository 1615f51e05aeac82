"""The star: what a direct method keeps (feedback, memory), and how it connects an output to the ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skipback.blocks import Layout, first_tensor, swap
from skipback.engine.broadcast import Plan, broadcast
from skipback.engine.guards import check, check_error, check_first_run, check_gradient, check_port, refuse
from skipback.engine.jacobian import estimate
from skipback.engine.relay import relay
from skipback.engine.stream import Stream, seeded
from skipback.feedback import Parts, Sees
from skipback.memory import Memory
from skipback.method import Direct
from skipback.types import Needs, PortSpec, Step, as_matrix, matrix_of, row_width


@dataclass(frozen=True)
class Given:
    """What travels with the input: target, ids, and what the loss is multiplied with."""

    target: Tensor | None = None
    ids: Tensor | None = None
    scale: float | Tensor = 1.0


NOTHING = Given()


class Star(nn.Module):
    """Feedback and memory of a direct method on one network.

    Args:
        method: the signal and the feedback.
        layout: the network's segments.
        net: the network: dtype and device of the feedback are those of its first parameter.
        seed: of the feedback.
    """

    memory: Memory | None
    stream: Stream | None

    def __init__(self, method: Direct, layout: Layout, net: nn.Module, *, seed: int) -> None:
        super().__init__()
        self.method, self.needs, self.sees = method, method.signal.needs, method.feedback.sees
        # asked at every step, and a flag takes as long to ask as a small product
        self.early_known, self.by_ids = self.needs.early, Needs.IDS in self.needs
        self.by_relay, self.by_activity = Sees.RELAY in self.sees, Sees.ACTIVITY in self.sees
        self.cuts = layout.cuts
        self.ahead: dict[str, Tensor] = {}
        self.checked = self.looked = False
        ports, self.dtype = specs(layout, net), next(net.parameters()).dtype
        self.ports = {spec.name: replace(spec, reader=None) for spec in ports}
        self.blocks = tuple(self.ports)
        self.plans: dict[tuple[str, ...], Plan] = {}
        self.names: dict[str, list[str]] = {}
        filled, known = method.feedback.init(ports, seeded("direct feedback", seed)), {}
        for k, (block, parts) in enumerate(zip(self.ports, filled, strict=True)):
            for i, part in enumerate(parts):
                if id(part) not in known:
                    known[id(part)] = f"feedback_{k}_{i}" if i else f"feedback_{k}"
                    self._keep(known[id(part)], part)
            self.names[block] = [known[id(part)] for part in parts]
        self.stream = Stream(seed) if Sees.JACOBIAN in self.sees else None
        self.shape = layout.segments[-1].shape
        self.width = row_width(self.shape)
        self.memory = method.signal.memory(torch.Size(self.shape[1:]).numel())
        if self.memory is not None:
            self.memory.to(next(net.parameters()).device)

    def _keep(self, name: str, part: Tensor) -> None:
        if self.method.feedback.learns:
            self.register_parameter(name, nn.Parameter(part))
        else:
            self.register_buffer(name, part)

    @property
    def parts(self) -> dict[str, Parts]:
        """The tensors of each block's feedback."""
        return {block: self.parts_of(block) for block in self.names}

    def parts_of(self, block: str) -> Parts:
        """The tensors of one block's feedback."""
        held: Any = self._parameters if self.method.feedback.learns else self._buffers  # getattr takes twice as long
        return tuple([held[name] for name in self.names[block]])

    @property
    def feedback(self) -> dict[str, Tensor]:
        """B (C, *P) of each block that has tensors: the matrix that its feedback acts as."""
        matrix = self.method.feedback.matrix
        return {block: matrix(self.ports[block], parts) for block, parts in self.parts.items() if parts}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of `feedback`, which may be far larger than what is stored."""
        return {
            block: (self.ports[block].outputs, *self.ports[block].shape) for block in self.ports if self.names[block]
        }

    def teachings(
        self, step: Step, activities: Mapping[str, Tensor], relayed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The teaching (N, *P) that each port would get at this step."""
        signal, parts, plan = self.method.signal(step), self.parts, self.plan(self.blocks)
        lessons = {
            block: plan.lesson(k, signal, activities.get(block), relayed.get(block))
            for k, block in enumerate(self.ports)
        }
        with torch.no_grad():
            return {block: self.method.feedback.project(lesson, parts[block]) for block, lesson in lessons.items()}

    def plan(self, blocks: tuple[str, ...]) -> Plan:
        """What the broadcast must know of a pass that met these ports."""
        if blocks not in self.plans:
            ports = tuple(self.ports[block] for block in blocks)
            order = self._order(blocks)
            places = tuple(tuple(order.index(name) for name in self.names[block]) for block in blocks)
            self.plans[blocks] = Plan(method=self.method, ports=ports, places=places, width=self.width)
        return self.plans[blocks]

    def _order(self, blocks: Sequence[str]) -> list[str]:
        """The names of all tensors of these blocks' feedback, each once."""
        return list(dict.fromkeys(name for block in blocks for name in self.names[block]))

    def open(self, net: nn.Module, args: Any, kwargs: Any, given: Given, *, training: bool) -> None:
        """Before the network runs: check the memory's samples, run ahead in forward mode."""
        if self.ahead:
            self.ahead = {}  # of a pass that failed
        if training:
            self.check_views((args, kwargs), given)
        if training and self.stream is not None:
            generator = self.stream.next(next(net.parameters()).device)
            tangents = self.method.feedback.tangents
            self.ahead = estimate(net, self.cuts, args, kwargs, self.ports, generator=generator, tangents=tangents)
        if self.by_relay:
            self.ahead = self.relayed(net, args, kwargs)

    def check_views(self, inputs: Any, given: Given) -> None:
        """Check that the memory sees the inputs that it saw before."""
        memory = self.memory
        if memory is None or torch.compiler.is_compiling():
            return
        check_first_run()
        x = first_tensor(inputs) if memory.input_checks_left > 0 else None
        if x is not None and given.ids is not None:
            memory.check_views(given.ids, x)

    def early(self, given: Given) -> tuple[Tensor, Tensor]:
        """The signal of a pass that has not begun, and the target as a matrix. For early signals only."""
        t, ids = given.target, given.ids
        if t is None or (self.by_ids and ids is None):
            raise ValueError(self._missing())
        each = t.shape[1:].numel() == 1 or t.shape[1:] == self.shape[1:-1]
        indices = not t.is_floating_point() and self.width > 1 and each
        count = t.numel() if indices else len(t) if t.numel() % self.width else t.numel() // self.width
        target = matrix_of(t, (count, self.width), self.dtype, t.device)
        self._check_once(target)
        memory = self.memory
        rows = None if memory is None or ids is None else memory.read(ids, target)
        return self.method.signal(Step(target=target, memory=rows)), target

    def late(self, e: Tensor, y: Tensor, given: Given) -> Tensor:
        """The signal of a pass that has run, from the gradient at its output y. For late signals only."""
        rows, target = self.plan(self.blocks).rows(y), None
        if Needs.TARGET in self.needs and given.target is not None:
            target = as_matrix(given.target, rows)
            self._check_once(target)
        return self.method.signal(Step(gradient=self.plan(self.blocks).rows(e), output=rows, target=target))

    def look(self, e: Tensor, y: Tensor | None) -> None:
        """Look at the first gradient that arrives at an output."""
        if self.looked:
            return
        self.looked = True
        if y is not None:
            check_error(self.method.signal, y, e)

    def relayed(self, net: nn.Module, args: Any, kwargs: Any) -> dict[str, Tensor]:
        """The tangents of every port in the directions of the first one's feedback, for feedback that looks at them."""
        if Sees.RELAY not in self.sees or not self.ports:
            return {}
        first = next(iter(self.ports))
        return relay(net, self.cuts, args, kwargs, first, self.feedback[first].detach())

    def connect(self, output: Any, ports: Sequence[tuple[str, Tensor, int]], given: Given, *, training: bool) -> Any:
        """Return the output, connected so that its gradient teaches the ports."""
        y = first_tensor(output)
        assert y is not None
        self.follow(y.device)
        for block, port, version in ports:
            check_port(self.ports[block], port, version, y)
        blocks = tuple(block for block, _, _ in ports)
        plan = self.plan(blocks)
        known, target = self._known(plan, y, ports[0][1], given, training=training)
        taught = broadcast(
            plan,
            y,
            known=known,
            target=target,
            scale=given.scale,
            ports=[port for _, port, _ in ports],
            parts=[getattr(self, name) for name in self._order(blocks)],
            ahead=[self.ahead[block] for block in blocks] if self.ahead else (),
        )
        self.ahead = {}
        if not self.looked and not torch.compiler.is_compiling():
            self.looked = True
            check_gradient(self.method.signal, y, taught)
        return swap(output, y, taught)

    def step(self, e: Tensor, y: Tensor, target: Tensor, ids: Tensor | None) -> Step:
        """All that a signal could look at, from the gradient at the output, the output, and what travels with x."""
        plan = self.plan(self.blocks)
        rows = plan.rows(y.detach())
        wanted = as_matrix(target, rows) if Needs.TARGET in self.needs else None
        memory = self.memory.read(ids, wanted) if self.memory and ids is not None and wanted is not None else None
        return Step(gradient=plan.rows(e), output=rows, target=wanted, memory=memory)

    def remember(self, output: Any, given: Given, target: Tensor | None = None) -> None:
        """Note a visit that was taught by something else than this signal; `target` as a matrix, if it is known."""
        memory = self.memory
        if memory is None or given.target is None or given.ids is None:
            return
        y = first_tensor(output)
        if y is not None:
            rows = self.plan(self.blocks).rows(y.detach())
            memory.write(given.ids, rows, as_matrix(given.target, rows) if target is None else target)

    def _known(
        self, plan: Plan, y: Tensor, port: Tensor, given: Given, *, training: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The signal if it is known by now, and the target for signals that need it together with the gradient."""
        if Needs.TARGET not in self.needs:
            return None, None
        rows = plan.rows(y.detach())
        if given.target is None or (self.by_ids and given.ids is None):
            if training:
                raise ValueError(self._missing())
            port.register_hook(refuse)  # evaluation is free; training by it would silently be something else
            return torch.zeros_like(rows), None
        target = as_matrix(given.target, rows)
        self._check_once(target)
        if Needs.GRADIENT in self.needs:
            return None, target
        return self._signal(rows, target, given, training=training), target

    def _signal(self, rows: Tensor, target: Tensor, given: Given, *, training: bool) -> Tensor:
        if self.memory is None or given.ids is None:
            return self.method.signal(Step(output=rows, target=target))
        memory = self.memory.read(given.ids, target)
        signal = self.method.signal(Step(output=rows, target=target, memory=memory))
        if training:
            self.memory.write(given.ids, rows, target)
        return signal

    def _missing(self) -> str:
        what = "target=t, ids=ids" if Needs.IDS in self.needs else "target=t"
        return (
            f"this signal ({type(self.method.signal).__name__}) is sent from what travels with the input: call "
            f"learner(x, {what}), or the network inside `with learner.given({what}):`"
        )

    def _check_once(self, target: Tensor) -> None:
        if not self.checked and not torch.compiler.is_compiling():
            self.checked = True
            known = {block: parts[0] for block, parts in self.parts.items() if len(parts) == 1}
            check(self.method.signal, target, {b: B for b, B in known.items() if B.shape == self.shapes[b]})

    def follow(self, device: torch.device) -> None:
        """Move the feedback along if the network was moved without its learner."""
        if all(part.device == device for block in self.blocks for part in self.parts_of(block)):
            return
        for name in {name for names in self.names.values() for name in names}:
            kept = getattr(self, name)
            if isinstance(kept, nn.Parameter):
                kept.data = kept.data.to(device)  # in place: an optimizer holds it
            else:
                setattr(self, name, kept.to(device))


def specs(layout: Layout, net: nn.Module) -> list[PortSpec]:
    """What the feedback of each port must fit.

    Raises:
        ValueError: the first dimension of a port is not that of the output, or the only one.
    """
    output, like, found = layout.segments[-1].shape, next(net.parameters()), []
    readers = {cut.block: net.get_submodule(cut.module) for cut in layout.cuts if cut.before}
    for segment in layout.segments[:-1]:
        port = segment.shape
        if len(output) == 0 or port[:1] != output[:1]:
            raise ValueError(
                f"port {segment.block!r} has shape {port} and the output {output}: the first dimension of "
                "both must be the batch. Name other blocks with blocks=[...]"
            )
        if len(port) == 1:
            raise ValueError(
                f"port {segment.block!r} has shape {port}, one number per sample and no dimension for it: let the "
                f"block return {(*port, 1)}, or name other blocks with blocks=[...]"
            )
        shared = len(output) == 3 and len(port) > 2 and port[1] == output[1]
        found.append(
            PortSpec(
                name=segment.block,
                shape=port[1 + shared :],
                outputs=torch.Size(output[1 + shared :]).numel(),
                dtype=like.dtype,
                device=like.device,
                positions=int(shared),
                reader=reader.weight if isinstance(reader := readers.get(segment.block), nn.Linear) else None,
            )
        )
    return found
