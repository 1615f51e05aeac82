"""Several processes for one list of runs: each walks the whole list, and the folder locks share it out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

VARIABLE = "SKIPBACK_WORKER"
"""Is set in a process that another one has started to train along."""
LOOK = 1.0
"""Seconds between two looks at how far they are."""


def is_worker() -> bool:
    """Whether this process trains for another one, which will say what came out."""
    return VARIABLE in os.environ


def share(argv: Sequence[str], jobs: int, *, total: int, done: Callable[[], int]) -> None:
    """Start this command `jobs` times, and wait. What they leave undone, the caller trains or complains of.

    Args:
        argv: of the command line, without the program.
        jobs: processes.
        total: runs in the list.
        done: how many of them are finished.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    variables = {**os.environ, VARIABLE: "1", "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "skipback", *argv]
    quiet: dict[str, Any] = {"env": variables, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, **quiet) for _ in range(jobs)]  # noqa: S603
    try:
        _watch(started, total, done)
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()


def _watch(started: Sequence[subprocess.Popen[bytes]], total: int, done: Callable[[], int]) -> None:
    console = Console(stderr=True)
    columns = (TextColumn(f"{len(started)} processes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        while any(process.poll() is None for process in started):
            bar.update(task, completed=done())
            time.sleep(LOOK)
