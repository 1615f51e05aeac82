"""ldfa against NumPy: the compressed error, Oja's rule, and the Kolen-Pollack law through P."""

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback import draws
from skipback.core.feedback import Lesson
from skipback.core.records import PortSpec
from skipback.methods import ldfa

DRAWN = ldfa.Subspace(rank=2, draw=draws.Gaussian(), decay=0.01)


def test_one_step(pair, agree):
    """teaching = (e P^T) Q; dQ = (e P^T)^T h + decay Q; dP = -(Y^T e - Y^T Y P) with Y = e P^T."""
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.ldfa(feedback=DRAWN), pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    parts = [[part.detach().numpy().copy() for part in parts] for parts in learner.direct.parts.values()]
    agree(
        pair.one_step(learner, F.cross_entropy),
        oracles.direct(net, hs, [(e @ P.T) @ Q for P, Q in parts], e),
    )
    expected = []
    for (P, Q), h in zip(parts, hs[1:], strict=True):
        Y = e @ P.T
        expected += [-(Y.T @ e - Y.T @ Y @ P), Y.T @ h + 0.01 * Q]
    agree([part.grad for parts in learner.direct.parts.values() for part in parts], expected)


def test_p_comes_to_span_the_leading_directions_of_the_error():
    """Oja's rule on a fixed batch of errors: P P^T goes to 1, and P's rows to the leading eigenvectors of e^T e."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([3.0, 2.0, 0.3, 0.1], dtype=torch.float64)
    e = torch.randn(50, 4, generator=generator, dtype=torch.float64) * scales
    port = PortSpec(name="a", shape=(6,), outputs=4, dtype=torch.float64, device=torch.device("cpu"))
    ((P, Q),) = DRAWN.init([port], generator)
    assert torch.allclose(P @ P.T, torch.eye(2, dtype=P.dtype))
    lesson = Lesson(port=port, signal=e, activity=torch.zeros(50, 6, dtype=torch.float64))
    P = P + 0.1  # away from orthonormal rows
    for _ in range(3_000):
        P = P - 1e-3 * DRAWN.gradient(lesson, (P, Q))[0]
    torch.testing.assert_close(P @ P.T, torch.eye(2, dtype=P.dtype), atol=1e-6, rtol=0)
    leading = torch.linalg.eigh(e.T @ e).eigenvectors[:, -2:]
    torch.testing.assert_close(P.T @ P, leading @ leading.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1), (3, 3), (99, 5)])
def test_the_rank_is_what_was_asked_for(pair, rank, expected):
    """No more than C, and no more than D."""
    method = sb.ldfa(feedback=ldfa.Subspace(rank=rank, draw=draws.Gaussian()))
    learner = sb.attach(pair.net, method, pair.x, show=None)
    assert [np.linalg.matrix_rank(B.detach().numpy()) for B in learner.feedback.values()] == [expected] * 2


def test_with_all_directions_it_is_dkp(pair):
    """P = I: the compressed error is the error."""
    other = sb.attach(pair.net, sb.ldfa(feedback=ldfa.Subspace(rank=5, draw=draws.Gaussian())), pair.x, show=None)
    for P, _ in other.direct.parts.values():
        P.data.copy_(torch.eye(5))
    found = pair.one_step(other, F.cross_entropy)
    B = [Q.detach().clone() for _, Q in other.direct.parts.values()]
    lessons = [Q.grad for _, Q in other.direct.parts.values()]
    other.detach()
    plain = sb.attach(pair.net, sb.dkp(), pair.x, show=None)
    for parameter, b in zip(plain.direct.parameters(), B, strict=True):
        parameter.data.copy_(b)
    for a, b in zip(found, pair.one_step(plain, F.cross_entropy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    for a, b in zip(lessons, plain.direct.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-12, atol=1e-15)


def test_the_rank_is_at_least_one():
    with pytest.raises(ValueError, match="the rank must be 1 or more, got 0"):
        ldfa.Subspace(rank=0)


def test_the_rank_is_no_more_than_the_port_is_wide():
    port = PortSpec(name="a", shape=(2,), outputs=4, dtype=torch.float64, device=torch.device("cpu"))
    ((P, Q),) = ldfa.Subspace(rank=3).init([port], torch.Generator().manual_seed(0))
    assert (P.shape, Q.shape) == ((2, 4), (2, 2))
    torch.testing.assert_close(P @ P.T, torch.eye(2, dtype=P.dtype))
