"""The taught network: a network with a method attached, and the training loop left as it is.

While a method is attached, the network's `forward` is a `Forward`: each pass runs in one function, under `try/finally`.
Outside an open pass a cut refuses to run, and it cuts in eval mode too: a network with a method attached never does
backprop in silence. `learner.exact()` is the one way to plain gradients.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skipback.advice import INPUT_GRADIENT, TRANSFORMED, OptimizerWatch, advise, check_ranks
from skipback.blocks import Gate, Layout, find, map_tensors, run_otherwise, tapped
from skipback.blocks.contexts import all_trainable, untouched
from skipback.blocks.outputs import joined_output
from skipback.core.method import Method
from skipback.core.records import NO_CONTEXT, BatchContext
from skipback.core.route import ROUTES, Call, Route, Site
from skipback.renamed import of_version_0_1


class Forward:
    """What stands in for a network's `forward` while a method is attached. Copied and pickled with the network."""

    def __init__(self, learner: TaughtNetwork, original: Callable[..., Any]) -> None:
        self.learner = learner
        self.__signature__ = inspect.signature(original)  # trainers look which inputs a network takes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One pass."""
        return self.learner.run(*args, **kwargs)

    @property
    def alone(self) -> bool:
        """Whether the network's class says what its forward does, rather than somebody who has set it."""
        return self.learner.replaced is None


class TaughtNetwork(nn.Module):
    """A network with a method attached.

    Calling the network (or this, which passes target and ids along) and then `loss.backward()` fills `.grad` as the
    method prescribes. `parameters()`, `state_dict()` and `to()` cover the network, the feedback and the memory.

    Attributes:
        net: the network; its own `state_dict()` stays clean.
        method: the method's record; if it is anchored, that of the passes between.
        route: how the method runs on this network (`None` before the first forward pass without an example).
        layout: the cuts and segments, once known (`None` for backprop, which needs none).
        learns: what learns beside the network, as a sentence; empty if nothing does.
    """

    net: nn.Module
    route: Route | None

    def __init__(
        self, net: nn.Module, method: Method, *, blocks: Sequence[str] | None, seed: int, show: Callable[[str], object]
    ) -> None:
        super().__init__()
        self.net, self.seed, self.names, self.show = net, seed, blocks, show
        self.record, self.method = method, method.base
        self.layout: Layout | None = None
        self.route = None
        # what changes with every pass lives in objects of its own: nn.Module pays microseconds for each attribute set
        self.gate, self.learns = Gate(), method.learns
        self.watch = OptimizerWatch() if self.learns else None
        self._contexts: list[BatchContext] = []
        self.replaced = vars(net).get("forward")
        net.forward = Forward(self, net.forward)
        if not ROUTES[type(method)].cuts:
            self._build(Layout(cuts=[], segments=[]), dict, dict)

    # ------------------------------------------------------------------------------------------------- a pass

    def forward(
        self,
        *args: Any,
        target: Tensor | None = None,
        ids: Tensor | None = None,
        scale: float | Tensor | None = None,
        mask: Tensor | None = None,
        **kw: Any,
    ) -> Any:
        """Run the network. `target`, `ids`, `scale` and `mask` are for the method, see `given`; the rest is its input.

        What is left out is what a surrounding `given` has said.
        """
        outer = self._contexts[-1] if self._contexts else NO_CONTEXT
        now = BatchContext(
            outer.target if target is None else target,
            outer.ids if ids is None else ids,
            outer.scale if scale is None else scale,
            outer.mask if mask is None else mask,
        )
        self._contexts.append(now)
        self.gate.inside += 1
        try:
            return self.net(*args, **kw)
        finally:
            self._contexts.pop()
            self.gate.inside -= 1

    @contextlib.contextmanager
    def given(
        self,
        *,
        target: Tensor | None = None,
        ids: Tensor | None = None,
        scale: float | Tensor = 1.0,
        mask: Tensor | None = None,
    ) -> Iterator[None]:
        """Give a signal what it needs, when something else calls the network (DDP, a compiled module, a trainer).

        Args:
            target: (N,) class indices or (N, C) values. A row of class -100 is not taught.
            ids: (N,) position of each sample in the unshuffled training set, for delayed signals.
            scale: what the loss is multiplied with before `backward`, which an early signal and learned feedback cannot
                see: 1/k under accumulation over k batches, `scaler.get_scale()` under a GradScaler.
            mask: (N,) or (N, T), the rows that the loss counts, for early signals.
        """
        self._contexts.append(BatchContext(target, ids, scale, mask))
        try:
            yield
        finally:
            self._contexts.pop()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One pass of the network: plain inside `exact()` and without gradients, else by the method's route."""
        forward, gate = self.replaced or type(self.net).forward.__get__(self.net), self.gate
        if gate.running or gate.plain or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        route = self.route or self._found(args, kwargs)
        if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
            raise RuntimeError(TRANSFORMED)
        if self.learns:
            self._check_learned(route)
        for x in args:
            if type(x) is Tensor and x.requires_grad and x.is_leaf and route.cuts and not gate.warned:
                gate.warned = True
                advise([INPUT_GRADIENT])
        gate.running = True
        try:
            return route.run(Call(forward, args, kwargs), self._contexts[-1] if self._contexts else NO_CONTEXT)
        finally:
            gate.running = False

    def _found(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Route:
        if torch.compiler.is_compiling():
            raise RuntimeError("pass example=... to attach() before compiling: the blocks must be known")
        self.discover(*args, **kwargs)
        assert self.route is not None
        return self.route

    def _check_learned(self, route: Route) -> None:
        """Refuse feedback that no other process averages, and warn of feedback that no optimizer steps."""
        if self.net.training and not self.gate.inside:
            check_ranks(self.learns)
        if self.watch is not None and not self.watch.done and not torch.compiler.is_compiling():
            self.watch.look(self.net.parameters(), list(route.parameters()))

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Inside, the network is plain: the same weights, and plain backprop."""
        before, self.gate.plain = self.gate.plain, True
        try:
            yield
        finally:
            self.gate.plain = before

    def detach(self) -> nn.Module:
        """Take the method off. Returns the network, a plain module again with the weights it has learned."""
        if self.attached:
            del self.net.forward
            if self.replaced is not None:
                self.net.forward = self.replaced
        if self.route is not None:
            self.route.remove()
        return self.net

    @property
    def attached(self) -> bool:
        """Whether the method is on the network, rather than taken off."""
        return getattr(vars(self.net).get("forward"), "learner", None) is self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # ---------------------------------------------------------------------------------------------- what it is

    @property
    def feedback(self) -> dict[str, Tensor]:
        """The feedback tensor (C, *P) of each taught block; of each weight, of its shape, for a layerwise method."""
        return {} if self.route is None else self.route.feedback

    def feedback_parameters(self) -> list[nn.Parameter]:
        """The feedback that learns (DKP, FDFA, Kolen-Pollack), to give it an optimizer or a rate of its own.

        They are among `parameters()`, and not among `net.parameters()`. Empty where the feedback is fixed, or where the
        blocks are not known yet.
        """
        own = {id(p) for p in self.net.parameters()}
        return [p for p in self.parameters() if id(p) not in own] if self.method.learns_feedback else []

    @property
    def memory(self) -> Any:
        """The per-sample memory of a delayed signal."""
        return getattr(self.direct, "memory", None)

    @property
    def direct(self) -> Any:
        """The route of a direct method, also between anchors; `None` for other methods and before it is known."""
        return None if self.route is None else self.route.direct_route

    @property
    def backprop_share(self) -> float:
        """Share of the training passes so far that were plain backprop: 0 unless the method is anchored, or `bp`."""
        return 0.0 if self.route is None else self.route.backprop_share

    @property
    def frozen(self) -> list[str]:
        """Names of the network's parameters that the method does not teach (all but the head's, for `shallow`)."""
        if self.layout is None or self.route is None:
            return []
        reached = {p for segment in self.layout.segments[self.route.taught] for p in segment.parameters}
        return [name for name, p in self.net.named_parameters() if p not in reached]

    def summary(self) -> str:
        """A table of the blocks: name, shape of the port, shape of the feedback, parameters."""
        layout, route, frozen = self.layout, self.route, self.frozen
        if layout is None or route is None:
            return "blocks are found at the first forward pass"
        rows = [("block", "port", "feedback", "parameters", "")]
        after = {cut.block for cut in layout.cuts if not cut.place.before and not layout.named}
        for segment in layout.segments:
            head, count = segment is layout.segments[-1], sum(p.numel() for p in segment.parameters)
            note = "cut at its own output: an activation after it is not its own" if segment.block in after else ""
            port = " x ".join(map(str, segment.shape[1:])) or "1"
            taught = "exact gradient" if head else route.describe(segment.block)
            rows.append((segment.block, port, taught, f"{count:,}", "" if head else note))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if len(layout.outputs) > 1:
            lines.append(f"outputs that teach: {', '.join(layout.outputs)}")
        return "\n".join([*lines, *([f"not taught: {', '.join(frozen)}"] if frozen else [])])

    # ------------------------------------------------------------------------------------------- finding blocks

    def discover(self, *args: Any, **kwargs: Any) -> None:
        """Find the blocks with one forward pass, and draw the feedback. Changes no weight, buffer or random state."""
        if any(map(is_lazy, self.net.parameters())):
            raise ValueError("the network has lazy layers, without weights so far: run it once before attach(): net(x)")
        args, kwargs = map_tensors(args, Tensor.detach), map_tensors(kwargs, Tensor.detach)
        frozen = frozenset(id(p) for p in self.net.parameters() if not p.requires_grad)
        if len(frozen) == sum(1 for _ in self.net.parameters()):
            frozen = frozenset()  # all are: then it is what would be trained that counts
        run = functools.partial(self.net, *args, **kwargs)
        with self.exact(), untouched(self.net), all_trainable(self.net):
            layout = find(self.net, self.names, run, frozen, lambda: run_otherwise(self.net, args, kwargs))
        self._build(layout, functools.partial(self._plainly, run), functools.partial(self._look, layout, args, kwargs))
        self.show(self.summary())

    def _plainly(self, run: Callable[[], Any]) -> Any:
        """Run the network without the method, leaving no trace."""
        with self.exact(), untouched(self.net):
            return run()

    def _look(self, layout: Layout, args: Any, kwargs: Any, change: Callable[[Any], Any]) -> dict[str, Tensor]:
        """Run the plain network on changed inputs. Returns the port of each block, and under "" the output."""
        args, kwargs = change((args, kwargs))
        with self.exact(), untouched(self.net), all_trainable(self.net), torch.enable_grad():
            ports: dict[str, Tensor] = {}
            with tapped(self.net, layout, lambda cut, port: ports.update({cut.block: port.detach().clone()})):
                output = joined_output(self.net(*args, **kwargs), layout)
        return {**ports, "": output.detach()}

    def _build(self, layout: Layout, run: Callable[[], Any], look: Callable[..., Any]) -> None:
        if self.route is not None:
            self.route.remove()
        site = Site(net=self.net, layout=layout, gate=self.gate, seed=self.seed, example=run, look=look)
        self.route = ROUTES[type(self.record)].build(self.record, site)
        self.route.install()
        self.layout = layout if layout.segments else None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`. The blocks must be known: pass `example=` to `attach`."""
        if self.route is None:
            raise RuntimeError("the blocks are not known yet: pass example=... to attach() before loading a state_dict")
        return super().load_state_dict(of_version_0_1(state_dict), strict, assign)
