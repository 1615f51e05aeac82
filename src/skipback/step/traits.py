"""Traits: what is known of a learner, its update and its surroundings, for the table of `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from skipback.core.feedback import Matrix, Sees
from skipback.core.learner import TaughtNetwork
from skipback.distributed import world
from skipback.step.chain import Chain, chain, plain_chain
from skipback.step.checks import shared
from skipback.step.rules import Dense
from skipback.streams import Stream
from skipback.update import FusedAdam, Update

RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
"""Modules that draw from the generator of the process, which in one process earlier blocks would have advanced."""


class Traits:
    """The traits of a learner, its update and its surroundings. A trait is true where all is well."""

    def __init__(self, learner: TaughtNetwork, update: Update | None = None) -> None:
        self.learner, self.update = learner, update
        self.route, self.direct, self.memory = learner.route, learner.direct, learner.memory
        self.device = next(learner.net.parameters()).device

    # -------------------------------------------------------------------------------------------- surroundings

    @property
    def attached(self) -> bool:
        """The method is on the network."""
        return self.learner.attached

    @property
    def training(self) -> bool:
        """The network is in training mode."""
        return self.learner.net.training

    @property
    def gradients(self) -> bool:
        """Inference mode, whose tensors cannot be trained outside of it, is off."""
        return not torch.is_inference_mode_enabled()

    @property
    def one_process(self) -> bool:
        """No other process trains with this one."""
        return self.world == 1

    @property
    def world(self) -> int:
        """How many processes train together."""
        return world()

    @property
    def full_precision(self) -> bool:
        """Autocast is off."""
        return not torch.is_autocast_enabled(self.device.type)

    # ---------------------------------------------------------------------------------------------- the method

    @property
    def known(self) -> bool:
        """The blocks are known."""
        return self.route is not None

    @property
    def unanchored(self) -> bool:
        """The method is the same in every pass."""
        return self.learner.record is self.learner.method

    @property
    def blockwise(self) -> bool:
        """Each block's gradient follows from the error at the output: bp, shallow and direct methods."""
        return self.route is not None and (self.route.exact or self.route.steps)

    @property
    def early(self) -> bool:
        """The signal of every pass is known before the pass."""
        return self.unanchored and self.direct is not None and self.direct.early_known

    @property
    def fixed(self) -> bool:
        """Feedback does not learn."""
        return not self.learner.method.learns

    @property
    def local(self) -> bool:
        """Feedback does not look at the whole network."""
        return self.direct is None or not self.direct.looks_ahead

    @property
    def method(self) -> str:
        """The name of the method's record."""
        return type(self.learner.method).__name__

    @property
    def feedback(self) -> str:
        """The name of the feedback's record."""
        return type(self.direct.direct.feedback).__name__

    @property
    def matrices(self) -> bool:
        """Feedback, where there is any, is one fixed matrix for each port."""
        feedback = None if self.direct is None else self.direct.direct.feedback
        plain = feedback is None or (type(feedback).project is Matrix.project and feedback.sees is Sees.NOTHING)
        return plain and self.fixed

    @property
    def streamless(self) -> bool:
        """The method draws nothing at a step."""
        return not any(isinstance(module, Stream) for module in self.learner.modules())

    @property
    def memory_near(self) -> bool:
        """The memory, where there is any, lies with the network."""
        return self.memory is None or self.memory.rows.device == self.device

    # --------------------------------------------------------------------------------------------- the network

    @property
    def separate(self) -> bool:
        """No two blocks share a parameter."""
        return self.learner.layout is None or not shared(self.learner.layout)

    @property
    def draws(self) -> Sequence[str]:
        """The names of modules that draw random numbers."""
        return [name for name, module in self.learner.net.named_modules() if isinstance(module, RANDOM)]

    @property
    def drawless(self) -> bool:
        """No module draws random numbers."""
        return not self.draws

    @cached_property
    def chain(self) -> Chain | None:
        """The blocks of a plain `nn.Sequential`; `None` for another network."""
        net, layout = self.learner.net, self.learner.layout
        return plain_chain(net) if layout is None else chain(net, layout)

    @property
    def sequential(self) -> bool:
        """The network is a plain `nn.Sequential` without hooks."""
        return self.chain is not None

    @property
    def dense(self) -> bool:
        """All blocks are dense and trained."""
        return self.chain is not None and self.chain.dense

    @property
    def stack(self) -> bool:
        """Behind the first block, and before the head, come dense layers that are all alike."""
        return self.separate and self.chain is not None and self.chain.dense and _alike(self.chain)

    # ---------------------------------------------------------------------------------------------- the update

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """The optimizer's groups; of an update that was never used, they are made here."""
        return () if self.update is None else self.update.bind(self.learner.parameters()).param_groups

    @property
    def optimizer(self) -> str:
        """The name of the optimizer's class."""
        return type(getattr(self.update, "optimizer", None)).__name__

    @property
    def numbers(self) -> bool:
        """The optimizer's settings are numbers."""
        return not any(isinstance(v, Tensor) for group in self.groups for k, v in group.items() if k != "params")

    @property
    def counts_on_device(self) -> bool:
        """The optimizer's counts of steps, where it has any, lie on the device."""
        update = self.update
        return isinstance(getattr(update, "optimizer", None), SGD) or all(
            bool(group.get("capturable")) or (isinstance(update, FusedAdam) and update.by_kernel(group))  # type: ignore[arg-type]
            for group in self.groups
        )


def _alike(chain: Chain) -> bool:
    """Whether the hidden layers behind the first are of one shape, with one activation, and a bias all or none."""
    layers = [rule for _, rule in chain.hidden[1:] if isinstance(rule, Dense)]
    looks = {(rule.weight.shape, rule.bias is None, repr(rule.module)) for rule in layers}
    return len(looks) == 1 and layers[0].weight.shape[0] == layers[0].weight.shape[1]
