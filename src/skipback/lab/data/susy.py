"""SUSY: simulated collisions, supersymmetric particles or background; 5 million rows, kept in a memory map.

The official file is 880 MB of packed text. It is read once, row by row, into a float32 file in the cache, already in
the order of the split; afterwards loading is opening that file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipback.lab.data import files, orders, table
from skipback.lab.data.base import Card, DataError, Dataset, File, Split, Task
from skipback.lab.data.source import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEATURES_TEXT = (
    "lepton_1_pT lepton_1_eta lepton_1_phi lepton_2_pT lepton_2_eta lepton_2_phi missing_energy_magnitude "
    "missing_energy_phi MET_rel axial_MET M_R M_TR_2 R MT2 S_R M_Delta_R dPhi_r_b cos_theta_r1"
)
FEATURES = tuple(_FEATURES_TEXT.split())
CLASSES = ("background", "signal")
ROWS = 5_000_000
SEED = 1  # of F3's split
CHUNK = 1 << 15  # lines parsed at once
CARD = Card(
    name="susy",
    title="SUSY, simulated collisions, 18 features, 5 million rows",
    tasks=(Task.CLASSIFICATION,),
    shape=(18,),
    outputs={Task.CLASSIFICATION: 2},
    train=4 * ROWS // 5,
    test=ROWS // 5,
    licence="CC BY 4.0",
    citation=(
        "Baldi, P., Sadowski, P. and Whiteson, D. (2014). Searching for exotic particles in high-energy physics with "
        "deep learning. Nature Communications 5, 4308. https://doi.org/10.1038/ncomms5308"
    ),
    homepage="https://archive.ics.uci.edu/dataset/279/susy",
    traps=(
        "Split as F3: 80 % and 20 % at random. The authors of the set test on its last 500,000 rows.",
        "Label 1 is signal; F3's name for the column says noise.",
        "No hash of the official file is published: its shape, its numbers and its row count are checked instead.",
        "The first eight features are measured, the last ten are functions of them.",
    ),
    files=(
        File(
            name="SUSY.csv.gz",
            digest="",
            size=2_600_000_000,
            urls=("https://archive.ics.uci.edu/ml/machine-learning-databases/00279/SUSY.csv.gz",),
        ),
    ),
    folder="susy",
    download=923_000_000,
)


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """The rows on disk, training rows first: features (N, 18) float32 and labels (N,) uint8."""

    features: NDArray[np.float32]
    labels: NDArray[np.uint8]


def scan(pieces: Iterator[bytes], path: Path, *, rows: int = ROWS) -> StoredRows:
    """The rows of the official file; converts it unless this very file was converted before.

    Raises:
        DataError: A row is ragged or no number, the row count is wrong, or the cache cannot be written.
    """
    known = path.stat()
    target = files.cache_folder() / CARD.folder / f"{path.name}-{known.st_size}-{known.st_mtime_ns}.rows"
    if not target.exists():
        try:
            _convert(pieces, path, target, rows)
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror}") from error
    return _mapped(target, rows, mode="c")  # private: what a caller writes stays in memory


def _mapped(target: Path, rows: int, *, mode: str) -> StoredRows:
    import numpy as np

    features: Any = np.memmap(target, np.float32, mode, shape=(rows, len(FEATURES)))  # type: ignore[call-overload]
    labels: Any = np.memmap(target, np.uint8, mode, offset=features.nbytes, shape=(rows,))  # type: ignore[call-overload]
    return StoredRows(features=features, labels=labels)


def _convert(pieces: Iterator[bytes], path: Path, target: Path, rows: int) -> None:
    """Write all rows beside the target, then put them in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        with Path(name).open("r+b") as file:
            file.truncate(rows * (4 * len(FEATURES) + 1))
        _fill(_mapped(Path(name), rows, mode="r+"), pieces, path, rows)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _fill(mapped: StoredRows, pieces: Iterator[bytes], path: Path, rows: int) -> None:
    import numpy as np

    train, test = orders.shuffled(rows, test=rows // 5, seed=SEED)
    place = np.empty(rows, np.int64)
    place[np.concatenate([train, test])] = np.arange(rows)
    done, stream = 0, table.lines_of(pieces)
    while lines := list(islice(stream, CHUNK)):
        numbers = _numbers(lines, path, done)
        if done + len(numbers) > rows:
            raise DataError(f"{path}: more than the {rows} rows it should have")
        where = place[done : done + len(numbers)]
        mapped.features[where], mapped.labels[where] = numbers[:, 1:], numbers[:, 0]
        done += len(numbers)
    if done < rows:
        raise DataError(f"{path}: truncated: {done} of {rows} rows")


def _numbers(lines: Sequence[bytes], path: Path, before: int) -> NDArray[np.float64]:
    """The numbers (lines, 19) of some lines: the label, then the features."""
    import numpy as np

    width = 1 + len(FEATURES)
    try:
        numbers = np.loadtxt([line.decode("ascii") for line in lines], delimiter=",", comments=None, ndmin=2)
        if numbers.shape == (len(lines), width) and np.isfinite(numbers).all() and np.isin(numbers[:, 0], (0, 1)).all():
            return numbers
    except ValueError:
        pass
    raise _complaint(lines, path, before)


def _complaint(lines: Sequence[bytes], path: Path, before: int) -> DataError:
    for at, line in enumerate(lines, before + 1):
        place, fields = f"{path}, line {at}", line.decode("latin1").split(",")
        if len(fields) != 1 + len(FEATURES):
            return DataError(f"{place}: {len(fields)} fields, expected {1 + len(FEATURES)}")
        try:
            values = [table.number(*pair, place) for pair in zip(fields, ("label", *FEATURES), strict=True)]
        except DataError as error:
            return error
        if values[0] not in (0, 1):
            return DataError(f"{place}: label {fields[0]!r}, expected 0 or 1")
    return DataError(f"{path}: not a table of ASCII text")


def build(arrays: Sequence[StoredRows], task: Task) -> Dataset:
    """The splits are two pieces of the memory map."""
    (mapped,) = arrays
    end = len(mapped.labels) - len(mapped.labels) // 5
    train, test = (_split(mapped, rows) for rows in (slice(None, end), slice(end, None)))
    return Dataset(name=CARD.name, task=task, outputs=2, train=train, test=test, classes=CLASSES, columns=FEATURES)


def _split(mapped: StoredRows, rows: slice) -> Split:
    import numpy as np
    import torch

    return Split(x=torch.from_numpy(mapped.features[rows]), t=torch.from_numpy(mapped.labels[rows].astype(np.int64)))


SOURCE = Source[Dataset](card=CARD, scan=scan, build=build, standard=table.standardised)
