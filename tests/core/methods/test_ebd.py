"""ebd against NumPy: the moving average of the paper, and the loss that its teaching descends."""

import numpy as np
import oracles
import torch
import torch.nn.functional as F

import skipback as sb
from skipback import draws
from skipback.methods import ebd

DRAWN = ebd.ErrorCorrelation(draw=draws.Gaussian())


def test_one_step(pair, agree):
    """teaching = e B; dB = B - e^T h."""
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.ebd(feedback=DRAWN), pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    B = [weight.detach().numpy().copy() for weight in learner.feedback.values()]
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, oracles.feedback(e, B), e))
    agree(
        [weight.grad for weight in learner.feedback.values()],
        [b - e.T @ h for h, b in zip(hs[1:], B, strict=True)],
    )


def test_sgd_is_the_moving_average_of_the_paper(pair):
    """R <- lambda R + (1 - lambda)/N sum_n g_n eps_n^T, by SGD of rate 1 - lambda on B."""
    keep = 0.9
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.ebd(feedback=DRAWN), pair.x, show=None)
    optimizer = torch.optim.SGD(learner.direct.parameters(), lr=1 - keep)  # the weights stay
    R = [weight.detach().numpy().copy() for weight in learner.feedback.values()]
    for ids, x, t in pair.numpy_batches():
        hs, _, y = net.forward(x)
        R = [keep * r + (1 - keep) / len(x) * (y - t).T @ h for r, h in zip(R, hs[1:], strict=True)]
        learner.zero_grad()
        F.cross_entropy(learner(pair.x[ids]), pair.labels[ids]).backward()
        optimizer.step()
    for weight, r in zip(learner.feedback.values(), R, strict=True):
        assert abs(weight.detach().numpy() - r).max() < 1e-12


def test_the_teaching_descends_the_correlation_of_error_and_activity(pair):
    """With B the correlation itself, teaching = d(|e^T h|^2 / 2)/dh at a fixed error: the decorrelation loss."""
    net = pair.oracle(oracles.softmax)
    x, t = pair.x.numpy(), pair.t.numpy()
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    learner = sb.attach(pair.net, sb.ebd(feedback=DRAWN), pair.x, show=None)
    for weight, h in zip(learner.direct.parameters(), hs[1:], strict=True):
        weight.data.copy_(torch.from_numpy(e.T @ h))
    F.cross_entropy(learner(pair.x), pair.labels).backward()
    h, step = hs[2], 1e-6  # the second hidden layer; its weights get teaching * f' times the first
    teaching = np.empty_like(h)
    for n, j in np.ndindex(*h.shape):
        up, down = h.copy(), h.copy()
        up[n, j] += step
        down[n, j] -= step
        teaching[n, j] = ((e.T @ up) ** 2 - (e.T @ down) ** 2).sum() / 2 / (2 * step)
    expected = (teaching * (1 - h**2)).T @ hs[1]
    assert abs(pair.net[2].weight.grad.numpy() - expected).max() < 1e-8


def test_it_starts_small(pair):
    """N(0, 0.01^2)."""
    learner = sb.attach(pair.net, sb.ebd(), pair.x, show=None)
    entries = torch.cat([B.detach().flatten() for B in learner.feedback.values()])
    assert 0.005 < entries.std() < 0.02
