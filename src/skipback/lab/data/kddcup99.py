"""KDD Cup 99: network connections of a simulated air-force base, normal or one of 22 attacks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skipback.lab.data import orders, table
from skipback.lab.data.base import Card, DataError, Dataset, File, Task
from skipback.lab.data.source import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OFFICIAL_TEXT = (
    "duration protocol_type service flag src_bytes dst_bytes land wrong_fragment urgent hot num_failed_logins "
    "logged_in num_compromised root_shell su_attempted num_root num_file_creations num_shells num_access_files "
    "num_outbound_cmds is_host_login is_guest_login count srv_count serror_rate srv_serror_rate rerror_rate "
    "srv_rerror_rate same_srv_rate diff_srv_rate srv_diff_host_rate dst_host_count dst_host_srv_count "
    "dst_host_same_srv_rate dst_host_diff_srv_rate dst_host_same_src_port_rate dst_host_srv_diff_host_rate "
    "dst_host_serror_rate dst_host_srv_serror_rate dst_host_rerror_rate dst_host_srv_rerror_rate"
)
OFFICIAL = tuple(_OFFICIAL_TEXT.split())
WORDS = ("protocol_type", "service", "flag")
NUMBERS = tuple(name for name in OFFICIAL if name not in WORDS)
_CLASSES_TEXT = (
    "back buffer_overflow ftp_write guess_passwd imap ipsweep land loadmodule multihop neptune nmap normal perl "
    "phf pod portsweep rootkit satan smurf spy teardrop warezclient warezmaster"
)
CLASSES = tuple(_CLASSES_TEXT.split())
SEED = 1  # of F3's split
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/kddcup99-mld/"
CARD = Card(
    name="kddcup99",
    title="KDD Cup 99, network connections and attacks, 41 measurements, all rows",
    tasks=(Task.CLASSIFICATION,),
    shape=(41,),
    outputs={Task.CLASSIFICATION: 23},
    train=3_918_744,
    test=979_687,
    licence="CC BY 4.0",
    citation=(
        "Stolfo, S., Fan, W., Lee, W., Prodromidis, A. and Chan, P. (1999). KDD Cup 1999 Data. UCI Machine Learning "
        "Repository. https://doi.org/10.24432/C51C7N"
    ),
    homepage="https://archive.ics.uci.edu/dataset/130/kdd+cup+1999+data",
    traps=(
        "Most rows repeat another: in the 10 % set 74 % of the test rows are also training rows. Accuracies near 100 % "
        "mean little.",
        "Very uneven: the commonest class is more than half of the rows, some have two or three rows in all.",
        "Measurements span nine powers of ten; F3 does not normalise them, here they are standardised.",
        "protocol_type, service and flag are codes in the order of the alphabet, and come last, as in F3.",
        "Split as F3: 80 % and 20 % at random, stratified. The Cup's own test file has other attacks.",
    ),
    files=(
        File(
            name="kddcup.data.gz",
            digest="",
            size=800_000_000,
            urls=("https://ndownloader.figshare.com/files/5976045", _UCI + "kddcup.data.gz"),
            served="3b6c942aa0356c0ca35b7b595a26c89d343652c9db428893e7494f837b274292",
        ),
    ),
    folder="kddcup99",
    download=18_115_902,
)
TENTH_CARD = dataclasses.replace(
    CARD,
    name="kddcup99-10",
    title="KDD Cup 99, network connections and attacks, 41 measurements, 10 % of the rows",
    train=395_216,
    test=98_805,
    files=(
        File(
            name="kddcup.data_10_percent.gz",
            digest="f8c8267ebcd9c0ed1fd7d6277fe5bfff8732e9b7db8e61b873542b2a534b6f9a",
            size=74_889_749,
            urls=("https://ndownloader.figshare.com/files/5976042", _UCI + "kddcup.data_10_percent.gz"),
            served="8045aca0d84e70e622d1148d7df782496f6333bf6eb979a1b0837c42a9fd9561",
        ),
    ),
    download=2_144_903,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistinctRows:
    """The rows of a file: most repeat another, so each distinct one is kept once, and `which` says where it occurs."""

    numbers: NDArray[np.float32]  # (distinct rows, 38)
    words: NDArray[np.str_]  # (distinct rows, 3)
    labels: NDArray[np.uint8]  # (distinct rows,)
    which: NDArray[np.int32]  # (rows,)


def scan(pieces: Iterator[bytes], path: Path) -> DistinctRows:
    """Read the rows of a file that comes in pieces.

    Raises:
        DataError: A row is ragged, a number is none, or a label is unknown.
    """
    import numpy as np

    seen: dict[bytes, int] = {}
    which = np.fromiter((seen.setdefault(line, len(seen)) for line in table.lines_of(pieces)), np.int32)
    if not seen:
        raise DataError(f"{path}: empty: no rows")
    return _parsed(list(seen), which, path)


def _parsed(lines: list[bytes], which: NDArray[np.int32], path: Path) -> DistinctRows:
    import numpy as np

    kinds = [(name, "U17" if name in (*WORDS, "label") else "f8") for name in (*OFFICIAL, "label")]
    try:
        rows = np.loadtxt([line.decode("ascii") for line in lines], kinds, delimiter=",", comments=None, ndmin=1)
        numbers = np.stack([rows[name] for name in NUMBERS], axis=1)
        labels = _labels(rows["label"])
        if len(rows) != len(lines) or not np.isfinite(numbers).all():
            raise ValueError
    except ValueError:
        raise _complaint(lines, which, path) from None
    return DistinctRows(
        numbers=numbers.astype(np.float32),
        words=np.stack([rows[name] for name in WORDS], axis=1),
        labels=labels,
        which=which,
    )


def _labels(words: NDArray[np.str_]) -> NDArray[np.uint8]:
    import numpy as np

    known = np.array([f"{name}." for name in CLASSES])
    labels = np.searchsorted(known, words).clip(max=len(known) - 1)
    if (known[labels] != words).any():
        raise ValueError
    return labels.astype(np.uint8)


def _complaint(lines: list[bytes], which: NDArray[np.int32], path: Path) -> DataError:
    """What is wrong with the first bad row, found by looking at one after the other."""
    for index, line in enumerate(lines):
        place = f"{path}, line {int((which == index).argmax()) + 1}"
        fields = line.decode("latin1").split(",")
        if len(fields) != len(OFFICIAL) + 1:
            return DataError(f"{place}: {len(fields)} fields, expected {len(OFFICIAL) + 1}")
        if fields[-1].removesuffix(".") not in CLASSES or not fields[-1].endswith("."):
            return DataError(f"{place}: unknown label {fields[-1]!r}")
        try:
            for name in NUMBERS:
                table.number(fields[OFFICIAL.index(name)], name, place)
        except DataError as error:
            return error
    return DataError(f"{path}: not a table of ASCII text")


def build(arrays: Sequence[DistinctRows], task: Task, *, card: Card) -> Dataset:
    """38 numbers, then 3 codes; split as F3 does."""
    import numpy as np

    (rows,) = arrays
    coded = [table.codes(rows.words[:, column]) for column in range(len(WORDS))]
    x = np.concatenate([rows.numbers, *(code[:, None] for _, (code,) in coded)], axis=1, dtype=np.float32)
    labels = rows.labels[rows.which]
    train, test = (
        table.split(x[rows.which[order]], labels[order].astype(np.int64))
        for order in orders.stratified(labels, seed=SEED)
    )
    return Dataset(
        name=card.name,
        task=task,
        outputs=len(CLASSES),
        train=train,
        test=test,
        classes=CLASSES,
        columns=(*NUMBERS, *WORDS),
        categories={name: known for name, (known, _) in zip(WORDS, coded, strict=True)},
    )


SOURCES = {
    card.name: Source[Dataset](
        card=card, scan=scan, build=functools.partial(build, card=card), standard=table.standardised
    )
    for card in (TENTH_CARD, CARD)
}
