"""From directional derivatives to coefficients, against NumPy."""

import numpy as np
import pytest
import torch

import skipback as sb
from skipback import estimate
from skipback.estimate import Estimate, Space
from skipback.routes.estimated import derivatives


def problem(K, sizes, G=3):
    """Gradients (G, D), directions (K, G, D_i), and the derivatives (K, G) along them."""
    generator = torch.Generator().manual_seed(7)
    gradient = torch.randn(G, sum(sizes), generator=generator, dtype=torch.float64)
    U = torch.randn(K, G, sum(sizes), generator=generator, dtype=torch.float64)
    return gradient, U, (U * gradient).sum(2)


def test_the_mean():
    _, U, s = problem(4, [5])
    assert torch.equal(estimate.mean(s, [U]), s / 4)


@pytest.mark.parametrize("K", [1, 3, 6, 9])
def test_the_projection_is_that_of_least_squares(K):
    """Per group, and with more directions than dimensions (9 > 6) the gradient itself."""
    sizes = [2, 1, 3]
    gradient, U, s = problem(K, sizes)
    c = estimate.projection(s, list(U.split(sizes, dim=2)))
    found = torch.einsum("kg,kgd->gd", c, U)
    for g in range(len(gradient)):
        basis = U[:, g].numpy().T
        expected = basis @ np.linalg.lstsq(basis, gradient[g].numpy(), rcond=None)[0]
        assert np.allclose(found[g].numpy(), expected, rtol=0, atol=1e-9)
    if K >= 6:
        assert torch.allclose(found, gradient, rtol=0, atol=1e-9)


def test_derivatives_are_summed_in_full_precision():
    e = torch.full((4, 3), 200.0, dtype=torch.float16)
    dy = torch.full((2, 4, 3), 200.0, dtype=torch.float16)
    s = derivatives(e, dy, per_sample=True)
    assert torch.equal(s, torch.full((2, 4), 3 * 40000.0))
    assert torch.equal(derivatives(e, dy, per_sample=False), torch.full((2, 1), 12 * 40000.0))


def test_an_estimate_needs_a_direction():
    with pytest.raises(ValueError, match="tangents must be at least 1, not 0"):
        sb.fg_w(tangents=0)


def test_estimates_are_records():
    assert sb.fg_a().estimate == Estimate(space=Space.ACTIVITIES, tangents=1, combine=estimate.mean)
    assert sb.fg_w(tangents=3, combine=estimate.projection).estimate != sb.fg_w(tangents=3).estimate
