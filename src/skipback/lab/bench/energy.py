"""Energy of one step, where the device counts it: RAPL the joules of the processor, NVML those of an NVIDIA GPU.

Both count all that the device does, for all programs together. NVML is read by the package nvidia-ml-py, if it is
installed; nothing else here needs it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from skipback.lab.bench.timing import Clock, Variant

POWERCAP = Path("/sys/class/powercap")
LEAST = 1.0
"""Seconds per variant: RAPL's counter moves once in a millisecond, NVML's about ten times in a second."""


class Counter(NamedTuple):
    """A counter of energy.

    Attributes:
        name: for people.
        read: how it stands.
        joules: in one unit of it.
        full: where it starts again at 0; `None` if it never does.
    """

    name: str
    read: Callable[[], int]
    joules: float
    full: int | None = None

    def spent(self, before: int, after: int) -> float:
        """Joules between two readings."""
        again = (self.full or 0) if after < before else 0
        return (after - before + again) * self.joules


def counters(device: torch.device, root: Path = POWERCAP) -> tuple[list[Counter], str]:
    """The counters of a device, and why there are none."""
    if device.type == "cuda":
        return nvml(torch.cuda.get_device_properties(device).uuid)
    found = rapl(root)
    return found, "" if found else f"no RAPL counter can be read in {root}"


def rapl(root: Path = POWERCAP) -> list[Counter]:
    """The counters (microjoules) of whole processor packages that can be read; AMD's are called intel-rapl, too."""
    paths = sorted(root.glob("intel-rapl:[0-9]*/energy_uj"))
    return [_of_package(path) for path in paths if path.parent.name.count(":") == 1 and _readable(path)]


def nvml(uuid: Any, package: str = "pynvml") -> tuple[list[Counter], str]:
    """The counter (millijoules) of one GPU, and why there is none.

    Args:
        uuid: of the GPU, which NVML may number otherwise than CUDA.
        package: the module of nvidia-ml-py.
    """
    try:
        library = importlib.import_module(package)
    except ImportError:
        return [], "the energy of an NVIDIA GPU is read by nvidia-ml-py: pip install nvidia-ml-py"
    try:
        library.nvmlInit()
        handle = library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        library.nvmlDeviceGetTotalEnergyConsumption(handle)
    except library.NVMLError as error:
        return [], f"NVML does not count the energy of this GPU: {error}"
    return [Counter("NVML", lambda: int(library.nvmlDeviceGetTotalEnergyConsumption(handle)), 1e-3)], ""


def joules(
    variants: Mapping[str, Variant],
    found: Sequence[Counter],
    now: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, float]:
    """Joules per call of each variant, less what the device takes in the same time when it sleeps.

    Args:
        variants: calls.
        found: `counters()`.
        now: the clock on the wall, which waits for the device.
        sleep: for some seconds.
    """
    asleep, seconds, _ = _spent(found, lambda: sleep(LEAST / 100), now)
    watts, result = asleep / seconds, {}
    for name, call in variants.items():
        total, seconds, calls = _spent(found, call, now)
        result[name] = (total - watts * seconds) / calls
    return result


def _spent(found: Sequence[Counter], call: Variant, now: Clock) -> tuple[float, float, int]:
    """Joules and seconds of some calls, and how many."""
    start, before, calls = now(), [counter.read() for counter in found], 0
    while now() - start < LEAST:
        call()
        calls += 1
    after, seconds = [counter.read() for counter in found], now() - start
    return sum(c.spent(a, b) for c, a, b in zip(found, before, after, strict=True)), seconds, calls


def _of_package(path: Path) -> Counter:
    full = path.with_name("max_energy_range_uj")
    return Counter(
        f"RAPL {path.parent.name}", lambda: int(path.read_text()), 1e-6, int(full.read_text())
    )  # fmt: skip


def _readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True
