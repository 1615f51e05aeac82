"""Weights that a run starts from, beside those that its network was built with.

    normal:STD             all weights and biases from N(0, STD^2)
    prealigned             weights that carry the error as the run's own feedback does (Launay et al. 2019)
    prealigned:METHOD      ... as the feedback of another method does: the same start for backprop, say
    FOLDER                 those that a finished run ended with

(`zero` is `--zero-init`, which a network builds itself.) A start acts once before the method is attached, where FA
copies the weights that it finds, and once after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

import skipback
from skipback import init
from skipback.core.method import Method
from skipback.core.records import Loss
from skipback.lab import checkpoint
from skipback.lab.data.pipeline_rows import Batch
from skipback.lab.errors import LabError, about
from skipback.lab.records import Folder
from skipback.learner import Learner


class Start(Protocol):
    """Sets the weights that a run starts from."""

    def before(self, net: nn.Module, batch: Batch, loss: Loss) -> None:
        """Before a method is attached."""

    def after(self, learner: Learner, batch: Batch, loss: Loss) -> None:
        """With the method attached. The batch has the first training rows."""


class AsBuilt(Start):
    """Those that the network was built with."""

    def before(self, net: nn.Module, batch: Batch, loss: Loss) -> None:
        """Nothing to do."""

    def after(self, learner: Learner, batch: Batch, loss: Loss) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Normal(AsBuilt):
    """All weights and biases from N(0, std^2), of torch's generator, which the run's seed has set."""

    std: float

    def before(self, net: nn.Module, batch: Batch, loss: Loss) -> None:
        """Draw them."""
        with about("--start normal"):
            init.normal(net, self.std)


@dataclass(frozen=True)
class Prealigned(AsBuilt):
    """Weights that carry the error as fixed feedback does.

    Attributes:
        method: whose feedback it is; `None` for that of the run.
        seed: of that feedback.
    """

    method: Method | None
    seed: int

    def before(self, net: nn.Module, batch: Batch, loss: Loss) -> None:
        """With the other method attached for this alone."""
        if self.method is None:
            return
        example = tuple(part[:2] for part in batch.inputs)
        learner = skipback.attach(net, self.method, example=example, seed=self.seed, show=None)
        _align(learner, batch, loss)
        learner.detach()

    def after(self, learner: Learner, batch: Batch, loss: Loss) -> None:
        """With the run's own method."""
        if self.method is None:
            _align(learner, batch, loss)


def _align(learner: Learner, batch: Batch, loss: Loss) -> None:
    with about("--start prealigned"):
        done = init.prealigned(learner, batch.inputs, batch.t, loss, ids=batch.ids)
    if not done.layers:
        why = "; ".join(f"{name}: {reason}" for name, reason in done.skipped.items())
        raise LabError(f"--start prealigned: no layer could be aligned ({why})")


@dataclass(frozen=True)
class FromRun(AsBuilt):
    """The weights that a finished run ended with, buffers of norms included. Its feedback is not taken."""

    folder: Path

    def before(self, net: nn.Module, batch: Batch, loss: Loss) -> None:
        """Load them."""
        try:
            net.load_state_dict(weights_of(self.folder))  # copied: what is on the device stays there
        except RuntimeError as error:
            first = " ".join(str(error).split("\n\t")[1:2]) or str(error)
            raise LabError(f"--start {self.folder}: the network there is another one ({first.strip()})") from None


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The weights of the network that a finished run trained.

    Raises:
        LabError: there is no run, it has not finished, or its checkpoint is damaged.
    """
    run = Folder(folder)
    if not (folder / "config.json").is_file():
        raise LabError(f"{folder}: no run here: give the folder of one run, which holds a config.json")
    if run.summary is None or not run.checkpoint.exists():
        raise LabError(f"{folder}: this run has not finished: the command that started it goes on with it")
    state: dict[str, Tensor] = checkpoint.load(run.checkpoint)["learner"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
