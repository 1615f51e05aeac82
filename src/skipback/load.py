"""Load a run: what `skipback train` left in a folder, as objects. It needs the lab, which is imported on the call."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from skipback.learner import Learner


class LoadedRun(NamedTuple):
    """A run from its folder: `net, config, learner = load_run(folder)`.

    Attributes:
        net: the network with the trained weights, in eval mode. `learner.detach()` makes it a plain module.
        config: the run's settings, a `skipback.lab.config.Run`.
        learner: the method attached to the network, with its feedback and memory as they were.
    """

    net: nn.Module
    config: Any
    learner: Learner


def load_run(folder: str | Path, *, device: str = "auto") -> LoadedRun:
    """Load a run of `skipback train` or `compare` as it stood when it was last saved, finished or not.

    The network is built as the run built it, so its data set must be here: sizes and categories come from it.

    Args:
        folder: of one run: it holds a config.json and a checkpoint.
        device: where to: auto, cpu or cuda, whatever the run was trained on.

    Raises:
        ValueError: there is no run, it has not saved anything, its files are damaged or of another version, or its data
            set is not here.
        ImportError: the lab's packages are not installed.
    """
    try:
        loading = importlib.import_module("skipback.lab.loading")
    except ImportError as error:
        raise ImportError(
            f"load_run needs the lab, and {error.name} is not installed: pip install 'skipback[lab]'", name=error.name
        ) from None
    loaded: LoadedRun = loading.load(Path(folder), device)
    return loaded
