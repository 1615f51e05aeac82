"""The contract of how directional derivatives become a gradient."""

from __future__ import annotations

import torch

from skipback.estimate import Combine
from skipback.testing.laws import check_close, check_record, check_repeats, check_tensor, name_of, noise, only_given


def check_combine(combine: Combine, *, tangents: int = 3, groups: int = 4) -> None:
    """Check the laws of `skipback.estimate.Combine`.

    Args:
        combine: from derivatives and directions to coefficients.
        tangents: K.
        groups: G.

    Raises:
        AssertionError: a law is broken.
    """
    what = name_of(combine)
    check_record(combine)
    s, directions = noise(tangents, groups, seed=1), [noise(tangents, groups, d, seed=d) for d in (6, 9)]
    with only_given(what, s, *directions):
        c = check_repeats(what, lambda: combine(s, directions))
    check_tensor(c, (tangents, groups), torch.float64, f"what {what} returns")
    found = combine(1024.0 * s, directions)
    check_close(
        found, 1024.0 * c, f"{what} is not linear in the derivatives: 1024 times the loss must give 1024 times c"
    )
    sum_of_two = combine(s + s.flip(0), directions)
    check_close(
        sum_of_two,
        c + combine(s.flip(0), directions),
        f"{what} is not linear in the derivatives: c(s + r) is not c(s) + c(r)",
    )
    alone = combine(s[:, 1:2], [u[:, 1:2] for u in directions])
    check_close(alone, c[:, 1:2], f"{what} mixes groups: group 1 alone has other coefficients", within=1e-6)
