"""Stop rules: when a run is over before its last epoch. Each is a function of the training errors of all epochs so far.

So there is nothing to keep beside them, and an interrupted run stops where the whole one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skipback.lab.config import Run
from skipback.lab.errors import LabError
from skipback.lab.schedules import follow, parse

StopRule = Callable[[Sequence[float]], str | None]
"""From the training errors, as fractions, to why the run is over; `None` if it is not."""


def rules(run: Run) -> list[StopRule]:
    """The stop rules of a run."""
    found: list[StopRule] = []
    if run.schedule is not None and parse(run.schedule).by_error:
        found.append(_exhausted)
    if run.stop_train_error is not None:
        found.append(_learned(run.stop_train_error))
    if run.stop_change is not None:
        found.append(_settled(run.stop_change))
    return found


def check(run: Run, *, counted: bool) -> None:
    """Refuse a rule of the training error where there is none.

    Args:
        run: a complete configuration.
        counted: whether errors are counted, as there are classes.

    Raises:
        LabError: names the flag.
    """
    if counted:
        return
    for flag, value in (
        ("schedule", run.schedule if run.schedule == "auto" else None),
        ("stop-train-error", run.stop_train_error),
        ("stop-change", run.stop_change),
    ):
        if value is not None:
            raise LabError(f"--{flag} {value} follows the share of wrong classes, and {run.dataset!r} has values here")


def why(run: Run, errors: Sequence[float]) -> str | None:
    """Why a run is over after these epochs; `None` if it goes on."""
    return next((said for rule in rules(run) if (said := rule(errors)) is not None), None)


def _exhausted(errors: Sequence[float]) -> str | None:
    """dfa-torch's `epoch_step 0`: after 8 halvings of the rate, or an average error of 1e-4."""
    now = follow(errors)
    if not now.ended:
        return None
    return f"--schedule auto: {now.halvings} halvings, smoothed training error {now.average:.3g}"


def _learned(limit: float) -> StopRule:
    """dfa-torch: the moving average of the training error is at most this."""

    def rule(errors: Sequence[float]) -> str | None:
        m = follow(errors).average
        return f"--stop-train-error {limit:g}: smoothed training error {m:.3g}" if m <= limit else None

    return rule


def _settled(limit: float) -> StopRule:
    """Poli's notebook: the training error has changed by no more than this since the epoch before."""

    def rule(errors: Sequence[float]) -> str | None:
        change = abs(errors[-1] - errors[-2]) if len(errors) > 1 else None
        if change is None or change > limit:
            return None
        return f"--stop-change {limit:g}: the training error changed by {change:.3g}"

    return rule
