"""Refusals: was an exception skipback's own, and does it say something?"""

from __future__ import annotations

import dis
import re
import traceback
from pathlib import Path

import skipback

HOME = str(Path(skipback.__file__).parent)
SHORTEST = 25
"""Characters of a sentence."""


def refused(error: BaseException) -> bool:
    """Whether skipback raised it, on purpose, with a sentence."""
    return not fault(error)


def fault(error: BaseException) -> str:
    """What is wrong with an exception: "" if it is a refusal."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    code = tb.tb_frame.f_code if tb is not None else None
    if tb is None or code is None or not code.co_filename.startswith(HOME):
        return "foreign"
    if isinstance(error, AssertionError):
        return "assertion"
    if code.co_code[tb.tb_lasti] != dis.opmap["RAISE_VARARGS"]:
        return "passed on"  # an operation inside skipback failed with words of its own
    return "" if len(str(error)) >= SHORTEST and " " in str(error) else "no sentence"


def place(error: BaseException) -> str:
    """Where it was raised, and where skipback's code was left last: "nn/functional.py:relu < engine/star.py:open"."""
    frames = traceback.extract_tb(error.__traceback__)
    last, ours = frames[-1], [frame for frame in frames if frame.filename.startswith(HOME)]
    text = f"{'/'.join(Path(last.filename).parts[-2:])}:{last.name}"
    return (
        f"{text} < {'/'.join(Path(ours[-1].filename).parts[-2:])}:{ours[-1].name}"
        if ours and ours[-1] is not last
        else text
    )


def sentence(error: BaseException) -> str:
    """Its words, without what differs from network to network."""
    text = str(error).strip().split("\n")[0]
    text = re.sub(r"'[^']*'", "'..'", text)
    text = re.sub(r"\([\d, ]*\)|torch\.Size\(\[[\d, ]*\]\)|\[[\d, ]*\]", "(..)", text)
    text = re.sub(r"-?\b\d+(\.\d+)?\b", "#", text)
    return f"{type(error).__name__}: {text}"[:240]
