"""One run of the linear-net notebook in its folder, as `skipback reproduce poli2017 linear` makes it.

| file | what it holds |
|---|---|
| `metrics.jsonl` | a line for each tenth iteration: `epoch` (its number, from 0), `train_loss` (the cost) ... |
| `summary.json` | of the end: the iteration, the cost, and the distance sum abs(M - W2 W1) |
| `figure.png` | cost, angle and both criteria of the theorem |
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skipback.lab.records import Folder, atomic_write, to_json, to_jsonl

if TYPE_CHECKING:
    from skipback.lab.linear import Trace


class Notebook(BaseModel):
    """Its settings. Whatever is drawn, the notebook draws under NumPy's seed 1234."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Literal["linear-map"] = "linear-map"
    method: Literal["dfa"] = "dfa"
    tolerance: float = Field(1e-3, gt=0, allow_inf_nan=False, description="cost at which to stop")
    most: int = Field(4000, ge=1, le=1_000_000, description="iterations at most")
    seed: int = Field(1, description="of nothing: a run of another seed is the same run")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads")
    device: Literal["auto", "cpu"] = "cpu"


def run(options: Notebook, folder: Folder, *, command: str) -> dict[str, Any]:
    """Make the run in its folder. Returns its summary.

    Args:
        options: of the notebook.
        folder: where it is kept; a finished run is not made again, an interrupted one starts anew: it takes seconds.
        command: recorded in `env.json`.

    Raises:
        LabError: the folder cannot be used.
    """
    import torch

    from skipback.lab import linear, machine

    usual = {name: field.default for name, field in Notebook.model_fields.items()}
    with folder.claimed(options.model_dump(mode="json"), usual):
        if (done := folder.summary) is not None:
            return done
        torch.set_num_threads(options.threads)
        folder.write("env.json", to_json(machine.describe(torch.device("cpu"), command)))
        start = time.perf_counter()
        found = linear.trace(tolerance=options.tolerance, most=options.most)
        metrics = rows(found)
        metrics[-1]["train_seconds"] = time.perf_counter() - start
        folder.write("metrics.jsonl", to_jsonl(metrics))
        atomic_write(folder.path / "figure.png", linear.figure(found))
        summary = {"state": "finished", "method": options.method, "dataset": options.dataset, **metrics[-1]}
        folder.write("summary.json", to_json(summary))
        return summary


def rows(found: Trace) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`: the measured iterations, and the last one."""
    measured = [dataclasses.asdict(point) for point in found.points]
    lines = [{"epoch": m.pop("iteration"), "train_loss": m.pop("cost"), **m} for m in measured]
    return [*lines, {"epoch": found.stop, "train_loss": found.cost, "distance": found.distance}]
