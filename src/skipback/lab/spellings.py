"""Names as a person writes them: in any case, under the name that an older code base had, and with parameters.

    uniform:1    discrete:0,1:scale=.1    leaky-relu:0.5    normal:1

A name, then its parameters, each behind a colon; the first of them needs no name of its own. What is kept (in
`config.json`, say) is one canonical spelling. Nothing here imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from skipback.lab.errors import LabError, unknown

ALIASES: dict[str, dict[str, str]] = {
    "method": {"llo": "shallow", "backprop": "bp", "backpropagation": "bp", "fwdgrad": "fg_w", "fgw": "fg_w"},
    "data set": {"censusincome": "adult", "kdd": "kddcup99"},
    "activation": {"sigm": "sigmoid"},
    "feedback": {
        "kaiminguniform": "kaiming",
        "kaiminguniformrepeatline": "repeat_line",
        "discreteuniform": "discrete",
        "trinomial": "ternary",
        "identityrepeatpm": "identity_pm",
    },
    "signal": {"error": "current_error", "target": "one_hot_target"},
    "prepare": {"whiten": "zca"},
}
"""The names that F3, FDFA, dfa-torch and principled-dfa-training have for what has another one here, by `folded`."""


def folded(name: str) -> str:
    """What makes two spellings of a name equal: letters in lower case and digits."""
    return re.sub(r"[\s_-]", "", name).lower()


def alike(what: str, name: str, known: Iterable[str]) -> str:
    """The known name that this one means; the name itself where there is none."""
    if name in (names := list(known)):
        return name
    by_fold = {folded(one): one for one in names}
    return by_fold.get(folded(ALIASES.get(what, {}).get(folded(name), name)), name)


def check(what: str, name: str, known: Iterable[str]) -> str:
    """The known name that this one means.

    Raises:
        LabError: there is none; the message has the nearest one.
    """
    names = list(known)
    if (found := alike(what, name, names)) not in names:
        raise LabError(unknown(what, name, names))
    return found


class Form(NamedTuple):
    """What a name stands for.

    Attributes:
        function: its constructor, a name in the module that has them all.
        options: what the name fixes.
        takes: the parameters that may follow it; the first of them without its own name.
        example: a right spelling.
    """

    function: str
    options: Mapping[str, Any] = {}
    takes: tuple[str, ...] = ()
    example: str = ""


class Spelling(NamedTuple):
    """A name with the parameters that were given."""

    name: str
    parameters: dict[str, Any]


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _above_zero(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(",")))


KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "values": (_numbers, "numbers with commas"),
    "scale": (_number, "a number"),
    "gain": (_number, "a number"),
    "a": (_number, "a number"),
    "negative_slope": (_number, "a number"),
    "alpha": (_number, "a number"),
    "bound": (_above_zero, "a number above 0"),
    "std": (_above_zero, "a number above 0"),
    "method": (str, "a method"),
    "per_unit": (_count, "a whole number above 0"),
}
"""What each parameter is read by, and what it has to be."""


def parse(what: str, text: str, forms: Mapping[str, Form]) -> Spelling:
    """Read a name with its parameters.

    Args:
        what: is named, for the message, and its aliases.
        text: as a person wrote it.
        forms: by name, what may be named.

    Raises:
        LabError: there is no such name, it has no such parameter, or a value does not fit. The message shows what is
            right.
    """
    word, *parts = text.strip().split(":")
    name = check(what, word, forms)
    takes = forms[name].takes
    found: dict[str, Any] = {}
    for k, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = (takes[0] if takes and k == 0 else ""), part
        key = key.strip().lower().replace("-", "_")
        if key not in takes or key in found:
            raise LabError(f"{what} {text!r}: {_right(name, forms[name])}")
        found[key] = _value(what, text, key, value)
    return Spelling(name, {key: found[key] for key in takes if key in found})


def spelt(what: str, text: str, forms: Mapping[str, Form]) -> str:
    """The canonical spelling: the one that is kept. The first parameter goes without its name.

    Raises:
        LabError: as `parse`.
    """
    found = parse(what, text, forms)
    takes = forms[found.name].takes
    parts = [_text(v) if k == takes[0] else f"{k}={_text(v)}" for k, v in found.parameters.items()]
    return ":".join([found.name, *parts])


def _value(what: str, text: str, key: str, value: str) -> Any:
    read, kind = KINDS[key]
    try:
        return read(value.strip())
    except (ValueError, OverflowError):
        raise LabError(f"{what} {text!r}: {key} must be {kind}, got {value!r}") from None


def _right(name: str, form: Form) -> str:
    if not form.takes:
        return f"{name} takes no parameters: write {name}"
    example = form.example or name
    return f"{name} takes {', '.join(form.takes)}, each once: write {name}, or {example}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, float) and value == int(value) and abs(value) < 1e15 else repr(value)
