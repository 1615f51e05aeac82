"""Feedback of its own for each port: what is drawn, and how it teaches, may differ from port to port.

sb.dfa(feedback={"0": Fixed(Uniform(1.0)), "2": Fixed(ternary())})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor
from typing_extensions import override

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, Lesson, Sees


@dataclass(frozen=True)
class PerPort(Feedback):
    """teaching_l = feedback_l(signal): each port is taught by the feedback that stands under its name.

    Ports under one feedback are filled together and in the order of the network, so that a structure that they share
    (`Sliced`) is shared by them alone. Everywhere else a method has one feedback for all ports.

    Attributes:
        by_port: the feedback of each block, by the names that `learner.blocks` has.
        other: of the blocks that are not named; `None` if all are.

    Raises:
        ValueError: nothing is named, some learn and some do not, some share positions and some do not, or one sees the
            network in forward mode, which runs for all ports at once. At `attach`: a block is not there, or not named.
        TypeError: one of them is no `Feedback`.
    """

    by_port: Mapping[str, Feedback]
    other: Feedback | None = None

    def __post_init__(self) -> None:
        for name, one in self.by_port.items():
            if not isinstance(one, Feedback):
                raise TypeError(f"feedback of block {name!r}: {wrong(one)}")
        if self.other is not None and not isinstance(self.other, Feedback):
            raise TypeError(f"feedback of the other blocks: {wrong(self.other)}")
        if not self._all:
            raise ValueError('feedback={}: name at least one block, {"0": Fixed()}')
        self._alike("learn", [one.learns for one in self._all])
        self._alike("share positions", [one.shares_positions for one in self._all])
        if self.sees & (Sees.JACOBIAN | Sees.RELAY):
            raise ValueError(
                "feedback for each port: one of them sees the network in forward mode, which runs for all ports at "
                "once: give the method one feedback for all ports"
            )

    def __hash__(self) -> int:
        return hash((tuple(self.by_port.items()), self.other))

    @property
    def _all(self) -> list[Feedback]:
        return [*self.by_port.values(), *([] if self.other is None else [self.other])]

    def _alike(self, what: str, answers: list[bool]) -> None:
        if any(answers) and not all(answers):
            raise ValueError(f"feedback for each port: all of them {what}, or none does; here some do and some do not")

    @property
    @override
    def learns(self) -> bool:
        return self._all[0].learns

    @property
    @override
    def homogeneous(self) -> bool:
        return all(one.homogeneous for one in self._all)

    @property
    @override
    def shares_positions(self) -> bool:
        return self._all[0].shares_positions

    @property
    @override
    def sees(self) -> Sees:
        seen = Sees.NOTHING
        for one in self._all:
            seen |= one.sees
        return seen

    def of(self, port: str) -> Feedback:
        """The feedback of one port.

        Raises:
            ValueError: it has none.
        """
        found = self.by_port.get(port, self.other)
        if found is None:
            raise ValueError(f"block {port!r} has no feedback: {self._named()}")
        return found

    def check(self, ports: Sequence[PortSpec]) -> None:
        """Refuse the name of a block that is not there.

        Raises:
            ValueError: names it, and those that are.
        """
        if unused := sorted(set(self.by_port) - {port.name for port in ports}):
            raise ValueError(
                f"feedback names block {unused[0]!r}, and the blocks are {', '.join(repr(p.name) for p in ports)}"
            )

    @override
    def init(self, ports: Sequence[PortSpec], generator: Generator) -> list[FeedbackTensors]:
        chosen = [self.of(port.name) for port in ports]
        filled: dict[str, FeedbackTensors] = {}
        for one in _each_once(chosen):
            own = [port for port, of_port in zip(ports, chosen, strict=True) if of_port is one]
            filled.update(zip((port.name for port in own), one.init(own, generator), strict=True))
        return [filled[port.name] for port in ports]

    @override
    def project(self, lesson: Lesson, parts: FeedbackTensors) -> Tensor:
        return self.of(lesson.port.name).project(lesson, parts)

    @override
    def gradient(self, lesson: Lesson, parts: FeedbackTensors) -> FeedbackTensors:
        return self.of(lesson.port.name).gradient(lesson, parts)

    @override
    def matrix(self, port: PortSpec, parts: FeedbackTensors) -> Tensor:
        return self.of(port.name).matrix(port, parts)

    def _named(self) -> str:
        return f"there is one for {', '.join(map(repr, self.by_port))}; say PerPort(..., other=...) for all others"


def _each_once(found: Iterable[Feedback]) -> list[Feedback]:
    return list({id(one): one for one in found}.values())


def feedback_of(given: Any) -> Feedback:
    """The feedback that a dict with one for each port means.

    Raises:
        TypeError: it is none.
        ValueError: as `PerPort`.
    """
    if isinstance(given, Mapping):
        return PerPort(dict(given))
    raise TypeError(f"feedback: {wrong(given)}")


def wrong(given: Any) -> str:
    """What to write in place of something that is no feedback."""
    kind = type(given).__name__
    if isinstance(given, list | tuple):
        return f'a {kind} does not say which port each is for: write a dict, {{"0": Fixed(...), "2": Fixed(...)}}'
    if callable(given) and not isinstance(given, type):
        return f"{given!r} is a draw: write Fixed({given!r})"
    return f"must be a Feedback, as Fixed(Uniform()), or a dict of them by block, not {kind}"
