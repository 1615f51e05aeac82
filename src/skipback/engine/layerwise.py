"""The layerwise route: the error passes backwards through every layer, through feedback instead of W transposed.

One tensor B for each weight of a linear map or a convolution, the head's included: the head's own W gets its exact
gradient, and its B carries the error to the layer below. The blocks do not matter here; every layer is met by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.hooks import RemovableHandle

from skipback.blocks import first_tensor, swap
from skipback.engine.calls import Call, feedback_view_of
from skipback.engine.error_free import drifting
from skipback.engine.guards import check_inside
from skipback.engine.interceptor import OnCall, Watch, leave
from skipback.engine.ports import Ports
from skipback.engine.route import Route
from skipback.engine.star import Given
from skipback.engine.stream import Stream, seeded
from skipback.engine.transported import passing
from skipback.method import Layerwise

COMPILED = (
    "a layerwise method watches torch's functions, which torch.compile does not follow: compile nothing around the "
    "network (torch.compile(loss) is fine), or train it by a direct method such as skipback.dfa()"
)


@dataclass
class Pass:
    """What changes with every pass (an object of its own: setting an attribute of a module costs microseconds).

    Attributes:
        watch: is on while the network runs.
        met: the weights that this pass met.
        seed: of what the transport draws in this pass; `None` where it draws nothing.
        again: the module that runs again in backward (activation checkpointing), and its own watch.
    """

    watch: Watch | None = None
    met: dict[str, nn.Parameter] = field(default_factory=dict)
    seed: int | None = None
    again: tuple[nn.Module, Watch] | None = None


class Layers(Route):
    """Feedback of a layerwise method on one network.

    Args:
        method: the transport.
        net: the network.
        ports: whether the network is left alone (`idle`).
        run: performs one forward pass of `net`, to meet its layers.
        seed: of the feedback.
    """

    def __init__(
        self, method: Layerwise, net: nn.Module, ports: Ports, run: Callable[[], object], *, seed: int
    ) -> None:
        super().__init__()
        self.transport, self.ports, self.now = method.transport, ports, Pass()
        # modules and their own names for the parameters: a parameter itself may be exchanged (`load_state_dict`)
        self.places = [(*_home(net, name), name) for name, _ in net.named_parameters()]
        self.stream = Stream(seed, alike=True) if self.transport.random else None
        generator = seeded("layerwise feedback", seed)
        self.weights: dict[str, int] = {}
        for k, (name, weight) in enumerate(self._meet(run).items()):
            self.weights[name] = k
            self._keep(k, self.transport.init(weight.detach(), generator).detach())
        owners = dict.fromkeys(module for module, _, name in self.places if name in self.weights)
        self.handles = [h for module in owners for h in _around(module, self._enter, self._exit)]

    @property
    def feedback(self) -> dict[str, Tensor]:
        """B of each weight, by the name of the parameter."""
        return {name: getattr(self, f"feedback_{k}") for name, k in self.weights.items()}

    def open(self, net: nn.Module, args: Any, kwargs: Any, given: Given) -> None:
        """Start to watch."""
        self.leave()
        if torch.compiler.is_compiling():
            raise RuntimeError(COMPILED)
        self.now.met, self.now.seed = {}, None
        self._follow()
        if net.training and self.stream is not None:
            generator = self.stream.next(torch.device("cpu"))  # the same bits on every device
            self.now.seed = generator.initial_seed()
            self._redraw(generator)
        self.now.watch = self._watch(self._pass)
        self.now.watch.enter()

    def close(self, net: nn.Module, output: Any, given: Given) -> Any:
        """Stop to watch, and add what learned feedback gets whatever the error."""
        self.leave()
        y, met = first_tensor(output), self.now.met
        self.now.met = {}
        silent = self.transport.random and self.now.seed is None
        if not self.transport.learned or silent or y is None or not y.requires_grad or not met:
            return None
        pairs = [(weight, self.feedback[name]) for name, weight in met.items()]
        return swap(output, y, drifting(self.transport, y, pairs, given.scale, self.now.seed))

    def leave(self) -> None:
        """Stop to watch, also after a pass that was interrupted."""
        leave(self.now.watch)
        self.now.watch = None

    def remove(self) -> None:
        """Leave the network's modules alone from now on."""
        for handle in self.handles:
            handle.remove()

    def _watch(self, on_call: OnCall) -> Watch:
        names = {id(module._parameters[own]): name for module, own, name in self.places}
        return Watch(names, on_call)

    def _meet(self, run: Callable[[], object]) -> dict[str, nn.Parameter]:
        """The weights that one forward pass meets, in order."""
        met: dict[str, nn.Parameter] = {}

        def note(name: str, weight: nn.Parameter, call: Call) -> Tensor:
            met[name] = weight
            # by the same function as in training: the watch knows an activity by it
            return passing(call.layer, self.transport, call.x, call.weight, call.bias, call.weight.detach())

        with torch.enable_grad(), self._watch(note):
            run()
        return met

    def _pass(self, name: str, weight: nn.Parameter, call: Call) -> Tensor:
        if name not in self.weights:
            raise RuntimeError(
                f"parameter {name!r} has no feedback: the forward pass that found the layers did not meet it. Attach "
                "with an example that takes the same path"
            )
        self.now.met[name] = weight
        B = feedback_view_of(name, weight, call.weight, getattr(self, f"feedback_{self.weights[name]}"))
        return passing(call.layer, self.transport, call.x, call.weight, call.bias, B)

    def _keep(self, k: int, B: Tensor) -> None:
        if self.transport.learned:
            self.register_parameter(f"feedback_{k}", nn.Parameter(B))
        else:
            self.register_buffer(f"feedback_{k}", B)

    def _redraw(self, generator: Generator) -> None:
        """Draw anew what is drawn for every batch. Never in place: an earlier pass may still wait for its backward."""
        parameters = self._by_name()
        for name, k in self.weights.items():
            B = getattr(self, f"feedback_{k}")
            new = self.transport.redraw(parameters[name].detach(), B, generator)
            if new is not B:
                self._buffers[f"feedback_{k}"] = new

    def _follow(self) -> None:
        """Move the feedback along, if the network was moved or converted without its learner."""
        parameters = self._by_name()
        for name, k in self.weights.items():
            B, W = getattr(self, f"feedback_{k}"), parameters[name]
            if (B.device, B.dtype) == (W.device, W.dtype):
                continue
            if self.transport.learned:
                B.data = B.data.to(W.device, W.dtype)  # the optimizer holds this very parameter
            else:
                self._buffers[f"feedback_{k}"] = B.to(W.device, W.dtype)

    def _by_name(self) -> dict[str, Tensor]:
        return {
            name: parameter for module, own, name in self.places if (parameter := module._parameters[own]) is not None
        }

    def _enter(self, module: nn.Module, args: Any) -> None:
        """Before a layer runs: outside of the network's own call it can only be a checkpoint, run again in backward."""
        if self.ports.idle or self.now.watch is not None or self.now.again is not None:
            return
        check_inside(next(name for owner, _, name in self.places if owner is module).rpartition(".")[0])
        self.now.again = (module, self._watch(self._pass))
        self.now.again[1].enter()

    def _exit(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.now.again is not None and self.now.again[0] is module:
            leave(self.now.again[1])
            self.now.again = None


def _home(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns a parameter, and its name there."""
    path, _, own = name.rpartition(".")
    return net.get_submodule(path), own


def _around(module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> list[RemovableHandle]:
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]
