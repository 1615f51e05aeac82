"""drtp against NumPy: the target is sent."""

import oracles
import torch.nn.functional as F

import skipback as sb
from skipback import draws
from skipback.core.feedback import Fixed
from skipback.methods import drtp


def test_one_step(pair, agree, feedback_of):
    """teaching_l = -t B_l / N."""
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.drtp(), pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    teaching = oracles.feedback(-t / len(x), feedback_of(learner))
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, teaching, oracles.head_error_ce(y, t)))


def test_five_published_steps(pair, feedback_of):
    """+t, summed over the batch."""
    net = pair.oracle(oracles.sigmoid)
    learner = sb.attach(pair.net, drtp.as_published(), pair.x, show=None)
    oracles.train(
        net, feedback_of(learner), pair.numpy_batches(), signal=lambda y, t: t, head=oracles.head_error_bce, lr=0.01
    )
    pair.train(learner, F.binary_cross_entropy_with_logits, lr=0.01)
    assert pair.difference(net) < 1e-10


def test_class_indices_and_one_hot_rows_teach_the_same(pair):
    learner = sb.attach(pair.net, sb.drtp(), pair.x, show=None)
    found = []
    for target in (pair.labels, pair.t):
        learner.zero_grad()
        F.cross_entropy(learner(pair.x, target=target), pair.t).backward()
        found.append([p.grad.clone() for p in pair.net.parameters()])
    assert all((a == b).all() for a, b in zip(*found, strict=True))


def test_defaults_are_the_published_draw():
    assert sb.drtp().feedback == drtp.as_published().feedback == Fixed(draws.KaimingUniform(a=0.0))
