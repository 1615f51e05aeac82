"""A run from its folder, as it stood when it was last saved: its network, its configuration, and the learner."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from skipback.lab import checkpoint, inputs
from skipback.lab.config import Run, explain, usual
from skipback.lab.errors import LabError
from skipback.lab.records import Folder, read_json
from skipback.lab.trainer import Trainer
from skipback.load import LoadedRun


def load(folder: Path, device: str) -> LoadedRun:
    """See `skipback.load_run`."""
    path = folder / "config.json"
    if not path.is_file():
        raise LabError(f"{folder}: no run here: give the folder of one run, which holds a config.json")
    try:
        run = Run(**{**usual(), **read_json(path), "device": device})
    except ValidationError as error:
        raise LabError(f"{path}: {explain(error)}") from None
    if not (saved := Folder(folder).checkpoint).exists():
        raise LabError(f"{folder}: this run has not saved anything yet")
    state = checkpoint.load(saved)
    # the weights are those of the checkpoint: what it started from may be gone by now
    trainer = Trainer(run.model_copy(update={"start": None}), inputs.inputs(run))
    trainer.restore(state)
    return LoadedRun(net=trainer.learner.net, config=run, learner=trainer.learner.eval())
