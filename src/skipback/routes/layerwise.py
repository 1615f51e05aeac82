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
from typing_extensions import override

from skipback.blocks import check_inside, first_tensor, swap
from skipback.core.method import Method
from skipback.core.records import BatchContext
from skipback.core.route import Call, Route, Site
from skipback.draws import seeded
from skipback.kinds import must_be
from skipback.routes.calls import LayerCall, feedback_view_of
from skipback.routes.error_free import error_free_gradients
from skipback.routes.interceptor import OnLayerCall, WeightInterceptor
from skipback.routes.transported import transported
from skipback.streams import Stream
from skipback.transport import Transport

COMPILED = (
    "a layerwise method watches torch's functions, which torch.compile does not follow: compile nothing around the "
    "network (torch.compile(loss) is fine), or train it by a direct method such as skipback.dfa()"
)


@dataclass(frozen=True, kw_only=True)
class Layerwise(Method):
    """The error passes backwards through every layer, by something else than W transposed.

        dL/dx = transport(dL/dy, W, B)     at each weight layer y = W x + b, instead of dL/dy @ W
        dL/dW, dL/db exact, from the dL/dy that arrives

    Attributes:
        transport: what replaces W transposed.
    """

    transport: Transport

    def __post_init__(self) -> None:
        must_be("transport", self.transport, Transport, "a Transport, as Random()")

    @property
    @override
    def learns(self) -> str:
        return "the feedback learns" if self.transport.learned else ""

    @property
    @override
    def learns_feedback(self) -> bool:
        return bool(self.transport.learned)


@dataclass
class LayerPass:
    """The state of one pass (not attributes of the route, as setting an attribute of a module takes microseconds).

    Attributes:
        on: whether an interceptor is on: in a pass, or in a layer that a checkpoint runs again.
        met: by name, the weights that this pass has used.
        seed: seed of the transport's draws in this pass; `None` if it draws nothing.
    """

    on: bool = False
    met: dict[str, nn.Parameter] = field(default_factory=dict)
    seed: int | None = None


class LayerForward:
    """Stands in for the `forward` of a module that owns weights, for the time that a checkpoint runs it again."""

    def __init__(self, route: LayerwiseRoute, module: nn.Module) -> None:
        self.route, self.module, self.own = route, module, vars(module).get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module: by itself in a pass, with an interceptor of its own outside of one."""
        forward = self.own or type(self.module).forward.__get__(self.module)
        if self.route.now.on or self.route.gate.idle:
            return forward(*args, **kwargs)
        return self.route.again(self.module, forward, args, kwargs)


class LayerwiseRoute(Route, runs=(Layerwise,)):
    """Feedback of a layerwise method on one network."""

    def __init__(self, method: Layerwise, site: Site) -> None:
        super().__init__(method, site)
        self.transport, self.now = method.transport, LayerPass()
        # owners and names of the parameters, not the parameters, which may be replaced (`load_state_dict`)
        self.places = [(*_home(site.net, name), name) for name, _ in site.net.named_parameters()]
        self.stream = Stream(site.seed, alike=True) if self.transport.random else None
        generator = seeded("layerwise feedback", site.seed)
        self.weights: dict[str, int] = {}
        for k, (name, weight) in enumerate(self._meet(site.example).items()):
            self.weights[name] = k
            self._register(k, self.transport.init(weight.detach(), generator).detach())
        # not the network itself, whose own weights are met in its call, also if a checkpoint runs it again
        owners = [module for module, _, name in self.places if name in self.weights and module is not site.net]
        self.owners = list(dict.fromkeys(owners))

    @property
    @override
    def feedback(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"feedback_{k}") for name, k in self.weights.items()}

    @override
    def describe(self, block: str) -> str:
        return "for each weight"

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        if torch.compiler.is_compiling():
            raise RuntimeError(COMPILED)
        now = self.now
        now.met, now.seed = {}, None
        self._follow()
        if self.stream is not None:
            generator = self.stream.next(torch.device("cpu"))  # the same bits on every device
            now.seed = generator.initial_seed()
            self._redraw(generator)
        now.on = True
        try:
            with self._interceptor(self._transported):
                output = call()
        finally:
            now.on = False
        return self._connected(output, context)

    def again(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a layer outside of a pass: only a checkpoint may, again in backward."""
        check_inside(next(name for owner, _, name in self.places if owner is module).rpartition(".")[0])
        self.now.on = True
        try:
            with self._interceptor(self._transported):
                return forward(*args, **kwargs)
        finally:
            self.now.on = False

    def _connected(self, output: Any, context: BatchContext) -> Any:
        """The output, connected to the gradients that learned feedback gets whatever the error."""
        y, met = first_tensor(output), self.now.met
        self.now.met = {}
        if not self.transport.learned or y is None or not y.requires_grad or not met:
            return output
        pairs = [(weight, self.feedback[name]) for name, weight in met.items()]
        return swap(output, y, error_free_gradients(self.transport, y, pairs, context.scale, self.now.seed))

    @override
    def install(self) -> None:
        for module in self.owners:
            module.forward = LayerForward(self, module)

    @override
    def remove(self) -> None:
        for module in self.owners:
            stand_in = vars(module).get("forward")
            if isinstance(stand_in, LayerForward):
                del module.forward
                if stand_in.own is not None:
                    module.forward = stand_in.own

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

    def _transported(self, name: str, weight: nn.Parameter, call: LayerCall) -> Tensor:
        if name not in self.weights:
            raise RuntimeError(
                f"parameter {name!r} has no feedback: the forward pass that found the layers did not meet it. Attach "
                "with an example that takes the same path"
            )
        self.now.met[name] = weight
        B = feedback_view_of(name, weight, call.weight, getattr(self, f"feedback_{self.weights[name]}"))
        return transported(call.layer, self.transport, call.x, call.weight, call.bias, B)

    def _register(self, k: int, B: Tensor) -> None:
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


def _home(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns a parameter, and its name there."""
    path, _, own = name.rpartition(".")
    return net.get_submodule(path), own
