"""Entries: one architecture each, how to build it small, what to feed it, and which of its outputs is trained.

Nothing is imported before an entry is built, so the list of names costs no library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = 6
"""Samples in a batch: no other size is 6, so that no shape fits by chance."""
CLASSES = 10

WAYS = ("dfa", "shallow", "drtp", "f3", "labels")
"""How an architecture is trained; "labels" is dfa, where the network computes the loss itself."""
Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_PREDICTIONS = ("logits", "prediction_logits", "prediction_outputs", "out", "last_hidden_state")


def prediction(output: Any) -> Tensor:
    """The main output: what the network's record calls logits or the like, else its first tensor."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        names = [name for name in _PREDICTIONS if name in output]
        return prediction(output[names[0]] if names else next(iter(output.values())))
    return prediction(output[0])


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One architecture.

    Attributes:
        library: where it comes from.
        name: of its class or factory.
        build: makes the network, its weights from the current random state.
        inputs: makes the positional and the named inputs.
        pick: takes the main output out of what the network returns.
        classes: the dimension of the main output that holds the scores of classes; `None` for values, taught by MSE.
        labelled: the network computes its loss itself when it gets `labels=`.
    """

    library: str
    name: str
    build: Callable[[], nn.Module] = field(repr=False)
    inputs: Callable[[], Inputs] = field(repr=False)
    pick: Callable[[Any], Tensor] = field(default=prediction, repr=False)
    classes: int | None = -1
    labelled: bool = False

    @property
    def id(self) -> str:
        """As pytest shows it."""
        return f"{self.library}-{self.name}"

    @property
    def ways(self) -> list[str]:
        """How it is trained. Early signals need classes."""
        early = [] if self.classes is None else ["drtp", "f3"]
        return ["dfa", "shallow", *early, *(["labels"] if self.labelled else [])]

    def target(self, y: Tensor) -> Tensor:
        """What the main output should have been: classes in turn, or values. The same in every run."""
        if self.classes is None:
            return torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y)
        scores = y.movedim(self.classes, -1)
        return torch.arange(scores[..., 0].numel()).reshape(scores.shape[:-1]) % scores.shape[-1]

    def loss(self, y: Tensor) -> Tensor:
        """Cross-entropy, or MSE. A number is a loss already."""
        if y.dim() == 0:
            return y
        t = self.target(y)
        return F.mse_loss(y, t) if self.classes is None else F.cross_entropy(y.movedim(self.classes, 1), t)


def images(size: int, *lead: int) -> Callable[[], Inputs]:
    """A batch of images; of clips, with frames in front of or behind the colours."""
    shape = (N, *(lead or (3,)), size, size)
    return lambda: ((torch.randn(shape),), {})


def still(net: nn.Module) -> nn.Module:
    """Switch dropout and stochastic depth off, and leave the network in training mode."""
    for module in net.modules():
        if "drop" in type(module).__name__.lower() or "StochasticDepth" in type(module).__name__:
            for name in ("p", "drop_prob"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)
    return net.train()
