"""The kinds of what records are made of: a wrong one is named where it is given, not where it first breaks."""

from __future__ import annotations


def must_be(what: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Refuse a value of another kind.

    Args:
        what: the name of the argument.
        value: that was given.
        kind: a class, or several.
        example: what would be right, as it is written.

    Raises:
        TypeError: the value is no instance, or is a class that was not called.
    """
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{what}: must be {example}, not {_shown(value)}")


def must_call(what: str, value: object, example: str) -> None:
    """Refuse what is no function (a draw, a link).

    Raises:
        TypeError: the value cannot be called, or is a class that was not called.
    """
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{what}: must be {example}, not {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} (call it: {value.__name__}())"
    return f"{value!r}" if isinstance(value, str | int | float) else f"a {type(value).__name__}"
