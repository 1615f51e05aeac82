"""grape against NumPy and finite differences: what it descends, and where that leads."""

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback.core.feedback import Lesson
from skipback.core.records import PortSpec
from skipback.methods import grape
from skipback.streams import Stream

SEED = 7
PORT = PortSpec(name="a", shape=(4, 2), outputs=3, dtype=torch.float64, device=torch.device("cpu"))


def rows(M):
    return M / np.linalg.norm(M, axis=1, keepdims=True)


def test_one_step(pair, agree):
    """teaching = e B^; dB = |B|/C (cos B^ - E^), row by row."""
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.grape(), pair.x, seed=SEED, show=None)
    ids, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    B = [weight.detach().numpy().copy() for weight in learner.direct.parameters()]
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, oracles.feedback(e, list(map(rows, B))), e))
    generator = Stream(SEED).next(torch.device("cpu"))
    with torch.no_grad():
        shapes = [tuple(m(pair.x[ids]).shape) for m in (pair.net[:2], pair.net[:4])]
    p = [torch.randn(shape, generator=generator).double().numpy() for shape in shapes]
    d, expected = oracles.output_tangent(net, x, p), []
    for b, p_k in zip(B, p, strict=True):
        E, unit = rows(d.T @ p_k / len(x)), rows(b)
        cosine = (unit * E).sum(1, keepdims=True)
        expected.append(np.linalg.norm(b, axis=1, keepdims=True) / len(b) * (cosine * unit - E))
    agree([w.grad for w in learner.direct.parameters()], expected)


def test_the_gradient_is_that_of_the_cosine():
    """Finite differences of 1 - mean_c cos(B[c], E[c]) at rows of length 1, where |B| is 1."""
    generator = torch.Generator().manual_seed(1)
    feedback = grape.AlignedRows()
    B = grape.unit(torch.randn(3, 8, generator=generator, dtype=torch.float64))
    E = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    lesson = Lesson(port=PORT, signal=torch.zeros(1, 3), jacobian=E.reshape(3, 4, 2))
    (found,) = feedback.gradient(lesson, (B.reshape(3, 4, 2),))

    def objective(b):
        return 1 - F.cosine_similarity(b, E, dim=1).mean()

    step = 1e-6
    for c in range(3):
        for j in range(8):
            up, down = B.clone(), B.clone()
            up[c, j] += step
            down[c, j] -= step
            slope = (objective(up) - objective(down)) / (2 * step)
            assert float(found.flatten(1)[c, j]) == pytest.approx(float(slope), abs=1e-9)


@pytest.mark.parametrize("length", [0.2, 5.0])
def test_a_step_turns_rows_by_as_much_whatever_their_length(length):
    """Deviation 1: dividing by the norms after each SGD step, as published, comes to the same rows."""
    generator = torch.Generator().manual_seed(2)
    feedback, eta = grape.AlignedRows(), 0.3
    unit = grape.unit(torch.randn(3, 8, generator=generator, dtype=torch.float64))
    E = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    lesson = Lesson(port=PORT, signal=torch.zeros(1, 3), jacobian=E)
    published = unit.requires_grad_()
    (g,) = torch.autograd.grad(1 - F.cosine_similarity(published, E, dim=1).mean(), published)
    published = grape.unit((published - eta * g).detach())
    B = length * unit.detach()
    (descent,) = feedback.gradient(lesson, (B,))
    torch.testing.assert_close(grape.unit(B - eta * descent), published, rtol=1e-12, atol=1e-14)


def test_feedback_learns_to_align_with_backprop(pair):
    """With the weights at rest the rows of B turn to those of the mean Jacobian."""
    learner = sb.attach(pair.net, sb.grape(), pair.x, seed=SEED, show=None)
    optimizer = torch.optim.SGD(learner.direct.parameters(), lr=0.1)
    for _ in range(1_500):
        learner.zero_grad()
        F.cross_entropy(learner(pair.x), pair.labels).backward()
        optimizer.step()
    net = pair.oracle(oracles.softmax)
    for B, J in zip(learner.feedback.values(), oracles.output_jacobians(net, pair.x.numpy()), strict=True):
        cosines = (rows(B.detach().numpy()) * rows(J)).sum(1)
        assert cosines.min() > 0.75


def test_feedback_has_rows_of_length_one(pair):
    learner = sb.attach(pair.net, sb.grape(), pair.x, show=None)
    for B in learner.feedback.values():
        torch.testing.assert_close(B.norm(dim=1), torch.ones(5, dtype=B.dtype))


def test_tangents_are_at_least_one():
    with pytest.raises(ValueError, match="tangents must be 1 or more, got 0"):
        grape.AlignedRows(tangents=0)


def test_a_row_of_zeros_stays_and_is_finite():
    feedback, zeros = grape.AlignedRows(), torch.zeros(3, 4, 2, dtype=torch.float64)
    assert not feedback.matrix(PORT, (zeros,)).any()
    lesson = Lesson(port=PORT, signal=torch.ones(2, 3), jacobian=torch.zeros(3, 4, 2))
    assert not feedback.gradient(lesson, (zeros,))[0].any()
