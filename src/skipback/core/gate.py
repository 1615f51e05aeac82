"""The gate: whether a network is taught now, and what was seen of it so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Gate:
    """Whether the network is taught now. One for a learner, shared by its route.

    Attributes:
        learns: what learns beside the network, as a sentence; empty if nothing does.
        plain: the network is left alone: inside `exact()`, or in an anchored pass.
        running: a pass is open.
        inside: calls of the learner itself that run now, rather than of the network alone.
        warned: somebody was told that the gradient of an input is none.
        versions: what the optimizer had changed when it was last looked at.
        stepped: learned feedback was seen to change.
    """

    learns: str = ""
    plain: bool = False
    running: bool = False
    inside: int = 0
    warned: bool = False
    versions: tuple[int, int] | None = None
    stepped: bool = False

    @property
    def idle(self) -> bool:
        """Whether a pass that begins now is not to be taught."""
        return self.plain or not torch.is_grad_enabled()
