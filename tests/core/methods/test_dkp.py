"""dkp against NumPy, and the Kolen-Pollack law."""

import oracles
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback import draws, signals
from skipback.methods import dkp

DRAWN = dkp.Correlation(draw=draws.Gaussian(), decay=0.01)


def test_one_step(pair, agree):
    """teaching = e B; dB = e^T h + decay B, from the same backward."""
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.dkp(feedback=DRAWN), pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    B = [weight.detach().numpy().copy() for weight in learner.feedback.values()]
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, oracles.feedback(e, B), e))
    agree(
        [weight.grad for weight in learner.feedback.values()],
        [e.T @ h + 0.01 * b for h, b in zip(hs[1:], B, strict=True)],
    )


def test_feedback_and_head_are_pulled_together(pair):
    """Equal decay and lr under SGD: (B_{L-1} - W_L) shrinks by exactly 1 - lr decay per step."""
    lr, decay = 0.1, 0.3
    method = sb.dkp(feedback=dkp.Correlation(draw=draws.Gaussian(), decay=decay))
    learner = sb.attach(pair.net, method, pair.x, show=None)
    head, feedback = pair.net[-1].weight, list(learner.feedback.values())[-1]
    optimizer = torch.optim.SGD([{"params": [head], "weight_decay": decay}, {"params": [feedback]}], lr=lr)
    gap = (feedback - head).detach().clone()
    for _ in range(5):
        learner.zero_grad()
        F.cross_entropy(learner(pair.x), pair.labels).backward()
        optimizer.step()
        gap *= 1 - lr * decay
        torch.testing.assert_close((feedback - head).detach(), gap, rtol=0, atol=1e-12)


def test_published_starts_at_zero_without_decay():
    assert dkp.as_published().feedback == dkp.Correlation(draw=draws.Zeros(), decay=0.0)


def test_learned_feedback_needs_an_example(pair):
    with pytest.raises(ValueError, match="pass example=x"):
        sb.attach(pair.net, sb.dkp(), show=None)


def test_the_optimizer_finds_the_feedback(pair):
    learner = sb.attach(pair.net, sb.dkp(), pair.x, show=None)
    assert len(list(learner.parameters())) == len(list(pair.net.parameters())) + 2


def test_delayed_errors_may_teach_the_feedback_too(pair):
    """A free combination: F3's signal, Kolen-Pollack feedback."""
    delayed = signals.Scaled(signals.Delayed(11), mean=True)
    learner = sb.attach(pair.net, sb.dkp(feedback=DRAWN, signal=delayed), pair.x, show=None)
    ids = pair.batches[0]
    F.cross_entropy(learner(pair.x[ids], target=pair.labels[ids], ids=ids), pair.labels[ids]).backward()
    e = (1 / 5 - pair.t[ids]) / len(ids)  # the error of an output of zeros
    with learner.exact():
        h = pair.net[:2](pair.x[ids])
    B = learner.feedback["0"]
    torch.testing.assert_close(B.grad, e.T @ h + 0.01 * B)
