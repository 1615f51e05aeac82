"""The contract of signals, and of what a delayed one remembers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from skipback.core.records import Needs, SignalInputs
from skipback.memory import Initial, Record
from skipback.signals import Signal
from skipback.testing.laws import (
    check_close,
    check_repeats,
    check_tensor,
    generator,
    law,
    name_of,
    noise,
    only_given,
    record,
)

ROWS = 6
FIELDS = {
    "gradient": Needs.GRADIENT,
    "output": Needs.OUTPUT,
    "target": Needs.TARGET,
    "memory": Needs.IDS,
}


def check_signal(signal: Signal, *, outputs: int = 5) -> None:
    """Check the laws of `skipback.signals.Signal`.

    Args:
        signal: of class targets (one-hot rows).
        outputs: C.

    Raises:
        AssertionError: a law is broken.
    """
    with record(signal):
        _check(signal, outputs)


def _check(signal: Signal, outputs: int) -> None:
    what, needs = name_of(signal), signal.needs
    law(isinstance(needs, Needs), f"{what}.needs must be flags of skipback.core.records.Needs, not {needs!r}")
    flags = (signal.one_signed, signal.scales)
    law(all(isinstance(flag, bool) for flag in flags), f"{what}.one_signed and .scales must be True or False")
    step = {name: value for name, value in _fields(outputs, seed=1).items() if FIELDS[name] in needs}
    with only_given(what, *step.values()):
        sent = check_repeats(what, lambda: _sent(signal, step))
    check_tensor(sent, (ROWS, outputs), torch.float64, f"what {what} sends")
    _check_rows(signal, sent, step, outputs)
    _check_scale(signal, sent, step)
    memory = signal.memory(outputs)
    law((memory is not None) == (Needs.IDS in needs), f"{what} must have a memory if, and only if, it needs ids")
    if memory is not None:
        law(memory.rows.shape[1] == outputs, f"the memory of {what} has {memory.rows.shape[1]} columns, not {outputs}")
        check_memory(memory.record, memory.initial, outputs=outputs)


def check_memory(of_visit: Record, initial: Initial, *, outputs: int = 5) -> None:
    """Check the laws of what a memory stores of a visit, and of what stands in before the first one.

    Args:
        of_visit: (output, target) -> row.
        initial: (record, target) -> row.
        outputs: C.

    Raises:
        AssertionError: a law is broken.
    """
    _check_rows_of("record", of_visit, outputs)
    _check_rows_of("initial", partial(initial, of_visit), outputs, of_target=True)


def _check_rows_of(what: str, call: Callable[..., Tensor], outputs: int, *, of_target: bool = False) -> None:
    names = ("target",) if of_target else ("output", "target")
    given, other = ([_fields(outputs, seed=seed)[name] for name in names] for seed in (1, 11))
    with only_given(what, *given):
        rows = check_repeats(what, lambda: call(*given))
    check_tensor(rows, (ROWS, outputs), torch.float64, f"what {what} returns")
    mixed = call(*[_but_first(value, another) for value, another in zip(given, other, strict=True)])
    check_close(mixed[:1], rows[:1], f"{what} mixes samples: row 0 changes with the other rows")


def _fields(outputs: int, *, seed: int) -> dict[str, Tensor]:
    classes = torch.randint(outputs, (ROWS,), generator=generator(seed))
    return {
        "gradient": noise(ROWS, outputs, seed=seed) / ROWS,
        "output": noise(ROWS, outputs, seed=seed + 1),
        "target": torch.eye(outputs, dtype=torch.float64)[classes],
        "memory": noise(ROWS, outputs, seed=seed + 2),
    }


def _sent(signal: Signal, step: dict[str, Tensor]) -> Tensor:
    try:
        return signal(SignalInputs(**step))
    except (AssertionError, AttributeError, TypeError) as error:
        raise AssertionError(
            f"{name_of(signal)} fails with what its needs name ({', '.join(step) or 'nothing'}): {error!r}"
        ) from error


def _but_first(rows: Tensor, other: Tensor) -> Tensor:
    return torch.cat([rows[:1], other[1:]])


def _check_rows(signal: Signal, sent: Tensor, step: dict[str, Tensor], outputs: int) -> None:
    other = _fields(outputs, seed=11)
    mixed = _sent(signal, {name: _but_first(value, other[name]) for name, value in step.items()})
    check_close(mixed[:1], sent[:1], f"{name_of(signal)} mixes samples: row 0 changes with the other rows")


def _check_scale(signal: Signal, sent: Tensor, step: dict[str, Tensor]) -> None:
    """Whether it grows with the loss exactly if it says so: what does not is scaled by the engine."""
    what, c = name_of(signal), 1024.0
    if "gradient" not in step:
        law(not signal.scales, f"{what} says that it grows with the loss, but does not look at the gradient")
        return
    found = _sent(signal, {**step, "gradient": c * step["gradient"]})
    expected = c * sent if signal.scales else sent
    says = (
        f"{c:g} times the gradient gives {c:g} times the signal" if signal.scales else "the gradient's size is not seen"
    )
    check_close(found, expected, f"{what}.scales is {signal.scales}, so {says}; it is not so")
