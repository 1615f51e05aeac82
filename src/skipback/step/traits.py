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
from skipback.update import FusedAdam, Update, hooked

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

    @cached_property
    def parts(self) -> Sequence[Update]:
        """The updates of one optimizer each; of one that was never used, the optimizer is made here."""
        if self.update is None:
            return ()
        self.update.bind(self.learner)
        return self.update.parts

    @property
    def unhooked(self) -> bool:
        """Nobody waits for a step of an optimizer."""
        return not any(hooked(part.optimizer) for part in self.parts)

    @property
    def numbers(self) -> bool:
        """The optimizers' settings are numbers."""
        settings = (item for part in self.parts for group in _groups(part) for item in group.items())
        return not any(isinstance(value, Tensor) for key, value in settings if key != "params")

    @property
    def counts_on_device(self) -> bool:
        """The optimizers' counts of steps, where there are any, lie on the device."""
        return all(map(_counts_on_device, self.parts))

    @property
    def optimizer(self) -> str:
        """The name of the class of the first optimizer that has hooks or counts its steps on the host."""
        found = (part for part in self.parts if hooked(part.optimizer) or not _counts_on_device(part))
        return type(next(found).optimizer).__name__


def _groups(update: Update) -> Sequence[Mapping[str, Any]]:
    assert update.optimizer is not None
    return update.optimizer.param_groups


def _counts_on_device(update: Update) -> bool:
    if isinstance(update.optimizer, SGD):
        return True
    fused = update.by_kernel if isinstance(update, FusedAdam) else lambda group: False
    return all(bool(group.get("capturable")) or fused(dict(group)) for group in _groups(update))


def _alike(chain: Chain) -> bool:
    """Whether the hidden layers behind the first are of one shape, with one activation, and a bias all or none."""
    layers = [rule for _, rule in chain.hidden[1:] if isinstance(rule, Dense)]
    looks = {(rule.weight.shape, rule.bias is None, repr(rule.module)) for rule in layers}
    return len(looks) == 1 and layers[0].weight.shape[0] == layers[0].weight.shape[1]
