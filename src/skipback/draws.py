"""Draws: how a feedback matrix B (C, D) is first filled. Row c is output c, column j is unit j of the port.

A draw is a frozen record, called as `draw(C, D, generator)`. Random draws use the given generator on the CPU only, so
the same seed gives the same bits on every device and leaves torch's global generator alone. The first ten are those of
the F3 code (Flügel et al., arXiv 2304.13372; its "initialisation methods").
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from typing_extensions import override


class Draw(Protocol):
    """Fills a feedback matrix.

    Laws that every draw obeys, checked by `skipback.testing.check_draw`: B is (C, D), float32, on the CPU, finite, and
    has memory of its own, as learning writes over it; it comes from the generator alone, so that equal seeds give equal
    bits; sizes that do not fit are refused by a ValueError; and it is a record: it prints, compares and pickles.
    """

    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        """Return B of shape (C, D), float32, on the CPU."""
        ...


def seeded(*parts: object, device: torch.device | str = "cpu") -> Generator:
    """A generator for a purpose and a seed.

    Not the stream of `torch.manual_seed(seed)`: a network that was initialised from the same seed would get feedback
    equal to its weights. The seed is a hash, as torch's CPU generator uses the lower 32 bits of a seed only.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return Generator(device).manual_seed(int.from_bytes(digest))


def _uniform(C: int, D: int, bound: float, generator: Generator) -> Tensor:
    return torch.empty(C, D).uniform_(-bound, bound, generator=generator)


@dataclass(frozen=True)
class Zeros(Draw):
    """B = 0: where learned feedback starts."""

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return torch.zeros(C, D)


@dataclass(frozen=True)
class Constant(Draw):
    """B[c, j] = s. All units of a port get one scalar; an error whose entries sum to zero teaches nothing."""

    scale: float = 1.0

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return torch.full((C, D), self.scale)


@dataclass(frozen=True)
class AlternateNegative(Draw):
    """B[c, j] = -s for even j, +s for odd j."""

    scale: float = 1.0

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        signs = torch.arange(D) % 2 * 2.0 - 1.0
        return (self.scale * signs).expand(C, D).clone()


@dataclass(frozen=True)
class ChunkedNegative(Draw):
    """B[c, j] = +s for j < floor(D/2), -s above."""

    scale: float = 1.0

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        signs = torch.where(torch.arange(D) < D // 2, 1.0, -1.0)
        return (self.scale * signs).expand(C, D).clone()


@dataclass(frozen=True)
class DiscreteUniform(Draw):
    """B[c, j] = s v, with v drawn evenly from `values`. Ternary: (-1, 0, 1); binomial: (0, 1)."""

    values: tuple[float, ...] = (-1.0, 0.0, 1.0)
    scale: float = 1.0

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        picks = torch.randint(len(self.values), (C, D), generator=generator)
        return self.scale * torch.tensor(self.values)[picks]


def ternary() -> DiscreteUniform:
    """Entries evenly from {-1, 0, 1} ("trinomial" in the F3 code)."""
    return DiscreteUniform((-1.0, 0.0, 1.0))


def binomial() -> DiscreteUniform:
    """Entries evenly from {0, 1}. Columns have one sign: unfit for signals that are never negative."""
    return DiscreteUniform((0.0, 1.0))


@dataclass(frozen=True)
class CartesianProduct(Draw):
    """The columns are all len(values)^C tuples, the first output varying slowest, times s.

    Raises:
        ValueError: the port does not have exactly len(values)^C units.
    """

    values: tuple[float, ...] = (-1.0, 0.0, 1.0)
    scale: float = 1.0

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        columns = len(self.values) ** C
        if columns != D:
            raise ValueError(
                f"the cartesian product of {len(self.values)} values over {C} outputs has {columns} columns, "
                f"but the port has {D} units: make the block {columns} wide or use another draw"
            )
        return self.scale * torch.tensor(list(itertools.product(self.values, repeat=C))).T.contiguous()


@dataclass(frozen=True)
class KaimingUniform(Draw):
    """U(-b, b) with b = sqrt(6 / ((1 + a^2) D)). a = sqrt 5 (F3's default) gives 1/sqrt(D), a = 0 gives sqrt(6/D).

    The fan-in is the width D of the port, not C: torch's convention for a (C, D) weight. a = 0 is what the FDFA and the
    DRTP code draw.
    """

    a: float = math.sqrt(5)

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return _uniform(C, D, math.sqrt(6 / ((1 + self.a**2) * D)), generator)


@dataclass(frozen=True)
class RepeatLine(Draw):
    """B[c, j] = u_c with u_c ~ U(-1, 1): rank one, all units get one scalar (F3: kaiming_uniform_repeat_line)."""

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return _uniform(C, 1, 1.0, generator).expand(C, D).clone()


@dataclass(frozen=True)
class IdentityFillZero(Draw):
    """B[c, j] = 1 if c = j, else 0. Units j >= C are never taught."""

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return torch.eye(C, D)


@dataclass(frozen=True)
class IdentityRepeat(Draw):
    """B[c, j] = 1 if j mod C = c, else 0."""

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return torch.eye(C)[:, torch.arange(D) % C]


@dataclass(frozen=True)
class IdentityRepeatPM(Draw):
    """The columns of [I, -I], repeated and cut at D: the F3 paper's "+-I"."""

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return torch.cat([torch.eye(C), -torch.eye(C)], dim=1)[:, torch.arange(D) % (2 * C)]


@dataclass(frozen=True)
class Gaussian(Draw):
    """N(0, std^2); std = 1/sqrt(D) unless given."""

    std: float | None = None

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        std = D**-0.5 if self.std is None else self.std
        return std * torch.randn(C, D, generator=generator)


@dataclass(frozen=True)
class UnitNorm(Draw):
    """N(0, 1/(C D)): the expected squared norm of B is 1 whatever its size (principled DFA, arXiv 1906.04554)."""

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return Gaussian((C * D) ** -0.5)(C, D, generator)


@dataclass(frozen=True)
class Uniform(Draw):
    """U(-b, b); b = 1/sqrt(D) unless given (Nøkland 2016, arXiv 1609.01596: `rfb_mag`)."""

    bound: float | None = None

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        return _uniform(C, D, D**-0.5 if self.bound is None else self.bound, generator)


@dataclass(frozen=True)
class Orthogonal(Draw):
    """Orthonormal rows (columns, if D < C), from the QR factors of a gaussian matrix, times `gain`.

    With gain 1 and D >= C a row has norm 1, the expected norm of a row of `Gaussian()`.
    """

    gain: float = 1.0

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        tall = torch.randn(max(C, D), min(C, D), generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(tall)
        q = q * r.diagonal().sign()  # makes the factor unique, hence uniformly distributed
        filled: Tensor = self.gain * (q if C >= D else q.T).float().contiguous()
        return filled


@dataclass(frozen=True)
class Sparse(Draw):
    """Each unit hears `per_unit` outputs, chosen evenly, through N(0, C / (per_unit D)) weights; all others are 0.

    The expected squared norm of a row equals that of `Gaussian()`. One output per unit is the extreme of
    Crafton et al. 2019 (arXiv 1903.02083).
    """

    per_unit: int = 1

    @override
    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        if not 1 <= self.per_unit <= C:
            raise ValueError(f"a unit can hear 1 to {C} outputs, not {self.per_unit}")
        heard = torch.rand(C, D, generator=generator).argsort(dim=0)[: self.per_unit]
        weights = torch.randn(self.per_unit, D, generator=generator) * math.sqrt(C / (self.per_unit * D))
        return torch.zeros(C, D).scatter_(0, heard, weights)
