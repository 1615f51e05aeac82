"""sdfa against NumPy: one bit per output."""

import numpy as np
import oracles
import torch.nn.functional as F

import skipback as sb
from skipback import draws
from skipback.core.feedback import Fixed
from skipback.methods import sdfa


def test_one_step(pair, agree, feedback_of):
    """teaching_l = sign(e) B_l / N."""
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.sdfa(), pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    teaching = oracles.feedback(np.sign(e) / len(x), feedback_of(learner))
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, teaching, e))


def test_five_published_steps(pair, feedback_of):
    """sign(y - t), summed over the batch."""
    net = pair.oracle(oracles.sigmoid)
    learner = sb.attach(pair.net, sdfa.as_published(), pair.x, show=None)
    oracles.train(
        net,
        feedback_of(learner),
        pair.numpy_batches(),
        signal=lambda y, t: np.sign(y - t),
        head=oracles.head_error_bce,
        lr=0.01,
    )
    pair.train(learner, F.binary_cross_entropy_with_logits, lr=0.01)
    assert pair.difference(net) < 1e-10


def test_only_the_sign_is_sent(pair):
    """The size of the error changes the head, and nothing below it."""
    learner = sb.attach(pair.net, sb.sdfa(), pair.x, show=None)
    one = [g.clone() for g in pair.one_step(learner, F.cross_entropy)]
    seven = pair.one_step(learner, lambda y, t: 7 * F.cross_entropy(y, t))
    assert all((a == b).all() for a, b in zip(one[:4], seven[:4], strict=True))
    assert all((7 * a - b).abs().max() < 1e-14 for a, b in zip(one[4:], seven[4:], strict=True))


def test_defaults_are_the_published_draw():
    assert sb.sdfa().feedback == sdfa.as_published().feedback == Fixed(draws.KaimingUniform(a=0.0))
