"""Run folders: what is written, and how. Every file is either the old one or the new one, never half of it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from skipback.lab.errors import LabError


class BusyError(LabError):
    """Another process is training this run."""


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file so that a crash leaves the old one or the new one.

    The temporary file lies in the same folder (a rename across file systems is a copy), and both the file and the
    folder are flushed to the disk.

    Raises:
        LabError: the folder cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LabError(f"cannot write {path}: {error.strerror}") from None
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # a rename is durable only once its folder is; Windows has no such call
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def to_json(value: Any) -> str:
    """Readable JSON; NaN and infinity become null, which every reader understands."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n"


def to_jsonl(rows: list[dict[str, Any]]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        LabError: it is missing, or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise LabError(f"cannot read {path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line.

    Raises:
        LabError: it cannot be read, or is damaged.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise LabError(f"cannot read {path}: {error}") from None


def _kind(setting: str, value: Any) -> Any:
    """A setting as far as it decides numbers: not which one of several GPUs there are."""
    return value.split(":")[0] if setting == "device" and isinstance(value, str) else value


class Folder:
    """One run's folder: claimed by a file lock while it is written, done when its `summary.json` exists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else None

    @contextlib.contextmanager
    def claimed(self, config: dict[str, Any], usual: dict[str, Any]) -> Iterator[None]:
        """Hold the folder for one run.

        Args:
            config: of the run.
            usual: the value of each setting that a folder of an older version does not know.

        Raises:
            LabError: it cannot be written, or holds another run.
            BusyError: another process is writing it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise BusyError(f"{self.path}: another process is training this run") from None
        except OSError as error:
            raise LabError(f"cannot write {self.path}: {error.strerror or error}") from None
        try:
            self._same_run(config, usual)
            yield
        finally:
            lock.release()

    def _same_run(self, config: dict[str, Any], usual: dict[str, Any]) -> None:
        path = self.path / "config.json"
        if not path.exists():
            if stray := [p.name for p in self.path.iterdir() if p.name != ".lock"]:
                raise LabError(f"{self.path} is not empty and holds no run ({stray[0]}): choose another --out")
            self.write("config.json", to_json(config))
            return
        held = {**usual, **read_json(path)}
        differing = [k for k in sorted({*held, *config}) if _kind(k, held.get(k)) != _kind(k, config.get(k))]
        if differing:
            which = ", ".join(f"{k} {held.get(k)!r} not {config.get(k)!r}" for k in differing)
            raise LabError(f"{self.path} holds another run ({which}): choose another --out, or delete it")

    def write(self, name: str, text: str) -> None:
        """Write one file of the run."""
        atomic_write(self.path / name, text)
