"""The user: attaches a method to a generated network and trains it as people do. Checks nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import skipback as sb
from generated import data, methods, reference
from generated.data import Batch
from generated.net import built, switch
from generated.outputs import unwrapped
from generated.recipes import Case
from generated.trunk import Trunk

RATE = 0.05


class User:
    """Who trains the network of a case.

    Attributes:
        net: the network.
        plain: a copy of it that nothing is ever attached to, with checkpointing off.
        learner: from `attach`; `None` before.
    """

    learner: Any = None
    called: Any = None

    def __init__(self, case: Case) -> None:
        self.case, self.recipe = case, case.recipe
        self.net = built(self.recipe)
        self.plain = copy.deepcopy(self.net)
        switch(self.net, checkpointing=not case.later)
        switch(self.plain, checkpointing=False)
        for net in (self.net, self.plain):
            net.train(case.mode == "train")
        self.update = sb.update.Update(lambda ps: torch.optim.SGD(ps, lr=RATE))

    def attach(self) -> None:
        """Attach the method, and compile the network before or after that."""
        case, first = self.case, data.batch(self.recipe, self.case.passes[0])
        net = self._compiled_before(first)
        example = None if case.lazy else (first.x,) if first.labels is None else (first.x, first.labels)
        attached = net if case.compile == "attach" else self.net
        self.learner = sb.attach(attached, methods.made(case.method, self.recipe), example, show=None)
        called = self.learner if case.call == "learner" and case.compile in ("no", "after") else net
        self.called = torch.compile(called, backend="aot_eager") if case.compile == "after" else called

    def _compiled_before(self, first: Batch) -> Any:
        """The network, or the compiled one: where it is compiled before it is attached, it has run."""
        if self.case.compile == "no":
            return self.net
        torch._dynamo.reset()
        if self.case.compile == "after":
            return self.net
        net = torch.compile(self.net, backend="aot_eager")
        if self.case.compile == "before":
            reference.run(net, first)
        return net

    def forward(self, batch: Batch) -> list[Tensor]:
        """One pass, with what travels with the input."""
        torch.manual_seed(batch.seed)
        said = data.spoken(batch, self.case.method)
        labels = {} if batch.labels is None else {"labels": batch.labels}
        if self.case.call == "learner" and self.case.compile in ("no", "after"):
            return unwrapped(self.called(batch.x, **labels, **said))
        with self.learner.given(**said):
            return unwrapped(self.called(batch.x, **labels))

    def backward(self, batch: Batch, **kwargs: bool) -> list[Tensor]:
        """The loop that a user writes; two losses have a backward each."""
        outputs, parts = self.forward(batch), data.parts(batch)
        for k, part in enumerate(parts):
            loss = data.loss_of(self.recipe, outputs, part)
            loss.backward(retain_graph=True if k + 1 < len(parts) else None, **kwargs)
        return outputs

    def step(self, batch: Batch) -> list[Tensor]:
        """The same by `learner.step`, which returns no output."""
        torch.manual_seed(batch.seed)
        self.learner.step(
            batch.x,
            batch.target,
            loss=lambda y, t: data.loss_of(self.recipe, [y], batch),
            update=self.update,
            ids=data.spoken(batch, self.case.method).get("ids"),
        )
        return []

    def push(self, batch: Batch) -> None:
        """A pass with fixed errors at the outputs, whatever they are."""
        outputs = self.forward(batch)
        taught = [y for _, y in reference.teaching(self.recipe, outputs) if y.requires_grad]
        generator = torch.Generator().manual_seed(5)
        torch.autograd.backward(taught, [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in taught])

    def descend(self) -> None:
        """A plain gradient step."""
        with torch.no_grad():
            for p in self.learner.parameters():
                if p.grad is not None:
                    p -= RATE * p.grad

    @property
    def late(self) -> bool:
        """Whether the late stages run."""
        return any(module.late for module in self.plain.modules() if isinstance(module, Trunk))

    def go_on(self) -> None:
        """After the first pass the late stages run, and checkpointing is on."""
        switch(self.net, late=True, checkpointing=True)
        switch(self.plain, late=True)

    def feedback(self) -> Mapping[str, Tensor]:
        """By block, its feedback now."""
        return {name.removeprefix("_orig_mod."): B for name, B in self.learner.feedback.items()}
