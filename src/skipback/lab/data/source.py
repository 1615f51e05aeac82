"""A source: a card, and the functions that turn its official files into a `Dataset`, a `Text` or a `Graph`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from skipback.lab.data import fetching, files
from skipback.lab.data.base import Card, DataError, File, Task

Data = TypeVar("Data")


class State(StrEnum):
    """What `verify` found of a file."""

    OK = "ok"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class Check:
    """The state of one file, where it is, and the reason if it is not ok."""

    file: str
    state: State
    path: Path | None = None
    reason: str = ""


def identity(data: Data) -> Data:
    """Return the data unchanged."""
    return data


@dataclass(frozen=True, kw_only=True)
class Source(Generic[Data]):
    """A data set as this floor knows it.

    `parse` turns the unpacked content of one file into an array, or raises DataError naming the path; `scan` does it
    from pieces, for files larger than memory; `build` turns the arrays, in the order of `card.files`, into the data of
    a task, raw; `standard` turns those into what a network takes.
    """

    card: Card
    build: Callable[[Sequence[Any], Task], Data]
    parse: Callable[[bytes, Path], Any] | None = None
    scan: Callable[[Iterator[bytes], Path], Any] | None = None
    standard: Callable[[Data], Data] = identity
    hash_first: bool = False  # for formats that are too powerful to parse before one knows what they are
    other: Source[Data] | None = None  # another official form of the same data, read where only that is at hand

    def load(self, task: Task | None = None, *, root: Path | None = None) -> Data:
        """The data as a network takes them; None takes the card's first task.

        Raises:
            DataError: The task is not one of the card's, or a file is missing or damaged.
        """
        return self.standard(self.raw(task, root=root))

    def raw(self, task: Task | None = None, *, root: Path | None = None) -> Data:
        """The data as the official files have them.

        Raises:
            DataError: As `load`.
        """
        if task is not None and task not in self.card.tasks:
            raise DataError(f"{self.card.name} has no {task} task (choose from {', '.join(self.card.tasks)})")
        form = self._form(root)
        return form.build(form.read_all(form.fetch(root=root)), task or self.card.tasks[0])

    def fetch(self, *, root: Path | None = None) -> list[Path]:
        """The paths of all files, downloading those that no place has; none for a carried data set.

        Raises:
            DataError: A file is missing and no address gave it.
        """
        form = self._form(root)
        return fetching.fetch(form.card, root=root)

    def read_all(self, paths: Sequence[Path]) -> list[Any]:
        """The arrays of all files; an archive is read once for all that lie in it.

        Raises:
            DataError: As `read`.
        """
        pairs = list(zip(paths, self.card.files, strict=True))
        found: dict[str, Any] = {}
        for path in dict.fromkeys(paths):
            inside = [file for at, file in pairs if at == path and file.archive and path.name == file.archive.name]
            found |= self._read_archive(path, inside) if inside else {}
        return [found[file.name] if file.name in found else self.read(path, file) for path, file in pairs]

    def read(self, path: Path, file: File) -> Any:
        """The array in `path`. Parsed before hashed, if that is safe: "truncated" says more than "another hash".

        Raises:
            DataError: The content breaks the format, or is not the official one.
        """
        if file.archive and path.name == file.archive.name:
            return self._read_archive(path, [file])[file.name]
        if not file.digest and file.served and path.suffix == ".gz":  # only the packed file's hash is known
            self._check(files.stored(path), path, file.served)
        if self.scan:
            return self._scan(path, file)
        content = files.content(path, limit=file.size)
        return self._parsed(content, path, file.digest)

    def _read_archive(self, path: Path, inside: list[File]) -> dict[str, Any]:
        archive = inside[0].archive
        assert archive
        if archive.digest:
            self._check(files.stored(path), path, archive.digest)
        contents = files.members(path, {file.member: file.size for file in inside})
        return {
            file.name: self._parsed(contents[file.member], path / file.member, "" if archive.digest else file.digest)
            for file in inside
        }

    def _parsed(self, content: bytes, path: Path, digest: str) -> Any:
        assert self.parse
        if self.hash_first:
            self._check([content], path, digest)
        array = self.parse(content, path)
        if not self.hash_first:
            self._check([content], path, digest)
        return array

    def _scan(self, path: Path, file: File) -> Any:
        assert self.scan
        hasher = files.new_hash(file.digest)
        array = self.scan(_hashed(files.stream(path, limit=file.size), hasher), path)
        if file.digest:
            files.compare(hasher, path, expected=file.digest, fix=self._fix)
        return array

    def _check(self, pieces: Iterable[bytes], path: Path, digest: str) -> None:
        if digest:
            files.check_hash(pieces, path, expected=digest, fix=self._fix)

    @property
    def _fix(self) -> str:
        return f"delete it and run `skipback data fetch {self.card.name}`"

    def _form(self, root: Path | None) -> Source[Data]:
        """This form of the data, or the other one if only that is at hand or can be fetched."""
        if self.other is None or self._is_here(root):
            return self
        fetched = any(file.urls or file.archive for file in self.card.files)
        return self if fetched and not self.other._is_here(root) else self.other

    def _is_here(self, root: Path | None) -> bool:
        return all(files.find(self.card, file, root=root) for file in self.card.files)

    def here(self, *, root: Path | None = None) -> bool:
        """Whether all files are on this machine; nothing is read, and nothing downloaded."""
        return self._form(root)._is_here(root)

    def verify(self, *, root: Path | None = None) -> list[Check]:
        """The state of every file, without downloading any; empty for a carried data set."""
        form = self._form(root)
        return [form.state(file, root=root) for file in form.card.files]

    def state(self, file: File, *, root: Path | None) -> Check:
        """The state of one file."""
        path = files.find(self.card, file, root=root)
        if path is None:
            looked = ", ".join(str(folder) for folder in files.places(self.card, root=root))
            return Check(file=file.name, state=State.MISSING, reason=f"looked in {looked}")
        try:
            self.read(path, file)
        except DataError as error:
            return Check(file=file.name, state=State.DAMAGED, path=path, reason=str(error))
        return Check(file=file.name, state=State.OK, path=path)


def _hashed(pieces: Iterator[bytes], hasher: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        hasher.update(piece)
        yield piece
