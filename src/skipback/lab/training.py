"""What a run's settings of optimizer, schedule and the like refuse, in words: nothing that is said is ignored."""

from __future__ import annotations

from typing import Protocol

from skipback.lab import schedules
from skipback.lab.choices import OPTIMIZERS
from skipback.lab.errors import LabError


class Trained(Protocol):
    """The settings that are looked at here, see `skipback.lab.config.Settings`."""

    optimizer: str
    feedback_optimizer: str | None
    feedback_decay: float
    weight_decay: float | None
    momentum: float
    dampening: float
    nesterov: bool
    schedule: str | None
    stop_train_error: float | None
    stop_change: float | None
    adversarial: float | None
    keep_clean_gradients: bool
    max_in_norm: float | None
    max_out_norm: float | None
    align_every: int | None
    precision: str
    compile: bool


def check(run: Trained) -> None:
    """Refuse options that the run's optimizer has not, and a schedule that cannot be read.

    Raises:
        LabError: names the flag, and what has it.
    """
    for option in ("weight_decay", "momentum", "dampening", "nesterov"):
        if getattr(run, option) and option not in OPTIMIZERS[run.optimizer][1]:
            _refuse(option, "--optimizer", run.optimizer, option)
    feedback = run.feedback_optimizer or run.optimizer
    if run.feedback_decay and "weight_decay" not in OPTIMIZERS[feedback][1]:
        _refuse("feedback_decay", "--feedback-optimizer", feedback, "weight_decay")
    _momentum(run)
    if run.keep_clean_gradients and (run.compile or run.precision == "bf16"):
        option = "--compile" if run.compile else "--precision bf16"
        raise LabError(f"{option}: not with --keep-clean-gradients, whose two passes add up in float32 as they are")
    if run.schedule is not None:
        schedules.parse(run.schedule)


def alone(run: Trained) -> str | None:
    """The flag of what one run decides for itself, so that it cannot be one of several trained as one net."""
    if run.schedule == "auto":
        return "--schedule auto"
    return next((f"--{name.replace('_', '-')}" for name in ALONE if getattr(run, name) is not None), None)


ALONE = ("stop_train_error", "stop_change", "adversarial", "max_in_norm", "max_out_norm", "align_every")
"""Settings of runs that are trained one by one."""


def _momentum(run: Trained) -> None:
    for option in ("dampening", "nesterov"):
        if getattr(run, option) and not run.momentum:
            raise LabError(f"--{option} says nothing without --momentum")
    if run.nesterov and run.dampening:
        raise LabError("--nesterov: torch's looks ahead by an undamped momentum only: leave --dampening out")


def _refuse(option: str, flag: str, name: str, needed: str) -> None:
    have = ", ".join(other for other, (_, options) in OPTIMIZERS.items() if needed in options)
    raise LabError(f"--{option.replace('_', '-')}: {flag} {name} has no {needed.replace('_', ' ')} (have it: {have})")
