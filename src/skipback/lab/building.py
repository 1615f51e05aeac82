"""From a run to its network with the method attached, and with the weights that it starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import skipback
from skipback.core.method import Method
from skipback.lab import choices, nets, zero_start
from skipback.lab.config import Run
from skipback.lab.data.pipeline import Feeds
from skipback.lab.data.pipeline_rows import Feed
from skipback.lab.errors import LabError
from skipback.lab.losses import LOSSES, TaskLoss
from skipback.lab.nets.bottleneck import published_blocks
from skipback.lab.starts import Start
from skipback.lab.tasks import Rules, remembers
from skipback.learner import Learner

PROBE = 256
"""Training samples that are looked at where no other number was asked for."""


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builds the network of a run.

    Attributes:
        run: a complete configuration.
        rules: of the task.
        loss: that is trained.
        data: what the network may have to know of it.
        feed: of the training rows, on the device.
        device: of the network.
    """

    run: Run
    rules: Rules
    loss: TaskLoss
    data: Feeds
    feed: Feed
    device: torch.device

    def build(self) -> tuple[Learner, str | None]:
        """The network with its method, and which start at 0 it got, if one was asked for.

        Raises:
            LabError: the network, the method and the data do not fit.
        """
        run, example = self.run, self.feed.first(2).inputs
        try:
            net = self._net(tuple(example[0].shape[1:])).to(self.device)
            method = self.rules.fit(run.method, method_of(run, self.loss, len(self.feed)), self.feed)
            start, batch, of_output = self._start(), self.feed.first(run.batch_size), self.loss.of_output
            start.before(net, batch, of_output)
            seed = own_seed(run.feedback_seed, run)
            learner = skipback.attach(net, method, example, self._blocks(net), seed=seed, show=None)
            zero: str | None = None
            if zero_start.of_net(run):  # after it, so that feedback is a copy of the weights as drawn
                zero = zero_start.zero_start(run.method, learner, self.feed.first(PROBE), of_output)
            start.after(learner, batch, of_output)
            return learner, zero
        except LabError:
            raise
        except (ValueError, RuntimeError) as error:  # the net does not fit the data, or the method not the net
            raise LabError(str(error)) from None

    def _blocks(self, net: nn.Module) -> list[str] | str:
        """Where the ports are: found by themselves, but for one published network."""
        published = self.run.bottleneck is not None and self.run.bottleneck_form == "published"
        return published_blocks(net) if published else "auto"

    def _start(self) -> Start:
        run, samples = self.run, len(self.feed)
        plain = {"feedback": None, "signal": None, "anchor": None}  # of the run's own method

        def other(name: str) -> Method:
            return method_of(run.model_copy(update={**plain, "method": name}), self.loss, samples)

        return choices.start(run.start, other=other, seed=own_seed(run.feedback_seed, run))

    def _net(self, shape: tuple[int, ...]) -> nn.Module:
        run, data = self.run, self.data
        known = {name: data.needs[name] for name in nets.CARDS[run.net].needs if name in data.needs}
        drawn = {} if zero_start.of_net(run) is None else {"zero_init": False}  # what starts at 0 depends on the method
        given, sizes = self.rules.given, {**run.sizes, **known, **drawn}
        return nets.build(run.net, shape, data.outputs, activation=run.activation, given=given, **sizes)


def own_seed(own: int | None, run: Run) -> int:
    """A seed of its own, else the run's."""
    return run.seed if own is None else own


def method_of(run: Run, loss: TaskLoss, samples: int) -> Method:
    """The method of a run.

    Args:
        run: a complete configuration.
        loss: that is trained.
        samples: training rows.
    """
    return choices.method(
        run.method,
        as_published=run.as_published,
        feedback=run.feedback,
        signal=run.signal,
        loss=loss,
        samples=samples,
        anchor=run.anchor,
    )


def check_changing(run: Run) -> None:
    """Refuse a run whose inputs change from visit to visit, and whose method has a memory; it needs no data to know.

    Raises:
        LabError: what was stored for a sample would be of another image of it.
    """
    for flag, what in (("augment", "augmentation"), ("adversarial", "an adversarial input")):
        if getattr(run, flag) is not None and remembers(method_of(run, LOSSES[run.loss or "ce"], 1)):
            raise LabError(
                f"--{flag} {getattr(run, flag)}: method {run.method!r} stores one error per sample, which {what} makes "
                f"stale: leave --{flag} out, or take methods without a memory"
            )
