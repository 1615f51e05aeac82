"""Looking at a taught network: what stands at each port, and what it would be taught. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from skipback.blocks import Cut, Layout, tapped
from skipback.blocks.outputs import Outputs
from skipback.blocks.rows import output_rows
from skipback.core.broadcast import teaching
from skipback.core.learner import TaughtNetwork
from skipback.core.records import NO_CONTEXT, SignalInputs
from skipback.core.route import Call
from skipback.targets import as_matrix


class ObservedNetwork(TaughtNetwork):
    """A network with a method attached, that can be looked at."""

    def observe(
        self, *args: Any, layout: Layout | None = None, **kwargs: Any
    ) -> tuple[Outputs, dict[str, GradientEdge]]:
        """Run the plain network once.

        Args:
            args: positional inputs.
            layout: other blocks than the method's, which has none for backprop.
            kwargs: named inputs.

        Returns:
            The outputs, and by block the port for `torch.autograd.grad`.
        """
        layout = layout or self.layout
        assert layout is not None
        ports: dict[str, GradientEdge] = {}

        def record(cut: Cut, port: Tensor) -> None:
            ports[cut.block] = get_gradient_edge(port)  # the tensor itself may be written in place later

        with tapped(self.net, layout, record), self.exact():
            return Outputs(self.net(*args, **kwargs), layout, ()), ports

    def teaching_probe(self, *args: Any, **kwargs: Any) -> Callable[..., dict[str, Tensor]]:
        """If the feedback needs activations or tangents, run the network once without training it.

        Returns:
            A function from `SignalInputs` and the output's shape to the teaching that each port of a direct method
            would get, in the shape of the port.
        """
        direct = self.direct
        if direct is None or self.layout is None:
            return lambda step, output: {}
        ports = self._look(self.layout, args, kwargs, lambda inputs: inputs)
        call = Call(self.replaced or type(self.net).forward.__get__(self.net), args, kwargs)
        ahead = direct.forward_mode(call) if direct.looks_ahead and direct.stream is None else {}

        def teachings(step: SignalInputs, output: Sequence[int]) -> dict[str, Tensor]:
            plan, signal, found = direct.whole_plan(), direct.direct.signal(step), {}
            with torch.no_grad():
                for k, block in enumerate(direct.blocks):
                    if block in ports:
                        h, parts = ports[block], direct.parts_of(block)
                        lesson = plan.lesson(k, signal, output, h.shape, h, ahead.get(block))
                        # the dtype of the feedback, not of a port in half precision
                        dtype = parts[0].dtype if parts and parts[0].is_floating_point() else h.dtype
                        found[block] = teaching(plan, k, lesson, parts, NO_CONTEXT, h.shape, dtype)
            return found

        return teachings

    def signal_inputs(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> SignalInputs:
        """What the signal of a direct method would look at.

        Args:
            e: dL/dy, of the shape of y.
            y: the output.
            t: the target.
            ids: for delayed signals.
        """
        direct, rows = self.direct, output_rows(y.detach())
        target = as_matrix(t, rows) if direct.by_target else None
        memory = direct.memory.read(ids, target) if direct.memory and ids is not None and target is not None else None
        return SignalInputs(gradient=output_rows(e), output=rows, target=target, memory=memory)
