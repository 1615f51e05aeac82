"""Errors for people: the command line prints the message as one line and exits with code 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class LabError(ValueError):
    """Something that the user gave is wrong. The message says what, where, and what would be right."""


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Inside, what the engine refuses (a `ValueError`, worded for people) is bad input; the message says of what."""
    try:
        yield
    except LabError:
        raise
    except ValueError as error:
        raise LabError(f"{what}: {error}") from error


def unknown(what: str, name: str, known: list[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    import difflib

    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}{hint} (choose from {', '.join(known)})"
