"""One stack in its folder, from where it stands.

| file | what it holds |
|---|---|
| `learners.safetensors` | weights and feedback of the learners |
| `features.npz` | `train` and `test` (N, K C), the learners' outputs side by side |
| `learners.jsonl` | a line for each learner: its errors in percent; `train_error_percent_online` is of its last epoch |
| `metrics.jsonl`, `summary.json` | of the layer on them, by epoch and at the end |
"""

from __future__ import annotations

import statistics
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipback.lab import checkpoint, choices, data, machine
from skipback.lab.data import DataError, Dataset, Split, Task
from skipback.lab.data.export import npz
from skipback.lab.data.prepare import prepared
from skipback.lab.errors import LabError
from skipback.lab.records import Folder, atomic_write, to_json, to_jsonl
from skipback.lab.stacking.layer import Readout, error_percent
from skipback.lab.stacking.learners import Learners
from skipback.lab.stacking.settings import Stack, usual
from skipback.lab.train import SAVE_EVERY

Said = Callable[[str], object]
"""Is called with a line on how far it is."""


def run(options: Stack, folder: Folder, *, command: str, progress: Said) -> dict[str, Any]:
    """Train a stack in its folder, from where it stands. Returns its summary.

    Args:
        options: of the stack.
        folder: where it is kept; a finished stack is not trained again.
        command: recorded in `env.json`.
        progress: says how far it is.

    Raises:
        LabError: the folder cannot be used, the data set cannot be prepared so, or the method cannot train learners.
    """
    device = machine.device(options.device)
    options = options.model_copy(update={"device": device.type})
    with folder.claimed(options.model_dump(mode="json"), usual()):
        if (done := folder.summary) is not None:
            return done
        torch.set_num_threads(options.threads)
        machine.fast_float32(device)
        folder.write("env.json", to_json(machine.describe(device, command)))
        rows = _rows(options, device)
        features, learners = _features(options, rows, folder, progress)
        layer = Readout(options, features, (rows.train.t, rows.test.t), rows.outputs)
        _train(layer, folder, progress)
        summary = _summary(options, layer, learners)
        folder.write("summary.json", to_json(summary))
        return summary


def _rows(options: Stack, device: torch.device) -> Dataset:
    raw = data.raw(options.dataset, task=Task.CLASSIFICATION)
    try:
        epsilon = 0.1  # of a whitening, as `skipback train` has it
        found = prepared(raw, choices.preparation(options.prepare, epsilon=epsilon))
    except DataError as error:
        raise LabError(f"--prepare {options.prepare}: {error}") from None
    train, test = (Split(x=part.x.to(device), t=part.t.to(device)) for part in (found.train, found.test))
    return Dataset(name=found.name, task=found.task, outputs=found.outputs, train=train, test=test)


def _features(
    options: Stack, rows: Dataset, folder: Folder, progress: Said
) -> tuple[tuple[Tensor, Tensor], list[dict[str, Any]]]:
    """The learners' outputs on both splits, and what each learner reaches; the learners are trained first."""
    learners = Learners(options, rows.train, rows.outputs)
    learners.fit(folder.path / "learners.safetensors", progress)
    path = folder.path / "features.npz"
    try:
        with np.load(path) as kept:
            found = [torch.from_numpy(kept[name]).to(rows.train.x.device) for name in ("train", "test")]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there yet, or damaged: they are computed again
        found = [learners.features(split.x) for split in (rows.train, rows.test)]
        atomic_write(path, npz({n: f.cpu().numpy() for n, f in zip(("train", "test"), found, strict=True)}))
    table = []
    for k in range(options.learners):
        own = slice(k * rows.outputs, (k + 1) * rows.outputs)
        table.append(
            {
                "learner": k,
                "train_error_percent_online": 100 * (1 - learners.right[k].item() / len(rows.train)),
                "train_error_percent": error_percent(found[0][:, own], rows.train.t),
                "test_error_percent": error_percent(found[1][:, own], rows.test.t),
            }
        )
    folder.write("learners.jsonl", to_jsonl(table))
    return (found[0], found[1]), table


def _train(layer: Readout, folder: Folder, progress: Said) -> None:
    if folder.checkpoint.exists():
        layer.restore(checkpoint.load(folder.checkpoint))
    saved = time.monotonic()
    while (over := layer.over) is None:
        row = layer.epoch()
        progress(f"layer: epoch {row['epoch']}, test error {row['test_error_percent']:.2f} %")
        if layer.over or time.monotonic() - saved > SAVE_EVERY:
            checkpoint.write(folder.checkpoint, layer.state())
            folder.write("metrics.jsonl", to_jsonl(layer.rows))
            saved = time.monotonic()
    progress(f"layer: {over}")


def _summary(options: Stack, layer: Readout, learners: list[dict[str, Any]]) -> dict[str, Any]:
    last = layer.rows[-1]
    names = ("train_error_percent_online", "train_error_percent", "test_error_percent")
    return {
        "method": options.method,
        "dataset": options.dataset,
        "learners": options.learners,
        "start": options.start,
        "layer": options.layer,
        "seed": options.seed,
        "state": "diverged" if layer.over == "diverged" else "finished",
        "stopped": layer.over,
        "epochs": last["epoch"],
        "train_loss": last["train_loss"],
        "train_error_percent": last["train_error_percent"],
        "test_error_percent": last["test_error_percent"],
        "test_error_percent_last_ten": _spread([row["test_error_percent"] for row in layer.rows[-10:]]),
        "train_seconds": last["train_seconds"],
        "layer_parameters": sum(p.numel() for p in layer.net.parameters() if p.requires_grad),
        **{f"learner_{name}": [row[name] for row in learners] for name in names},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "least": min(values), "largest": max(values)}


def describe(summary: dict[str, Any]) -> str:
    """What came out, in one line."""
    tests = summary["learner_test_error_percent"]
    each = f"{min(tests):.2f} to {max(tests):.2f} %" if len(tests) > 1 else f"{tests[0]:.2f} %"
    state = "" if summary["state"] == "finished" else f" ({summary['state']})"
    return f"learners {each} test error; stacked {summary['test_error_percent']:.2f} %{state}"
