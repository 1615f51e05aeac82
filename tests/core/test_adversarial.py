"""Adversarial inputs: x + eps sign(dL/dx), the gradient by NumPy; the method takes no part in it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb

X, T = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])


def learner(method=None, *more):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), *more, nn.Linear(4, 3))
    return sb.attach(net, method or sb.dfa(), example=X[:2], show=None)


def by_hand(net, x, t):
    """dL/dx and dL/dW1 of a mean cross-entropy, in float64: tanh hidden layer, softmax output."""
    (W, b), (V, c) = [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in (net[0], net[-1])]
    x = x.double().numpy()
    h = np.tanh(x @ W.T + b)
    y = h @ V.T + c
    p = np.exp(y - y.max(1, keepdims=True))
    e = (p / p.sum(1, keepdims=True) - np.eye(3)[t.numpy()]) / len(x)
    delta = (e @ V) * (1 - h**2)
    return delta @ W, delta.T @ x


@pytest.mark.parametrize("method", [sb.dfa(), sb.fa(), sb.bp(), sb.drtp(), sb.fdfa(), sb.fg_w()])
def test_the_inputs_move_in_the_sign_of_the_exact_gradient(method):
    taught = learner(method)
    before = [p.detach().clone() for p in taught.parameters()]
    found = sb.adversarial(taught, X, T, F.cross_entropy, eps=0.25)
    g, _ = by_hand(taught.net, X, T)
    assert np.array_equal((found - X).sign().numpy(), np.sign(g))
    torch.testing.assert_close((found - X).abs(), torch.full_like(X, 0.25), rtol=1e-6, atol=1e-6)
    assert not found.requires_grad
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(taught.parameters(), before, strict=True))


def test_the_reduction_of_the_loss_does_not_matter():
    taught = learner()
    mean = sb.adversarial(taught, X, T, F.cross_entropy, 0.1)
    assert torch.equal(mean, sb.adversarial(taught, X, T, lambda y, t: F.cross_entropy(y, t, reduction="sum"), 0.1))


def test_gradients_of_the_clean_batch_are_kept_and_added():
    taught = learner()
    moved = sb.adversarial(taught, X, T, F.cross_entropy, 0.25, keep_gradients=True)
    _, exact = by_hand(taught.net, X, T)
    kept = taught.net[0].weight.grad.clone()
    np.testing.assert_allclose(kept.numpy(), exact, rtol=1e-5, atol=1e-7)
    F.cross_entropy(taught(moved), T).backward()
    other = learner()
    F.cross_entropy(other(moved), T).backward()
    torch.testing.assert_close(taught.net[0].weight.grad, kept + other.net[0].weight.grad)


def test_nothing_is_clipped_and_the_inputs_stay():
    taught, x = learner(), torch.ones(6, 5)
    found = sb.adversarial(taught, x, T, F.cross_entropy, 0.5)
    assert set(found.unique().tolist()) == {0.5, 1.5}
    assert torch.equal(x, torch.ones(6, 5))


@pytest.mark.parametrize(
    ("x", "eps", "said"),
    [
        (torch.ones(6, 5, dtype=torch.int64), 0.1, "torch.int64 cannot be: x must be floating point"),
        ([1.0], 0.1, "list cannot be"),
        (X, 0.0, "eps must be a positive number, got 0.0"),
        (X, float("nan"), "eps must be a positive number"),
        (X, float("inf"), "eps must be a positive number"),
    ],
)
def test_what_cannot_be_moved_is_refused(x, eps, said):
    with pytest.raises(ValueError, match=said):
        sb.adversarial(learner(), x, T, F.cross_entropy, eps)


def test_a_loss_without_a_direction_is_refused():
    taught = learner()
    with pytest.raises(ValueError, match="does not depend on x"):
        sb.adversarial(taught, X, T, lambda y, t: taught.net[0].weight.sum(), 0.1)
