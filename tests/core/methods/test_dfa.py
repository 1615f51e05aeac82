"""dfa against NumPy: the library's convention for one step, and the published sum for five."""

import oracles
import pytest
import torch.nn.functional as F

import skipback as sb
from skipback import draws, signals
from skipback.core.feedback import Fixed
from skipback.methods import dfa

CONVENTION = {
    "ce": (F.cross_entropy, oracles.softmax, oracles.head_error_ce),
    "bce": (F.binary_cross_entropy_with_logits, oracles.sigmoid, oracles.head_error_bce),
    "mse": (F.mse_loss, oracles.identity, oracles.head_error_mse),
}


@pytest.mark.parametrize("loss", CONVENTION)
@pytest.mark.parametrize("draw", [draws.Uniform(), draws.Orthogonal(), draws.ternary()])
def test_one_step(pair, agree, feedback_of, loss, draw):
    """teaching_l = e B_l with e = dL/dy: the batch scaling is the loss's own."""
    loss, link, error = CONVENTION[loss]
    net = pair.oracle(link)
    learner = sb.attach(pair.net, sb.dfa(feedback=Fixed(draw)), pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = error(y, t)
    expected = oracles.direct(net, hs, oracles.feedback(e, feedback_of(learner)), e)
    agree(pair.one_step(learner, loss), expected)


def test_five_published_steps(pair, feedback_of):
    """y - t, summed over the batch; the head is a mean over N and C."""
    net = pair.oracle(oracles.sigmoid)
    learner = sb.attach(pair.net, dfa.as_published(), pair.x, show=None)
    oracles.train(
        net,
        feedback_of(learner),
        pair.numpy_batches(),
        signal=lambda y, t: y - t,
        head=oracles.head_error_bce,
        lr=0.01,
    )
    pair.train(learner, F.binary_cross_entropy_with_logits, lr=0.01)
    assert pair.difference(net) < 1e-10


def test_five_published_steps_of_a_regression(regression, feedback_of):
    net = regression.oracle(oracles.identity)
    learner = sb.attach(regression.net, dfa.as_published(link=signals.identity), regression.x, show=None)
    oracles.train(
        net,
        feedback_of(learner),
        regression.numpy_batches(),
        signal=lambda y, t: y - t,
        head=oracles.head_error_mse,
        lr=0.01,
    )
    regression.train(learner, F.mse_loss, lr=0.01)
    assert regression.difference(net) < 1e-10


def test_defaults_are_the_published_draw():
    """U(-1/sqrt(D), 1/sqrt(D)), `rfb_mag = 0`."""
    assert sb.dfa().feedback == dfa.as_published().feedback == Fixed(draws.Uniform(None))
    assert dfa.as_published().signal == signals.OutputError(signals.sigmoid)
