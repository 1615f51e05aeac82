"""What is measured: networks with a batch of random data. The table is plain data; torch is imported to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A network and its batch.

    Attributes:
        line: for people.
        batch: N.
        input: of one sample.
        sizes: of a dense network with tanh; without them it is `net`.
        net: a name of `lab.nets`, or "cnn".
        device: where the network and the data are.
    """

    line: str
    batch: int
    input: tuple[int, ...] = (784,)
    net: str = "mlp"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def build(self) -> nn.Module:
        """The network, the same at each call."""
        import torch

        from skipback.lab import nets

        torch.manual_seed(0)
        if self.net == "cnn":
            return _cnn().to(self.device)
        return nets.build(self.net, self.input, CLASSES, activation="tanh", **self.sizes).to(self.device)

    def data(self) -> tuple[Tensor, Tensor]:
        """Random inputs and classes."""
        import torch

        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch, *self.input, generator=generator)
        return x.to(self.device), torch.randint(CLASSES, (self.batch,), generator=generator).to(self.device)


def _dense(line: str, batch: int, depth: int, width: int, inputs: int = 784) -> Shape:
    sizes = {"depth": depth, "width": width}
    return Shape(line=f"{line}, batch {batch}", batch=batch, input=(inputs,), sizes=sizes)


SHAPES = {
    "tiny": _dense("784-(32x3)-10", 50, 3, 32),
    "S1": _dense("784-500-10", 50, 1, 500),
    "S2": _dense("784-(800x2)-10", 64, 2, 800),
    "S3": _dense("784-(1000x10)-10", 64, 10, 1000),
    "S4": _dense("784-(1000x10)-10", 512, 10, 1000),
    "S5": _dense("3072-(2000x3)-10", 256, 3, 2000, 3072),
    "S6": _dense("784-(500x20)-10", 64, 20, 500),
    "cnn": Shape(line="15C5-40C5-P-128-10, batch 64", batch=64, input=(1, 28, 28), net="cnn"),
    "transformer": Shape(
        line="F3's transformer, batch 100",
        batch=100,
        input=(1, 28, 28),
        net="f3-transformer",
        sizes={"depth": 4, "width": 512},
    ),
}
"""The shapes of the verb, by name."""


def _cnn() -> nn.Module:
    """15C5-40C5-P-128-10: two convolutions of 5x5 on 28 x 28 pixels, a pool, a dense layer."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 15, 5),
        nn.Tanh(),
        nn.Conv2d(15, 40, 5),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(40 * 10 * 10, 128),
        nn.Tanh(),
        nn.Linear(128, CLASSES),
    )
