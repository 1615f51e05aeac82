"""Estimates: how the perturbed route turns directional derivatives into a gradient.

    s_k = <g, u_k>                  what forward mode gives: the derivative of the loss in direction u_k, k = 1 .. K
    estimate = sum_k c_k u_k        with c = combine(s)

Directions are drawn from N(0, 1), so E[u u^T] = I, and E[s u] = g: the mean is unbiased. G counts the groups that are
estimated on their own: the whole network for weights (G = 1), each sample for activities (G = N).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from skipback.kinds import must_be, must_call

Combine = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""From derivatives s (K, G) and the directions, each (K, G, D_i), to coefficients c (K, G).

Laws that each obeys, checked by `skipback.testing.check_combine`: c is linear in s, so that it grows with the loss; the
coefficients of a group depend on that group alone; nothing that is passed in is written; and it pickles.
"""


def mean(s: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """The mean of s_k u_k: unbiased, with a variance that falls as 1/K.

        c_k = s_k / K

    Args:
        s: derivatives (K, G).
        directions: not looked at.
    """
    return s / len(s)


def projection(s: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """The orthogonal projection of the gradient on the span of the directions.

        U (U^T U)^-1 U^T g,  so  c = (U^T U)^-1 s        U = (u_1 .. u_K), D x K

    Nothing in the span is over- or underestimated, and K = D directions give the gradient itself; with fewer, its
    expectation is K/D of the gradient. Paper: Flügel et al., arXiv 2410.17764.

    Args:
        s: derivatives (K, G).
        directions: each (K, G, D_i); D is the sum of the D_i.
    """
    gram = sum(torch.einsum("kgd,jgd->gkj", u, u).to(s) for u in directions)
    assert isinstance(gram, Tensor)
    # not solve: K > D directions, or units that a batch does not have, leave the matrix singular
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
    return (inverse @ s.T.unsqueeze(2)).squeeze(2).T


class Space(Enum):
    """What is perturbed."""

    WEIGHTS = "weights"
    ACTIVITIES = "activities"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One forward-gradient estimate.

    Attributes:
        space: what is perturbed.
        tangents: how many random directions per step (K); each costs one forward pass.
        combine: how their derivatives become one gradient.
        local: of the loss of each port's own classifier, rather than of the network's loss (activities only).
    """

    space: Space
    tangents: int = 1
    combine: Combine = mean
    local: bool = False

    def __post_init__(self) -> None:
        must_be("tangents", self.tangents, int, "a whole number")
        must_call("combine", self.combine, "a function of directions and derivatives, as estimate.mean")
        if self.tangents < 1:
            raise ValueError(f"tangents must be at least 1, not {self.tangents}")
        if self.local and self.space is not Space.ACTIVITIES:
            raise ValueError("local losses are estimated by perturbed activities: space=Space.ACTIVITIES")
