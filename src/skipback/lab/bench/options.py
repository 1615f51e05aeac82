"""The options of the verb `bench`. torch is not needed to know them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, Field

from skipback.lab import choices, spellings
from skipback.lab.bench.shapes import SHAPES
from skipback.lab.errors import LabError
from skipback.lab.flags import Names
from skipback.methods import TABLE as METHODS

OPTIMIZERS = ("adam", "sgd")
TOGETHER = 4
"""Methods in one round: the networks of all its variants are in memory at once, and all wait for the slowest."""


class Bench(BaseModel):
    """Speed and peak memory of training steps against plain backprop, on this machine.

    All variants take turns; each number is the median over the rounds of how many times as fast as plain backprop it
    was. Times are CPU time of one thread, on a GPU those of the clock when its work is done.
    """

    shapes: Names = Field("S1,S2,S3,S4,S5,S6,cnn,transformer", description=f"of {', '.join(SHAPES)}")
    methods: Names = Field("dfa,f3,drtp,fdfa", description="of `skipback list methods`, or all")
    optimizers: Names = Field(",".join(OPTIMIZERS), description="of adam, sgd")
    seconds: float = Field(
        20, gt=0, le=86_400, description=f"of measuring, for each shape, optimizer and {TOGETHER} methods"
    )
    depths: Names = Field("4,16,64,256", description="hidden layers at which memory is measured, or none")
    device: str = Field("auto", description=f"of {', '.join(choices.DEVICES)}")
    compile: bool = Field(False, description="also torch.compile, where it takes hold: a minute or more for each shape")
    quick: bool = Field(False, description="a look in a minute: S1 and S2, dfa and f3, depths 4 and 16, no energy")
    out: Path = Field(Path("bench"), description="folder for bench.json and bench.png")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(
        False, description="print bench.json, and nothing else"
    )


QUICK = {"shapes": "S1,S2", "methods": "dfa,f3", "depths": "4,16", "seconds": 1.5}
"""What `--quick` sets, where no flag says otherwise."""


def chosen(options: Bench) -> Bench:
    """The options, with those of `--quick`, checked.

    Raises:
        LabError: a name is unknown, or a depth is no number.
    """
    if options.quick:
        left = {k: v for k, v in QUICK.items() if getattr(options, k) == Bench.model_fields[k].default}
        options = options.model_copy(update=left)
    if options.methods == "all":
        options = options.model_copy(update={"methods": ",".join(METHODS)})
    named: dict[str, str] = {}
    for what, field, known in (
        ("shape", "shapes", list(SHAPES)),
        ("method", "methods", [*METHODS, "all"]),
        ("optimizer", "optimizers", list(OPTIMIZERS)),
        ("device", "device", list(choices.DEVICES)),
    ):
        named[field] = ",".join(_check(what, name, known) for name in split(getattr(options, field)))
    options = options.model_copy(update=named)
    depths(options.depths)
    return options


def _check(what: str, name: str, known: list[str]) -> str:
    try:
        return spellings.check(what, name, known)
    except LabError as error:
        flag = "--device" if what == "device" else f"--{what}s"
        raise LabError(f"{flag}: {error}") from None


def split(text: str) -> list[str]:
    """The names in a list with commas."""
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def depths(text: str) -> list[int]:
    """The depths of a list with commas; none of "none".

    Raises:
        LabError: one is no whole number from 1 to 10,000.
    """
    names = [] if text == "none" else split(text)
    for name in names:
        if not (name.isdecimal() and 1 <= int(name) <= 10_000):
            raise LabError(f"--depths {text}: {name!r} is no number of hidden layers (1 to 10000); none measures none")
    return [int(name) for name in names]
