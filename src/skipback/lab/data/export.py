"""A data set as one file for other programs: the rows of the official files, both splits, nothing standardised.

| file | what it holds |
|---|---|
| `.npz` | arrays `X_train`, `y_train`, `X_test`, `y_test`, as `numpy.load` reads them; images (N, C, H, W) in bytes |
| `.csv` | a row for each sample: `split` (train, test), the inputs (`x0` ... or a table's columns), the targets |

Of a text: its tokens, `train`, `valid` and `test` (.npz only). Of a graph: its arrays (.npz only).
"""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skipback.lab import data
from skipback.lab.data.base import DataError, Dataset, Task
from skipback.lab.records import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write(name: str, path: Path) -> str:
    """Write the data set of a name. Returns what was written where, in words.

    Raises:
        DataError: the file is neither .npz nor .csv, is there already, or the set is no table of rows and the file
            a .csv; or the set's own files are missing or damaged.
    """
    if path.suffix not in (".npz", ".csv"):
        raise DataError(f"{path}: a data set is written as FILE.npz or FILE.csv")
    if path.exists():
        raise DataError(f"{path} is there already: choose another name")
    task = data.card(name).tasks[0]
    if task in (Task.LANGUAGE, Task.NODES):
        if path.suffix == ".csv":
            raise DataError(f"{name} has no rows for a .csv: write it as {path.with_suffix('.npz')}")
        arrays = _arrays_of(data.text(name) if task is Task.LANGUAGE else data.graph(name))
        atomic_write(path, npz(arrays))
    else:
        rows = data.raw(name)
        arrays = {
            f"{letter}_{split}": getattr(getattr(rows, split), part).numpy()
            for split in ("train", "test")
            for letter, part in (("X", "x"), ("y", "t"))
        }
        atomic_write(path, npz(arrays) if path.suffix == ".npz" else _csv(rows))
    return f"{path} ({', '.join(f'{key} {tuple(value.shape)}' for key, value in arrays.items())})"


def _arrays_of(record: Any) -> dict[str, NDArray[Any]]:
    found = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}


def npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """The content of an .npz file of these arrays."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _csv(rows: Dataset) -> str:
    """Python's own shortest decimal numbers, which are read back to the same bits."""
    width = rows.train.x[0].numel()
    inputs = list(rows.columns) if len(rows.columns) == width else [f"x{k}" for k in range(width)]
    targets = ["y"] if rows.train.t.ndim == 1 else [f"y{k}" for k in range(rows.train.t.shape[1])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", *inputs, *targets])
    for split, part in (("train", rows.train), ("test", rows.test)):
        t = part.t.reshape(len(part), -1)
        for k in range(len(part)):
            writer.writerow([split, *part.x[k].flatten().tolist(), *t[k].tolist()])
    return text.getvalue()
