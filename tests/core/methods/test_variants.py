"""The variants of DFA against NumPy: what each does with the error, or with the matrix."""

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback import draws, signals
from skipback.methods import dkp, principled_dfa, ternary_dfa
from skipback.structures import Gated, Normalised


def teaching_of(pair, agree, learner, teach):
    """One step against the oracle whose teaching at hidden layer k is teach(e, k, h_k)."""
    net = pair.oracle(oracles.softmax)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    G = [teach(e, k, h) for k, h in enumerate(hs[1:])]
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, G, e))


def test_tiny_dfa(pair, agree):
    """teaching = e R[:, :D_l] / sqrt(D_max), with R from U(-1, 1); the ports have 6 and 4 units or so."""
    learner = sb.attach(pair.net, sb.tiny_dfa(), pair.x, show=None)
    (R,) = {id(parts[0]): parts[0] for parts in learner.direct.parts.values()}.values()  # one tensor for both
    widths = [spec.size for spec in learner.direct.ports.values()]
    R = R.numpy() * max(widths) ** 0.5  # what U(-1, 1) gave
    assert R.shape == (5, max(widths))
    assert 0.9 < abs(R).max() <= 1
    teaching_of(pair, agree, learner, lambda e, k, h: e @ R[:, : widths[k]] / max(widths) ** 0.5)


def test_principled_dfa(pair, agree):
    """teaching = e R[:, :D_l] sqrt(D_max / D_l)."""
    learner = sb.attach(pair.net, sb.principled_dfa(), pair.x, show=None)
    R = learner.direct.feedback_0.numpy()
    widths = [spec.size for spec in learner.direct.ports.values()]
    teaching_of(pair, agree, learner, lambda e, k, h: e @ R[:, : widths[k]] * (max(widths) / widths[k]) ** 0.5)


def test_principled_dfa_as_published_sums_over_the_batch(pair, agree):
    """Hidden layers get softmax(y) - t, the head the mean: N times as much."""
    learner = sb.attach(pair.net, principled_dfa.as_published(), pair.x, show=None)
    net = pair.oracle(oracles.softmax)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    B = [b.numpy() for b in learner.feedback.values()]
    agree(
        pair.one_step(learner, F.cross_entropy),
        oracles.direct(net, hs, oracles.feedback(y - t, B), oracles.head_error_ce(y, t)),
    )


def test_normalised_dfa(pair, agree):
    """m |e_n| / |m_n|, with columns of norm 1."""
    learner = sb.attach(pair.net, sb.normalised_dfa(), pair.x, show=None)
    B = [b.numpy() for b in learner.feedback.values()]
    for b in B:
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), 1, rtol=1e-12)

    def teach(e, k, h):
        m = e @ B[k]
        return m * np.linalg.norm(e, axis=1, keepdims=True) / np.linalg.norm(m, axis=1, keepdims=True)

    teaching_of(pair, agree, learner, teach)


def test_a_sample_without_an_error_is_taught_nothing(pair):
    """0 / 0 is none: the loss of one sample is left out."""
    learner = sb.attach(pair.net, sb.normalised_dfa(), pair.x, show=None)
    weights = torch.ones(11, dtype=torch.float64)
    weights[0] = 0
    (F.cross_entropy(learner(pair.x), pair.labels, reduction="none") * weights).mean().backward()
    assert all(p.grad.isfinite().all() for p in pair.net.parameters())


def test_augmented_dfa_at_the_pre_activation(pair, agree):
    """With the weight layers as blocks: delta_l = (e B_l) * g(a_l), and no f'."""
    learner = sb.attach(pair.net, sb.augmented_dfa(), pair.x, blocks=["0", "2"], show=None)
    net = pair.oracle(oracles.softmax)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    expected = []
    for k, B in enumerate(learner.feedback.values()):
        a = hs[k] @ net.W[k].T + net.b[k]
        delta = (e @ B.numpy()) * np.cos(a)
        expected += [delta.T @ hs[k], delta.sum(0)]
    agree(pair.one_step(learner, F.cross_entropy), [*expected, e.T @ hs[-1], e.sum(0)])


def test_augmented_dfa_at_ports_found_by_themselves(pair, agree):
    """(e B) * g(h), and autograd adds f'; g is any function."""
    learner = sb.attach(pair.net, sb.augmented_dfa(feedback=Gated(gate=torch.exp)), pair.x, show=None)
    B = [b.numpy() for b in learner.feedback.values()]
    teaching_of(pair, agree, learner, lambda e, k, h: (e @ B[k]) * np.exp(h))


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_ternary_dfa(pair, agree, threshold):
    learner = sb.attach(pair.net, sb.ternary_dfa(threshold=threshold), pair.x, show=None)
    B = [b.numpy() for b in learner.feedback.values()]

    def teach(e, k, h):
        return (np.sign(e) * (abs(e) > threshold * abs(e).max(1, keepdims=True))) @ B[k]

    teaching_of(pair, agree, learner, teach)


def test_a_threshold_is_a_share():
    with pytest.raises(ValueError, match="a share of the largest entry, 0 to 1, got 1"):
        signals.Ternarised(signals.LossGradient(), 1.0)
    with pytest.raises(ValueError, match=r"a share of the largest entry, 0 to 1, got -0\.1"):
        signals.Ternarised(signals.LossGradient(), -0.1)


def test_wrappers_hold_each_other(pair, agree):
    """Normalised, gated, learned feedback: m = normalised(e B), times g(h); B's own lesson stays Kolen-Pollack's."""
    inner = dkp.Correlation(draw=draws.Gaussian(), decay=0.5)
    learner = sb.attach(pair.net, sb.dfa(feedback=Gated(Normalised(inner))), pair.x, show=None)
    net = pair.oracle(oracles.softmax)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    B = [b.detach().numpy().copy() for b in learner.feedback.values()]
    G = []
    for b, h in zip(B, hs[1:], strict=True):
        m = e @ b
        m *= np.linalg.norm(e, axis=1, keepdims=True) / np.linalg.norm(m, axis=1, keepdims=True)
        G.append(m * np.cos(h))
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, G, e))
    agree(
        [b.grad for b in learner.direct.parameters()],
        [e.T @ h + 0.5 * b for b, h in zip(B, hs[1:], strict=True)],
    )


def test_the_defaults_of_the_pages():
    assert principled_dfa.principled_dfa().feedback.draw == draws.UnitNorm()
    for threshold in (0.1, 0.4):
        for method in (ternary_dfa.ternary_dfa, ternary_dfa.as_published):
            chosen = method() if threshold == 0.1 else method(threshold=threshold)
            assert chosen.signal.threshold == threshold
            assert chosen.feedback.draw == draws.Gaussian()
