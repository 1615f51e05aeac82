"""The layerwise route: the error is propagated backwards through every layer, by feedback instead of W transposed.

One tensor B for each weight of a linear map or a convolution, the head's included: the head's own W gets its exact
gradient, and its B propagates the error to the layer below. Blocks play no role here; every layer has feedback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from skipback.blocks import first_tensor, swap
from skipback.engine.calls import LayerCall, feedback_view_of
from skipback.engine.error_free import error_free_gradients
from skipback.engine.guards import check_inside
from skipback.engine.interceptor import OnLayerCall, WeightInterceptor, switch_off
from skipback.engine.ports import Ports
from skipback.engine.route import Route
from skipback.engine.star import Given
from skipback.engine.stream import Stream, seeded
from skipback.engine.transported import transported
from skipback.method import Layerwise

COMPILED = (
    "a layerwise method watches torch's functions, which torch.compile does not follow: compile nothing around the "
    "network (torch.compile(loss) is fine), or train it by a direct method such as skipback.dfa()"
)


@dataclass
class Pass:
    """The state of one pass (not attributes of the route, as setting an attribute of a module takes microseconds).

    Attributes:
        interceptor: on while the network runs.
        met: by name, the weights that this pass has used.
        seed: seed of the transport's draws in this pass; `None` if it draws nothing.
        again: a module that a checkpoint runs again in backward, and its own interceptor.
    """

    interceptor: WeightInterceptor | None = None
    met: dict[str, nn.Parameter] = field(default_factory=dict)
    seed: int | None = None
    again: tuple[nn.Module, WeightInterceptor] | None = None


class Layers(Route):
    """Feedback of a layerwise method on one network.

    Args:
        method: the transport.
        net: the network.
        ports: says whether the method is switched off (`idle`).
        run: performs one forward pass of `net`, to find its layers.
        seed: of the feedback.
    """

    def __init__(
        self, method: Layerwise, net: nn.Module, ports: Ports, run: Callable[[], object], *, seed: int
    ) -> None:
        super().__init__()
        self.transport, self.ports, self.now = method.transport, ports, Pass()
        # owners and names of the parameters, not the parameters, which may be replaced (`load_state_dict`)
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

    @override
    def open(self, net: nn.Module, args: Any, kwargs: Any, given: Given) -> None:
        """Switch the interceptor on, after drawing and moving the feedback where needed."""
        self.leave()
        if torch.compiler.is_compiling():
            raise RuntimeError(COMPILED)
        self.now.met, self.now.seed = {}, None
        self._follow()
        if net.training and self.stream is not None:
            generator = self.stream.next(torch.device("cpu"))  # the same bits on every device
            self.now.seed = generator.initial_seed()
            self._redraw(generator)
        self.now.interceptor = self._interceptor(self._pass)
        self.now.interceptor.switch_on()

    @override
    def close(self, net: nn.Module, output: Any, given: Given) -> Any:
        """Switch the interceptor off, and connect the error-free gradients of learned feedback."""
        self.leave()
        y, met = first_tensor(output), self.now.met
        self.now.met = {}
        silent = self.transport.random and self.now.seed is None
        if not self.transport.learned or silent or y is None or not y.requires_grad or not met:
            return None
        pairs = [(weight, self.feedback[name]) for name, weight in met.items()]
        return swap(output, y, error_free_gradients(self.transport, y, pairs, given.scale, self.now.seed))

    @override
    def leave(self) -> None:
        """Switch the interceptor off, also after an interrupted pass."""
        switch_off(self.now.interceptor)
        self.now.interceptor = None

    @override
    def remove(self) -> None:
        """Remove all hooks from the network."""
        for handle in self.handles:
            handle.remove()

    def _interceptor(self, on_call: OnLayerCall) -> WeightInterceptor:
        names = {id(module._parameters[own]): name for module, own, name in self.places}
        return WeightInterceptor(names, on_call)

    def _meet(self, run: Callable[[], object]) -> dict[str, nn.Parameter]:
        """The weights that one forward pass uses, in the order of the calls."""
        met: dict[str, nn.Parameter] = {}

        def note(name: str, weight: nn.Parameter, call: LayerCall) -> Tensor:
            met[name] = weight
            # by the same function as in training: the interceptor recognises activities by it
            return transported(call.layer, self.transport, call.x, call.weight, call.bias, call.weight.detach())

        with torch.enable_grad(), self._interceptor(note):
            run()
        return met

    def _pass(self, name: str, weight: nn.Parameter, call: LayerCall) -> Tensor:
        if name not in self.weights:
            raise RuntimeError(
                f"parameter {name!r} has no feedback: the forward pass that found the layers did not meet it. Attach "
                "with an example that takes the same path"
            )
        self.now.met[name] = weight
        B = feedback_view_of(name, weight, call.weight, getattr(self, f"feedback_{self.weights[name]}"))
        return transported(call.layer, self.transport, call.x, call.weight, call.bias, B)

    def _keep(self, k: int, B: Tensor) -> None:
        if self.transport.learned:
            self.register_parameter(f"feedback_{k}", nn.Parameter(B))
        else:
            self.register_buffer(f"feedback_{k}", B)

    def _redraw(self, generator: Generator) -> None:
        """Draw the feedback of this pass. Not in place: an earlier pass may still need its feedback in backward."""
        parameters = self._by_name()
        for name, k in self.weights.items():
            B = getattr(self, f"feedback_{k}")
            new = self.transport.redraw(parameters[name].detach(), B, generator)
            if new is not B:
                self._buffers[f"feedback_{k}"] = new

    def _follow(self) -> None:
        """Move the feedback to the device and dtype of its weight, if the network was moved without its learner."""
        parameters = self._by_name()
        for name, k in self.weights.items():
            B, W = getattr(self, f"feedback_{k}"), parameters[name]
            if (B.device, B.dtype) == (W.device, W.dtype):
                continue
            if self.transport.learned:
                B.data = B.data.to(W.device, W.dtype)  # in place, as the optimizer holds this parameter
            else:
                self._buffers[f"feedback_{k}"] = B.to(W.device, W.dtype)

    def _by_name(self) -> dict[str, Tensor]:
        return {
            name: parameter for module, own, name in self.places if (parameter := module._parameters[own]) is not None
        }

    def _enter(self, module: nn.Module, args: Any) -> None:
        """Before a layer runs. Outside of a forward pass, only a checkpoint runs it, again in backward."""
        if self.ports.idle or self.now.interceptor is not None or self.now.again is not None:
            return
        check_inside(next(name for owner, _, name in self.places if owner is module).rpartition(".")[0])
        self.now.again = (module, self._interceptor(self._pass))
        self.now.again[1].switch_on()

    def _exit(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.now.again is not None and self.now.again[0] is module:
            switch_off(self.now.again[1])
            self.now.again = None


def _home(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns a parameter, and its name there."""
    path, _, own = name.rpartition(".")
    return net.get_submodule(path), own


def _around(module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> list[RemovableHandle]:
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]
