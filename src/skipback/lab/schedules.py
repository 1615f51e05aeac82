"""Schedules: how the learning rate changes while a run trains, by torch's own schedulers where these have the rule.

    step:S:G         every S epochs, lr <- G lr                                     torch's StepLR
    exponential:G    every epoch, lr <- G lr                                        torch's ExponentialLR
    inverse:D        lr / (1 + D t) after t updates (torch7's learningRateDecay)    torch's LambdaLR
    auto             lr / 2 after an epoch whose training error is not below its moving average (dfa-torch)

The names are read here without torch, so that a wrong one is told before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from skipback.lab.errors import LabError, unknown

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

KEPT, LEARNED, DECAYS = 0.75, 1e-4, 8
"""Of dfa-torch's rule: the share of the moving average that is kept, where it ends, and the most halvings."""

FORMS: dict[str, tuple[str, ...]] = {"step": ("S", "G"), "exponential": ("G",), "inverse": ("D",), "auto": ()}
"""Each rule and the numbers that follow it."""


class Schedule(Protocol):
    """Changes the learning rate of an optimizer.

    Attributes:
        every_update: whether it does so after each update, rather than after each epoch.
    """

    every_update: bool

    def updated(self) -> None:
        """An update is done."""

    def ended(self, errors: Sequence[float]) -> None:
        """An epoch is done; `errors` are the training errors of all epochs so far, as fractions."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the optimizer's own state."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """A schedule as it was ordered.

    Attributes:
        name: of `FORMS`.
        numbers: that follow it.
    """

    name: str
    numbers: tuple[float, ...]

    @property
    def by_error(self) -> bool:
        """Whether it follows the training error."""
        return self.name == "auto"

    def of(self, optimizer: Optimizer) -> Schedule:
        """The schedule of an optimizer."""
        return _BUILD[self.name](optimizer, *self.numbers)


def parse(text: str) -> Ordered:
    """Read a schedule: a name of `FORMS` and its numbers, after colons.

    Raises:
        LabError: the name is unknown, or a number is missing, too many, or out of range.
    """
    name, *words = text.split(":")
    if name not in FORMS:
        raise LabError(unknown("schedule", name, list(FORMS)))
    form = ":".join((name, *FORMS[name]))
    try:
        numbers = tuple(map(float, words))
    except ValueError:
        numbers = ()
    if len(numbers) != len(FORMS[name]) or len(words) != len(numbers):
        raise LabError(f"--schedule {text}: write it as {form}, with numbers for the capitals")
    for letter, number in zip(FORMS[name], numbers, strict=True):
        _check(text, letter, number)
    return Ordered(name=name, numbers=numbers)


def _check(text: str, letter: str, number: float) -> None:
    right = {
        "S": (number >= 1 and number.is_integer(), "a whole number of epochs, 1 or more"),
        "G": (0 < number <= 1, "a factor above 0, at most 1"),
        "D": (0 <= number < float("inf"), "a number of 0 or more"),
    }
    fits, what = right[letter]
    if not fits:
        raise LabError(f"--schedule {text}: {letter} must be {what}")


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Where dfa-torch's rule stands after some epochs.

    Attributes:
        average: of the training error: m <- .75 m + .25 error, from m = 1.
        halvings: of the rate, one after each epoch whose error is not below the average.
        ended: whether the rule ends the run, after 8 halvings or where the average is 1e-4 or less.
    """

    average: float
    halvings: int
    ended: bool


def follow(errors: Sequence[float]) -> Followed:
    """Follow dfa-torch's rule (`mlp.lua`, `epoch_step 0`) through the training errors of all epochs so far."""
    m, halvings, ended = 1.0, 0, False
    for error in errors:
        m = KEPT * m + (1 - KEPT) * error
        ended = halvings >= DECAYS or m <= LEARNED
        if not ended and error >= m:
            halvings += 1
    return Followed(average=m, halvings=halvings, ended=ended)


class EachEpoch:
    """A scheduler of torch, called after each epoch.

    Args:
        scheduler: of the optimizer.
    """

    every_update = False

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    def updated(self) -> None:
        """Nothing."""

    def ended(self, errors: Sequence[float]) -> None:
        """Call it."""
        self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """The scheduler's own."""
        return self.scheduler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Load it."""
        self.scheduler.load_state_dict(dict(state))


class EachUpdate(EachEpoch):
    """A scheduler of torch, called after each update."""

    every_update = True

    def updated(self) -> None:
        """Call it."""
        self.scheduler.step()

    def ended(self, errors: Sequence[float]) -> None:
        """Nothing."""


class Halved:
    """dfa-torch's rule. Its state is the training errors, which the run keeps.

    Args:
        optimizer: whose rates are halved.
    """

    every_update = False

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.first = [group["lr"] for group in optimizer.param_groups]

    def updated(self) -> None:
        """Nothing."""

    def ended(self, errors: Sequence[float]) -> None:
        """Set the rates."""
        for group, lr in zip(self.optimizer.param_groups, self.first, strict=True):
            group["lr"] = lr * 0.5 ** follow(errors).halvings

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The optimizer's own state has the rates."""


def _step(optimizer: Optimizer, every: float, factor: float) -> Schedule:
    from torch.optim.lr_scheduler import StepLR

    return EachEpoch(StepLR(optimizer, int(every), factor))


def _exponential(optimizer: Optimizer, factor: float) -> Schedule:
    from torch.optim.lr_scheduler import ExponentialLR

    return EachEpoch(ExponentialLR(optimizer, factor))


def _inverse(optimizer: Optimizer, decay: float) -> Schedule:
    from torch.optim.lr_scheduler import LambdaLR

    return EachUpdate(LambdaLR(optimizer, lambda t: 1 / (1 + decay * t)))


_BUILD: dict[str, Callable[..., Schedule]] = {
    "step": _step,
    "exponential": _exponential,
    "inverse": _inverse,
    "auto": Halved,
}
