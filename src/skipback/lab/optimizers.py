"""From the names of a run to what changes its weights: any optimizer of `torch.optim`, and one of its own for feedback.

FDFA and DKP learn their feedback. Bacho and Chu's code gives it an optimizer of its own, with another rate and decay,
and lets only the rate of the weights fall; `--feedback-lr`, `--feedback-decay` and `--feedback-optimizer` say so here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import optim

from skipback import update
from skipback.lab.choices import OPTIMIZERS
from skipback.lab.config import OF_FEEDBACK, Run
from skipback.lab.errors import LabError
from skipback.lab.schedules import Schedule, parse
from skipback.learner import Learner
from skipback.update import Update


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An optimizer and its options. What an optimizer does not have is left out here, and refused in the settings.

    Attributes:
        name: of `choices.OPTIMIZERS`.
        weight_decay: `None` for torch's own, which is 0 but for AdamW (.01).
    """

    name: str
    lr: float
    weight_decay: float | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the class, as far as it has them."""
        held = {name: getattr(self, name) for name in OPTIMIZERS[self.name][1]}
        return {name: value for name, value in held.items() if value is not None}

    def build(self) -> Update:
        """To the bits of the class in `torch.optim`, by a fused kernel where torch has one that is called directly."""
        plain = self.momentum == 0
        decay: dict[str, Any] = {"weight_decay": self.weight_decay} if self.weight_decay is not None else {}
        if self.name in ("adam", "adamw"):
            return (update.adam if self.name == "adam" else update.adamw)(self.lr, **decay)
        if self.name == "sgd" and plain:
            return update.sgd(self.lr, inside=False, **decay)
        kind: Any = getattr(optim, OPTIMIZERS[self.name][0])
        return Update(partial(kind, lr=self.lr, **self.options))


def update_of(run: Run, learner: Learner) -> Update:
    """What changes the weights of a run, and its feedback where that learns.

    Raises:
        LabError: the run has a rate, decay or optimizer for feedback that does not learn.
    """
    weights, learned = _of_weights(run), learner.feedback_parameters()
    if not learned:
        if (flag := _said_of_feedback(run)) is not None:
            raise LabError(f"{flag}: the feedback of method {run.method!r} does not learn: leave it out")
        return weights.build()
    feedback = _of_feedback(run, weights)
    if feedback == weights and run.feedback_lr is None:
        return weights.build()
    return update.split(weights.build(), (feedback.build(), learned))


def schedule_of(run: Run, by: Update) -> Schedule | None:
    """The schedule of a run: of the weights alone where the feedback has a rate of its own, else of all that learns.

    Args:
        run: with its schedule, if it has one.
        by: the run's update, bound.
    """
    if run.schedule is None:
        return None
    optimizer = by.optimizer if run.feedback_lr is None else by.parts[0].optimizer
    assert optimizer is not None
    return parse(run.schedule).of(optimizer)


def _of_weights(run: Run) -> Choice:
    more = {name: getattr(run, name) for name in ("weight_decay", "momentum", "dampening", "nesterov")}
    return Choice(name=run.optimizer, lr=run.lr, **more)


def _of_feedback(run: Run, weights: Choice) -> Choice:
    """Momentum is that of the weights, where it is their optimizer."""
    name, same = run.feedback_optimizer or run.optimizer, run.feedback_optimizer in (None, run.optimizer)
    held: dict[str, Any] = {"momentum": weights.momentum, "dampening": weights.dampening, "nesterov": weights.nesterov}
    decay = None if weights.weight_decay is None and run.feedback_decay == 0 and name != "adamw" else run.feedback_decay
    lr = run.lr if run.feedback_lr is None else run.feedback_lr
    return Choice(name=name, lr=lr, weight_decay=decay, **(held if same else {}))


def _said_of_feedback(run: Run) -> str | None:
    """The flag of a setting that is only of feedback that learns."""
    usual = type(run).model_fields
    said = (name for name in OF_FEEDBACK if getattr(run, name) != usual[name].default)
    return next((f"--{name.replace('_', '-')} {getattr(run, name)}" for name in said), None)
