"""Routes: how a method runs one pass of a network, and connects the output to what is taught.

A route is one class and, where it cuts the network, a subclass of `CutRoute`. It says with `runs` which method records
it is for; nothing else needs to know it. Whatever it switches on for a pass it switches off in the same function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from skipback.blocks import Cutter, Gate, Layout, Met, Pass, Path, named_outputs
from skipback.blocks.paths import read_new
from skipback.core.method import Exact, HeadOnly, Method
from skipback.core.records import BatchContext

ROUTES: dict[type[Method], type[Route]] = {}
"""The route of each kind of method record, filled by `Route.__init_subclass__`."""


@dataclass(eq=False)  # its fields have no hash, which torch.compile would ask for
class Call:
    """One call of the network, ready to run.

    Attributes:
        forward: the network's own forward.
        args: positional inputs.
        kwargs: named inputs.
    """

    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Run it."""
        return self.forward(*self.args, **self.kwargs)


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a route is built from.

    Attributes:
        net: the network.
        layout: its blocks; without cuts for methods that need none.
        gate: whether the network is taught now.
        seed: of what the route draws.
        example: one call of the network, in `exact`.
        look: runs the network on the example with its inputs changed by a function, leaving no trace. Returns the port
            of each block, and under "" the output.
    """

    net: nn.Module
    layout: Layout
    gate: Gate
    seed: int
    example: Callable[[], Any]
    look: Callable[..., dict[str, Tensor]]


class Route(nn.Module, ABC):
    """How one method runs on one network. Parameters and buffers are the method's (feedback, memory, streams).

    Attributes:
        cuts: whether the network must be cut into blocks.
        exact: whether every pass is plain backprop.
        steps: whether `learner.step` may update a block as soon as it is taught.
    """

    cuts: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    steps: ClassVar[bool] = False

    def __init_subclass__(cls, *, runs: tuple[type[Method], ...] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ROUTES.update(dict.fromkeys(runs, cls))

    def __init__(self, method: Method, site: Site) -> None:
        super().__init__()
        self.method, self.net_of, self.layout, self.gate = method, (site.net,), site.layout, site.gate

    @classmethod
    def build(cls, method: Any, site: Site) -> Route:
        """Return the route of a method on a network."""
        return cls(method, site)

    @property
    def net(self) -> nn.Module:
        """The network; not a child, as its parameters are the learner's."""
        return self.net_of[0]

    @abstractmethod
    def run(self, call: Call, context: BatchContext) -> Any:
        """Run this pass and return the output, connected to what is taught. Never called inside `exact()`."""

    @property
    def feedback(self) -> dict[str, Tensor]:
        """The feedback tensors by name, where the route has any."""
        return {}

    @property
    def taught(self) -> slice:
        """Which of the layout's segments are taught."""
        return slice(None)

    @property
    def backprop_share(self) -> float:
        """Share of the training passes so far that were plain backprop."""
        return 0.0

    @property
    def direct_route(self) -> Any:
        """The route of a direct method, which this is or which runs between anchors."""
        return None

    def describe(self, block: str) -> str:
        """What the table says of the feedback of a block."""
        return "none"

    def install(self) -> None:
        """Change the network, now that the route is whole: hooks, stand-ins."""

    def pause(self) -> None:
        """The passes that follow are measured only; whoever measures restores the route's attributes."""

    def remove(self) -> None:
        """Leave the network alone from now on."""


class ExactRoute(Route, runs=(Exact,)):
    """Backprop."""

    cuts = False
    exact = True

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        return call()

    @property
    @override
    def backprop_share(self) -> float:
        return 1.0


class CutRoute(Route):
    """A route that cuts the network into blocks."""

    def __init__(self, method: Method, site: Site) -> None:
        super().__init__(method, site)
        if site.layout.refused:
            raise ValueError(site.layout.refused)
        modules = {name: site.net.get_submodule(name) for name in site.layout.places}
        self.cutter = Cutter(site.gate, site.layout, site.net, modules)

    @override
    def run(self, call: Call, context: BatchContext) -> Any:
        return self.connect(*self.cut(call), context)

    def cut(self, call: Call) -> tuple[Any, Pass]:
        """Run the network, cut. Returns its output, and what the pass met."""
        cutter = self.cutter
        before, cutter.run = (
            cutter.run,
            (run := Pass(self.net, ports=self.layout.ports, constants=self.layout.constants)),
        )
        try:
            return call(), run
        finally:
            cutter.run = before

    @abstractmethod
    def connect(self, output: Any, run: Pass, context: BatchContext) -> Any:
        """Return the output, connected to what is taught."""

    def path(self, output: Any, run: Pass, key: Any = None) -> Path:
        """The way that a pass took. A new one is read first, and refused if backprop would pass a cut.

        Raises:
            RuntimeError: it would.
        """
        if key is None:
            key = run.fingerprint([output] if type(output) is Tensor else list(named_outputs(output).values()))
        return self.layout.paths.get(key) or read_new(key, run, output, self.layout, self.cutter.modules)

    @override
    def install(self) -> None:
        self.cutter.install()

    @override
    def remove(self) -> None:
        self.cutter.remove()


class HeadOnlyRoute(CutRoute, runs=(HeadOnly,)):
    """The network is cut and nothing is sent."""

    steps = True

    @override
    def connect(self, output: Any, run: Pass, context: BatchContext) -> Any:
        self.path(output, run)
        return output

    @property
    @override
    def taught(self) -> slice:
        return slice(-1, None)


def ports_of(run: Pass, path: Path) -> list[tuple[str, Met]]:
    """The ports of a pass: the block of each, and the tensor that was met."""
    return [(block, one) for block, one in zip(path.blocks, run.met, strict=True) if block is not None]
