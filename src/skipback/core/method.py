"""A method: a frozen record of what is sent, how it is projected, and the paper it comes from.

A record knows nothing of networks. The route that runs it on one network registers itself for its type (`route.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from skipback.core.feedback import Feedback, Fixed
from skipback.core.per_port import feedback_of
from skipback.core.records import Needs
from skipback.core.signals import LossGradient, Signal
from skipback.kinds import must_be
from skipback.papers import Paper as Paper


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """What to train a network with.

    Attributes:
        paper: where it comes from; `None` for a rule of your own.
    """

    paper: Paper | None = None

    @property
    @abstractmethod
    def learns(self) -> str:
        """What learns beside the network, as a sentence; empty if nothing does. The optimizer must know it."""

    @property
    def learns_feedback(self) -> bool:
        """Whether that is its feedback."""
        return False

    @property
    def needs(self) -> Needs:
        """What its signal looks at, for methods that send one; else nothing."""
        return Needs.NOTHING

    @property
    def sees_scale(self) -> bool:
        """Whether what it teaches grows with what the loss is multiplied with; else it must be told."""
        return True

    @property
    def base(self) -> Method:
        """The method that trains most passes: itself, unless it is anchored."""
        return self


@dataclass(frozen=True, kw_only=True)
class Exact(Method):
    """The reference: the graph is left alone, every block gets its exact gradient (backprop)."""

    learns = ""


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Method):
    """The floor: the graph is cut and nothing is sent, so only the head learns."""

    learns = ""


@dataclass(frozen=True, kw_only=True)
class Direct(Method):
    """One signal goes straight to every port, through that port's feedback.

        teaching_l = feedback(signal, B_l), in place of dL/dh_l; then autograd inside the block, and no further.

    Attributes:
        signal: WHAT is sent, (N, C).
        feedback: HOW it is projected to a port, (N, C) -> (N, *P): one for all ports, or a dict with one for each.

    Raises:
        TypeError: the feedback or the signal is something else.
        ValueError: those of a dict do not go together (see `PerPort`).
    """

    signal: Signal = field(default_factory=LossGradient)
    feedback: Feedback = field(default_factory=Fixed)

    def __post_init__(self) -> None:
        must_be("signal", self.signal, Signal, "a Signal, as LossGradient()")
        if not isinstance(self.feedback, Feedback):
            object.__setattr__(self, "feedback", feedback_of(self.feedback))

    @property
    def learns(self) -> str:
        """The feedback, where it does."""
        return "the feedback learns" if self.feedback.learns else ""

    @property
    def learns_feedback(self) -> bool:
        """As the feedback says."""
        return self.feedback.learns

    @property
    def needs(self) -> Needs:
        """Those of the signal."""
        return self.signal.needs

    @property
    def sees_scale(self) -> bool:
        """As the signal says."""
        return self.signal.scales
