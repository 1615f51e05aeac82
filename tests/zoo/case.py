"""Case: an architecture, what it is fed, and what plain backprop makes of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from entries import Entry, Inputs, still
from torch import Tensor, nn

import skipback as sb

EQUAL = 1e-5
"""The relative difference below which two tensors are the same one, rounded differently."""


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """A copy of each gradient, by the parameter's name."""
    return {name: p.grad.detach().clone() for name, p in net.named_parameters() if p.grad is not None}


class Case:
    """An architecture on its way to be judged.

    Attributes:
        entry: the architecture.
        way: how it is trained.
        net: what a method will be attached to.
        inputs: the same at every pass.
        labels: what makes the network compute its loss itself; else empty.
        start: its state at the beginning.
        y: its main output, then.
        exact: the gradients of backprop, then, of all parameters that the loss reaches.
    """

    def __init__(self, entry: Entry, way: str) -> None:
        torch.manual_seed(0)
        self.entry, self.way = entry, way
        self.net = still(entry.build())
        self.inputs: Inputs = entry.inputs()
        self.start = copy.deepcopy(self.net.state_dict())
        self.labels: dict[str, Tensor] = {}
        if way == "labels":
            self.labels = {"labels": entry.target(self.run(copy.deepcopy(self.net))[0])}
        twin = copy.deepcopy(self.net)
        self.y, loss = self.run(twin)
        loss.backward()
        self.exact = gradients(twin)
        again, _ = self.run(copy.deepcopy(self.net), seed=2)
        if not torch.allclose(self.y, again, rtol=EQUAL, atol=EQUAL):
            raise AssertionError(f"{entry.id} draws random numbers in a forward pass, so gradients cannot be compared")

    def run(self, net: nn.Module, *, seed: int = 1, **given: Any) -> tuple[Tensor, Tensor]:
        """One forward pass: the main output and the loss."""
        torch.manual_seed(seed)
        args, kwargs = copy.deepcopy(self.inputs)
        output = net(*args, **kwargs, **self.labels, **given)
        y = self.entry.pick(output)
        return y, output["loss"] if self.labels else self.entry.loss(y)

    def restart(self, learner: sb.Learner) -> None:
        """The weights, the statistics and the gradients of the beginning."""
        self.net.load_state_dict(self.start)
        learner.zero_grad()

    def given(self) -> dict[str, Any]:
        """What an early signal must be told."""
        if self.way not in ("drtp", "f3"):
            return {}
        return {"target": self.entry.target(self.y), "ids": torch.arange(len(self.y))}

    def method(self) -> sb.Method:
        """How it is trained."""
        return {
            "dfa": sb.dfa,
            "labels": sb.dfa,
            "shallow": sb.shallow,
            "drtp": sb.drtp,
            "f3": lambda: sb.f3(memory=len(self.y)),
        }[self.way]()
