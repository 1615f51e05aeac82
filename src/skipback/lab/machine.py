"""What this machine is, and how much memory a run took on it."""

from __future__ import annotations

import ctypes
import datetime
import gc
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import skipback
from skipback import precision
from skipback.lab.errors import LabError

_STATUS = Path("/proc/self/status")


def device(name: str) -> torch.device:
    """The device that a name asks for; "auto" takes the GPU where there is one.

    Raises:
        LabError: CUDA is asked for and absent, or has no GPU of this number.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise LabError(
            f"--device {name}: torch {torch.__version__} sees no CUDA device here; use --device cpu, or auto to take a "
            "GPU where there is one"
        )
    if ":" in name:
        count = torch.cuda.device_count()
        if int(name.split(":")[1]) >= count:
            raise LabError(f"--device {name}: there are {count} GPUs here, cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(name)  # what is recorded, counted and measured is of this one
        return torch.device(name)
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def fast_float32(where: torch.device | None = None) -> bool:
    """Let oneDNN multiply float32 matrices on the CPU, where that is as exact. Returns whether it does now.

    On AMD the default (MKL) runs at half of oneDNN's speed. See `skipback.precision.onednn`.

    Args:
        where: the run computes; a GPU does not mind the setting.
    """
    if precision.exact():
        precision.choose_product("bf16")
    return precision.exact()


def plain_float32(where: torch.device) -> None:
    """Let torch multiply float32 matrices as it does by itself, also if an earlier run of this process chose."""
    precision.choose_product("none")


def onednn_float32(where: torch.device) -> None:
    """Let oneDNN multiply float32 matrices.

    Raises:
        LabError: the run does not compute on the CPU, or this one rounds.
    """
    if where.type != "cpu":
        raise LabError(f"--precision onednn: oneDNN computes on the CPU, and this run on {where.type}: use auto")
    try:
        precision.onednn()
    except ValueError as error:
        raise LabError(f"--precision onednn: {error}") from None
    fast_float32()


def reset_peak() -> None:
    """Start measuring the peak memory anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else a run inherits the pages that the one before it has freed
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: peak resident size := current
    except (OSError, AttributeError):
        return  # elsewhere the peak is that of the whole process


def peak_mib(where: torch.device) -> float:
    """Peak memory in MiB: allocated on the GPU, or the resident size of this process on the CPU."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where) / 2**20
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # not on Windows, where there is no such figure

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def describe(where: torch.device, command: str) -> dict[str, Any]:
    """What a reader needs in order to repeat a run."""
    return {
        "skipback": skipback.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(where) if where.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "float32_matmul": "onednn" if precision.product() == "bf16" else "default",
        "device": where.type,
        "commit": _commit(),
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The commit of the source tree that runs, if it is one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
