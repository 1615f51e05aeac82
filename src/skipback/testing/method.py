"""The contract of a whole method, attached to small networks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipback.core.method import Method
from skipback.learner import Learner, attach
from skipback.testing.laws import check_close, law, name_of, noise, only_given, record
from skipback.update import Update

CLASSES, SAMPLES = 4, 8
Build = Callable[[], nn.Module]
NamedGradients = dict[str, Tensor]


class Functional(nn.Module):
    """Its activations are functions in forward, so it is no chain of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Two hidden blocks and a head."""
        hidden: Tensor = torch.tanh(self.b(torch.tanh(self.a(x))))
        out: Tensor = self.c(hidden)
        return out


def mlp() -> nn.Module:
    """A chain of dense blocks."""
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def conv() -> nn.Module:
    """A block of images below a dense one."""
    layers = nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, CLASSES)
    return nn.Sequential(*layers)


NETS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "functional": (Functional, (6,)),
    "conv": (conv, (1, 6, 6)),
}
"""By name, what builds a network of `CLASSES` outputs, and the shape of one of its inputs."""


def check_method(method: Method, *, nets: Mapping[str, tuple[Build, tuple[int, ...]]] = NETS) -> None:
    """Check that a method keeps what every method promises, on small networks with cross-entropy.

    Args:
        method: of 16 samples at least if it has a memory.
        nets: what it is attached to. It may refuse some of them by a ValueError.

    Raises:
        AssertionError: a law is broken.
    """
    with record(method):
        _check(method, nets)


def _check(method: Method, nets: Mapping[str, tuple[Build, tuple[int, ...]]]) -> None:
    refused: list[str] = []
    for name, (build, shape) in nets.items():
        try:
            _Case(method, name, build, shape).attached()
        except ValueError as error:
            refused.append(f"{name}: {error}")
            continue
        _Case(method, name, build, shape).check()
    law(len(refused) < len(nets), f"{name_of(method)} refuses all networks ({'; '.join(refused)})")


class _Case:
    """One method on one network."""

    def __init__(self, method: Method, name: str, build: Build, shape: tuple[int, ...]) -> None:
        self.method, self.build, self.what = method, build, f"{name_of(method)} on {name!r}"
        self.x = noise(2 * SAMPLES, *shape, seed=7)
        self.t = torch.arange(2 * SAMPLES) % CLASSES

    def attached(self, *, net_seed: int = 0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Learner:
        """The method on a network whose weights come from a seed, without use of the global random state."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            net = self.build().to(dtype)
            for k, p in enumerate(net.parameters()):
                p.copy_(0.5 * noise(*p.shape, seed=100 * net_seed + k))
        return attach(net, self.method, example=self.x[:SAMPLES].to(dtype), seed=seed, show=None)

    def check(self) -> None:
        """All laws."""
        self._random()
        self._gradients()
        self._rows()
        self._scale()
        self._state()
        self._copies()
        self._step()

    def taught(
        self, learner: Learner, ids: slice | Tensor = slice(0, SAMPLES), *, scale: float = 1.0
    ) -> NamedGradients:
        """The gradients of one pass."""
        learner.zero_grad()
        _backward(learner, self.x[ids], self.t[ids], torch.arange(2 * SAMPLES)[ids], scale)
        return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}

    def alike(self, found: NamedGradients, expected: NamedGradients, sentence: str, *, within: float = 1e-9) -> None:
        """The law that gradients are the same."""
        law(found.keys() == expected.keys(), f"{self.what}: {sentence}: {sorted(found)} instead of {sorted(expected)}")
        for name, g in expected.items():
            check_close(found[name], g, f"{self.what}: {sentence}: the gradient of {name}", within=within)

    def _random(self) -> None:
        with only_given(f"{self.what}: attach"):
            learner = self.attached()
        with only_given(f"{self.what}: a training pass"):
            first = self.taught(learner)
        self.alike(self.taught(self.attached()), first, "equal seeds give other gradients", within=0.0)

    def _gradients(self) -> None:
        learner = self.attached(dtype=torch.float32)
        x, t, ids = self.x[:SAMPLES].float(), self.t[:SAMPLES], torch.arange(SAMPLES)
        plain = copy.deepcopy(learner)
        with plain.exact():
            expected = plain(x)
        y = learner(x, target=t, ids=ids)
        check_close(y, expected, f"{self.what}: the output is not that of the plain network", within=1e-5)
        F.cross_entropy(y, t).backward()
        for name, p in learner.named_parameters():
            if p.grad is not None:
                law(p.grad.dtype == p.dtype, f"{self.what}: the gradient of {name} is {p.grad.dtype}, not {p.dtype}")
                law(bool(p.grad.isfinite().all()), f"{self.what}: the gradient of {name} is not finite")

    def _rows(self) -> None:
        """Halves of batches change places: if each sample is taught by itself, the sum of the gradients stays."""
        half = SAMPLES // 2
        a, b, c, d = (torch.arange(k * half, (k + 1) * half) for k in range(4))
        sums = []
        for pairs in (((a, b), (c, d)), ((a, d), (c, b))):
            one, other = (self.taught(self.attached(), torch.cat(pair)) for pair in pairs)
            sums.append({name: g + other[name] for name, g in one.items() if name.startswith("net.")})
        self.alike(sums[1], sums[0], "samples are mixed: with others in its batch, a sample teaches otherwise")

    def _scale(self) -> None:
        expected = self.taught(self.attached())
        for c in (1024.0, 0.25):
            found = {name: g / c for name, g in self.taught(self.attached(), scale=c).items()}
            self.alike(found, expected, f"a loss times {c:g}, said by scale=, does not give {c:g} times the gradient")

    def _state(self) -> None:
        learner, other = self.attached(), self.attached(net_seed=1, seed=1)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
        for _ in range(2):
            self.taught(learner)
            optimizer.step()
        state = copy.deepcopy(learner.state_dict())
        other.load_state_dict(state)
        self.alike(
            self.taught(other),
            self.taught(learner),
            "state_dict() does not hold all that the next pass needs",
            within=0.0,
        )

    def _copies(self) -> None:
        learner = self.attached()
        self.taught(learner)
        learner.zero_grad()
        try:
            twins = [copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]  # noqa: S301  # of our own making
        except Exception as error:
            raise AssertionError(f"{self.what} does not pickle or copy: {error}") from error
        expected = self.taught(learner)
        for twin in twins:
            self.alike(self.taught(twin), expected, "a copy of the learner goes on otherwise", within=0.0)

    def _step(self) -> None:
        """`learner.step` and the loop with `backward` leave the same weights."""
        one, other = self.attached(), self.attached()
        update, optimizer = Update(_sgd), _sgd(other.parameters())
        for k in range(3):
            ids = torch.arange(4 * k, 4 * k + SAMPLES) % (2 * SAMPLES)
            one.step(self.x[ids], self.t[ids], loss=F.cross_entropy, update=update, ids=ids)
            self.taught(other, ids)
            optimizer.step()
        a, b = one.state_dict(), other.state_dict()
        for name in (name for name in b if b[name].is_floating_point()):
            check_close(a[name], b[name], f"{self.what}: step and backward leave another {name}")


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def _backward(learner: Learner, x: Tensor, t: Tensor, ids: Tensor, scale: float) -> None:
    y = learner(x, target=t, ids=ids, scale=scale)
    (F.cross_entropy(y, t) * scale).backward()
