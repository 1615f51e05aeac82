"""The learner: a network with a method attached, and the training loop left as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.parameter import is_lazy

from skipback.blocks import Cut, Layout, find, first_tensor, install, map_tensors
from skipback.engine.anchor import Anchor
from skipback.engine.guards import check_ranks
from skipback.engine.ports import Ports
from skipback.engine.route import Route
from skipback.engine.routes import build
from skipback.engine.star import NOTHING, Given, Star
from skipback.engine.state import all_trainable, untouched
from skipback.engine.step.checks import check_mode, shared
from skipback.engine.step.compiled import Compiler, compiler
from skipback.engine.step.stepper import Stepper
from skipback.engine.step.whole import Whole, whole
from skipback.engine.summary import summary
from skipback.feedback import Sees
from skipback.memory import Memory
from skipback.method import Anchored, Direct, Exact, HeadOnly, Layerwise, Method
from skipback.precision import Precision, checked
from skipback.types import Step
from skipback.update import Update


class Learner(nn.Module):
    """A network with a method attached. Made by `attach`.

    Calling the network (or the learner, which passes target and ids along) and then `loss.backward()` fills `.grad` as
    the method prescribes. `parameters()`, `state_dict()` and `to()` cover the network, the feedback and the memory.

    Attributes:
        net: the network; its own `state_dict()` stays clean.
        method: the method's record; if it is anchored, that of the passes between.
        layout: the cuts and segments, once known (`None` before the first forward pass without an example).
    """

    net: nn.Module
    star: Star | None
    route: Route | None
    anchor: Anchor | None

    def __init__(
        self, net: nn.Module, method: Method, *, blocks: Sequence[str] | None, seed: int, show: Callable[[str], object]
    ) -> None:
        super().__init__()
        self.net, self.seed, self.names, self.show = net, seed, blocks, show
        self.anchor = Anchor(method.every) if isinstance(method, Anchored) else None
        self.method = method.method if isinstance(method, Anchored) else method
        self.layout: Layout | None = None
        self.star = None
        self.route = None
        # what changes with every pass lives in objects of its own: nn.Module pays microseconds for each attribute set
        self.ports = Ports()
        self._travelling: list[Given] = []
        self._stepper: Stepper | None = None
        self._compiled = Whole()
        self._inside: list[None] = []  # one for each call of the learner itself that runs now
        self._handles = [
            net.register_forward_pre_hook(self._open, with_kwargs=True),
            net.register_forward_hook(self._close, always_call=True),
        ]

    def forward(
        self,
        *args: Any,
        target: Tensor | None = None,
        ids: Tensor | None = None,
        scale: float | Tensor | None = None,
        **kw: Any,
    ) -> Any:
        """Run the network. `target`, `ids` and `scale` are for the method, see `given`; all else is for the network.

        What is left out is what a surrounding `given` has said.
        """
        outer = self._now()
        now = Given(
            outer.target if target is None else target,
            outer.ids if ids is None else ids,
            outer.scale if scale is None else scale,
        )
        self._travelling.append(now)
        self._inside.append(None)
        try:
            return self.net(*args, **kw)
        finally:
            self._travelling.pop()
            self._inside.pop()

    @contextlib.contextmanager
    def given(
        self, *, target: Tensor | None = None, ids: Tensor | None = None, scale: float | Tensor = 1.0
    ) -> Iterator[None]:
        """Give a signal what it needs, when something else calls the network (DDP, a compiled module, a trainer).

        Args:
            target: (N,) class indices or (N, C) values.
            ids: (N,) position of each sample in the unshuffled training set, for delayed signals.
            scale: what the loss is multiplied with before `backward`, which an early signal and learned feedback cannot
                see: 1/k under accumulation over k batches, `scaler.get_scale()` under a GradScaler.
        """
        self._travelling.append(Given(target, ids, scale))
        try:
            yield
        finally:
            self._travelling.pop()

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Inside, the network is plain: the same weights, and plain backprop."""
        before, self.ports.plain = self.ports.plain, True
        try:
            yield
        finally:
            self.ports.plain = before

    def detach(self) -> nn.Module:
        """Take the method off. Returns the network, a plain module again with the weights it has learned."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.ports.remove()
        if self.route is not None:
            self.route.remove()
        return self.net

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def step(
        self,
        x: Any,
        t: Tensor,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        update: Update,
        ids: Tensor | None = None,
        scale: float | Tensor = 1.0,
        precision: Precision | None = None,
        compile: bool | Compiler = False,
    ) -> Tensor:
        """One whole training step: forward, teaching and update, each block as soon as its signal is known.

        For an early signal (DRTP, F3) that is during the forward pass, so that no activation waits and memory does not
        grow with depth. The numbers are those of `loss(learner(x)).backward()` and a `torch.optim` optimizer, whose
        state the update keeps. Gradients are gone at once: to clip them, or to accumulate, use `backward`. Where
        several processes train, each block's gradients are averaged over them, and buffers are those of rank 0 before
        each forward pass, as under DDP.

        Args:
            x: the input, or a tuple of inputs.
            t: the target, of the loss and of the signal.
            loss: loss(output, target); the output is the first floating-point tensor that the network returns, a leaf
                here: a loss that writes over it needs a clone. What made x (an encoder in front) gets no gradient.
            update: what changes the weights, e.g. `skipback.update.adam()`. Pass the same one at every step.
            ids: for delayed signals.
            scale: what the loss is multiplied with.
            precision: `skipback.precision.bf16()` or `.onednn()`, for this step; `None` leaves torch's settings alone.
            compile: run the blocks that go by autograd through `torch.compile` (dense blocks have a closed form, which
                gains nothing), and a network without a chain of blocks, or a method by `backward`, as a whole. Also
                what compiles: `functools.partial(torch.compile, dynamic=True)`; pass the same one at every step.

        Returns:
            The loss, before the update.

        Raises:
            TypeError: the update is an optimizer, or the loss returns no tensor.
            ValueError: the network is in eval mode, the update holds the optimizer of other parameters, or the
                precision is not to be had here.
            RuntimeError: the method was taken off; inference mode is on; or, with several processes, another rank
                failed, or an earlier step was broken off.
        """
        args, given = x if isinstance(x, tuple) else (x,), Given(t, ids, scale)
        if not isinstance(update, Update):
            raise TypeError(
                f"update must be one of skipback.update, such as skipback.update.adam(), not {update!r}: of another "
                "optimizer of torch, skipback.update.Update(lambda ps: torch.optim.Adagrad(ps))"
            )
        if not self._handles:
            raise RuntimeError("step() trains by a method, which detach() has taken off: attach one again")
        if not self.net.training:
            raise ValueError("step() trains: call train() first")
        check_mode()
        if self.layout is None and not isinstance(self.method, Exact):
            self.discover(*args)
        parameters = update.bind(self).param_groups
        if precision is not None:
            with checked(precision).during([p for group in parameters for p in group["params"]]):
                return self.step(x, t, loss=loss, update=update, ids=ids, scale=scale, compile=compile)
        if self._stepper is None and self.anchor is None and isinstance(self.method, Direct | HeadOnly):
            assert self.layout is not None
            if not shared(self.layout):
                self._stepper = Stepper(self.net, self.layout, self.ports, self.star)
        how, stepper = compiler(compile), self._stepper
        if stepper is not None and not self.ports.plain and stepper.fits(args) and (how is None or stepper.chain):
            return stepper(args, t, loss, update, given, how)
        return whole(self, self._compiled.of(self, how), args, t, loss, update, given)

    @property
    def feedback(self) -> dict[str, Tensor]:
        """The feedback tensor (C, *P) of each taught block; of each weight, of its shape, for a layerwise method."""
        owner = self.star or self.route
        return {} if owner is None else owner.feedback

    @property
    def memory(self) -> Memory | None:
        """The per-sample memory of a delayed signal."""
        return None if self.star is None else self.star.memory

    @property
    def backprop_share(self) -> float:
        """Share of the training passes so far that were plain backprop: 0 unless the method is anchored, or `bp`."""
        if isinstance(self.method, Exact):
            return 1.0
        return 0.0 if self.anchor is None else self.anchor.share

    @property
    def frozen(self) -> list[str]:
        """Names of the network's parameters that the method does not teach (all but the head's, for `shallow`)."""
        if isinstance(self.method, Exact) or self.layout is None:
            return []
        taught = self.layout.segments[-1:] if isinstance(self.method, HeadOnly) else self.layout.segments
        reached = {p for segment in taught for p in segment.parameters}
        return [name for name, p in self.net.named_parameters() if p not in reached]

    def step_of(self, e: Tensor, y: Tensor, t: Tensor, ids: Tensor | None) -> Step:
        """What the signal of a direct method would look at.

        Args:
            e: dL/dy, of the shape of y.
            y: the output.
            t: the target.
            ids: for delayed signals.
        """
        assert self.star is not None
        return self.star.step(e, y, t, ids)

    def look(self, *args: Any, **kwargs: Any) -> Callable[[Step], dict[str, Tensor]]:
        """Run the plain network, where the feedback looks at more than the signal.

        Returns:
            A function from a step to the teaching (N, *P) that each port of a direct method would get.
        """
        star = self.star
        if star is None or self.layout is None:
            return lambda step: {}
        activities: dict[str, Tensor] = {}
        handles = install(
            self.net, self.layout.cuts, lambda cut, port: activities.update({cut.block: port.detach().clone()})
        )
        try:
            with self.exact(), untouched(self.net):
                if Sees.ACTIVITY in star.sees:
                    self.net(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        relayed = star.relayed(self.net, args, kwargs)
        return lambda step: star.teachings(step, activities, relayed)

    def summary(self) -> str:
        """A table of the blocks: name, shape of the port, shape of the feedback, parameters."""
        if self.layout is None:
            return "blocks are found at the first forward pass"
        none = "for each weight" if isinstance(self.method, Layerwise) else "relayed" if self.star else "none"
        return summary(self.layout, {} if self.star is None else self.star.shapes, none, self.frozen)

    def discover(self, *args: Any, **kwargs: Any) -> None:
        """Find the blocks with one forward pass, and draw the feedback. Changes no weight, buffer or random state."""
        if any(map(is_lazy, self.net.parameters())):
            raise ValueError("the network has lazy layers, without weights so far: run it once before attach(): net(x)")
        args, kwargs = map_tensors(args, Tensor.detach), map_tensors(kwargs, Tensor.detach)
        with self.exact(), untouched(self.net), all_trainable(self.net):
            self.layout = find(self.net, self.names, lambda: self.net(*args, **kwargs))
        if isinstance(self.method, Direct | HeadOnly):
            self.ports.install(self.net, self.layout.cuts)
        if isinstance(self.method, Direct):
            self.star = Star(self.method, self.layout, self.net, seed=self.seed)
        with self.exact(), untouched(self.net):
            run = partial(self.net, *args, **kwargs)
            self.route = build(self.method, self.net, self.layout, self.ports, run, seed=self.seed)
        self.show(self.summary())

    def observe(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, GradientEdge]]:
        """Run the plain network once. Returns its output and, by block, the port for `torch.autograd.grad`."""
        assert self.layout is not None
        ports: dict[str, GradientEdge] = {}

        def keep(cut: Cut, port: Tensor) -> None:
            ports[cut.block] = get_gradient_edge(port)  # the tensor itself may be written in place later

        handles = install(self.net, self.layout.cuts, keep)
        try:
            with self.exact():
                output = first_tensor(self.net(*args, **kwargs))
        finally:
            for handle in handles:
                handle.remove()
        assert output is not None
        return output, ports

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """See `torch.nn.Module.load_state_dict`. The blocks must be known: pass `example=` to `attach`."""
        if self.layout is None and not isinstance(self.method, Exact):
            raise RuntimeError("the blocks are not known yet: pass example=... to attach() before loading a state_dict")
        return super().load_state_dict(state_dict, strict, assign)

    def _open(self, net: nn.Module, args: Any, kwargs: Any) -> None:
        """Before the network runs: open the ports."""
        if self.ports.meet is not None:  # a step does what is to be done
            return
        self.ports.met, self.ports.anchored = None, False
        if self.route is not None:
            self.route.leave()
        if self.ports.idle:
            return
        if self.layout is None and not isinstance(self.method, Exact):
            if torch.compiler.is_compiling():
                raise RuntimeError("pass example=... to attach() before compiling: the blocks must be known")
            self.discover(*args, **kwargs)
        if self.anchor is not None and net.training:
            self.ports.anchored = self.anchor.due()
        if self.ports.anchored:
            return
        if net.training and not self._inside:
            check_ranks(getattr(self.method, "learns", ""))
        self.ports.met = []
        if self.star is not None:
            self.star.open(net, args, kwargs, self._now(), training=net.training)
        if self.route is not None:
            self.route.open(net, args, kwargs, self._now())

    def _close(self, net: nn.Module, args: Any, output: Any) -> Any:
        """After the network ran (or raised, then without output): connect its output to the ports."""
        if self.ports.meet is not None:
            return None
        opened = self.ports.met is not None  # not `idle`: a route may run the network without gradients
        ports = self.ports.take()
        if opened and len(ports) < len(self.ports.places):
            self.ports.check_places(net, {block for block, _, _ in ports})
        untaught = self.ports.anchored or (opened and not ports and net.training)  # all hidden blocks may be frozen
        if untaught and self.star is not None and output is not None:
            self.star.remember(output, self._now())
        if self.route is not None and opened:
            return self.route.close(net, output, self._now())
        if not ports or self.star is None or output is None:
            return None
        return self.star.connect(output, ports, self._now(), training=net.training)

    def _now(self) -> Given:
        return self._travelling[-1] if self._travelling else NOTHING
