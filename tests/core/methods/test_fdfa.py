"""fdfa against NumPy: the tangent by hand, the lesson of the feedback, and what it converges to."""

import copy

import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb
from skipback import draws, signals
from skipback.methods import dkp, fdfa
from skipback.streams import Stream

SEED = 7
DRAWN = fdfa.MeanJacobian(draw=draws.Gaussian())


def noises(net, x, count=1):
    """The directions that the first pass draws, port by port."""
    generator = Stream(SEED).next(torch.device("cpu"))
    with torch.no_grad():
        shapes = [tuple(m(x).shape) for m in (net[:2], net[:4])]
    return [[torch.randn(shape, generator=generator).double().numpy() for shape in shapes] for _ in range(count)]


@pytest.mark.parametrize("tangents", [1, 3])
def test_one_step(pair, agree, tangents):
    """teaching = e B; dB = B - mean_n d_n p_n^T, averaged over the tangents."""
    net = pair.oracle(oracles.softmax)
    method = sb.fdfa(feedback=fdfa.MeanJacobian(draw=draws.Gaussian(), tangents=tangents))
    learner = sb.attach(pair.net, method, pair.x, seed=SEED, show=None)
    ids, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    B = [weight.detach().numpy().copy() for weight in learner.feedback.values()]
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, oracles.feedback(e, B), e))
    estimates = [0.0, 0.0]
    for p in noises(pair.net, pair.x[ids], tangents):
        d = oracles.output_tangent(net, x, p)
        estimates = [E + d.T @ p_k / len(x) / tangents for E, p_k in zip(estimates, p, strict=True)]
    agree([w.grad for w in learner.feedback.values()], [b - E for b, E in zip(B, estimates, strict=True)])


def test_the_lesson_points_to_the_mean_jacobian(pair):
    """E[B - dB] = mean_n dy_n/dh_n, within five standard errors over 4,000 draws."""
    net = pair.oracle(oracles.softmax)
    method = sb.fdfa(feedback=fdfa.MeanJacobian(tangents=4_000))
    learner = sb.attach(pair.net, method, pair.x, seed=SEED, show=None)
    F.cross_entropy(learner(pair.x), pair.labels).backward()
    for B, J in zip(learner.feedback.values(), oracles.output_jacobians(net, pair.x.numpy()), strict=True):
        assert abs(-B.grad.numpy() - J).max() < 5 * abs(J).max() * 3 / 4_000**0.5


def test_feedback_learns_to_align_with_backprop(pair):
    learner = sb.attach(pair.net, sb.fdfa(), pair.x, seed=SEED, show=None)
    optimizer = torch.optim.SGD(learner.feedback.values(), lr=0.02)  # the moving average; weights stay
    for _ in range(1_000):
        learner.zero_grad()
        F.cross_entropy(learner(pair.x), pair.labels).backward()
        optimizer.step()
    found = sb.alignment(learner, pair.x, pair.labels, F.cross_entropy)
    assert min(a.cosine for a in found) > 0.9


def test_the_extra_pass_leaves_no_trace(pair):
    """Batch-norm statistics, dropout masks and the random state are those of dfa with the same feedback."""
    torch.manual_seed(0)
    made = [
        nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(9, 5))
        for _ in range(2)
    ]
    made[1].load_state_dict(made[0].state_dict())
    x, outputs = pair.x.float(), []
    same_draw = sb.dkp(feedback=dkp.Correlation(draw=draws.Gaussian()))
    for net, method in zip(made, (sb.fdfa(feedback=DRAWN), same_draw), strict=True):
        learner = sb.attach(net, method, x, seed=SEED, show=None)
        torch.manual_seed(1)
        y = learner(x)
        F.cross_entropy(y, pair.labels).backward()
        outputs.append((y, net[0].weight.grad, net[1].running_mean, torch.rand(1)))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_step_draws_anew_and_a_copy_goes_on_alike(pair):
    learner = sb.attach(pair.net, sb.fdfa(), pair.x, seed=SEED, show=None)

    def lesson():
        learner.zero_grad()
        F.cross_entropy(learner(pair.x), pair.labels).backward()
        return learner.feedback["0"].grad.clone()

    first, state = lesson(), {k: v.clone() for k, v in learner.state_dict().items()}
    second = lesson()
    assert not torch.equal(first, second)
    learner.load_state_dict(state)
    assert torch.equal(lesson(), second)


def test_delayed_errors_may_be_sent_through_learned_jacobians(pair):
    """A free combination: F3's signal, FDFA's feedback."""
    delayed = signals.Scaled(signals.Delayed(11), mean=True)
    learner = sb.attach(pair.net, sb.fdfa(feedback=DRAWN, signal=delayed), pair.x, show=None)
    ids = pair.batches[0]
    F.cross_entropy(learner(pair.x[ids], target=pair.labels[ids], ids=ids), pair.labels[ids]).backward()
    e, B = (1 / 5 - pair.t[ids]) / len(ids), learner.feedback["0"].detach()
    h = pair.net[:2](pair.x[ids])
    torch.testing.assert_close(pair.net[0].bias.grad, ((e @ B) * (1 - h**2)).sum(0))


class Bincount(torch.autograd.Function):
    """An operation of the user's without a forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


class Doubler(nn.Module):
    def forward(self, x):
        return Bincount.apply(x)


def test_an_operation_without_forward_mode_is_named():
    net = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 7), Doubler(), nn.Linear(7, 5))
    learner = sb.attach(net, sb.fdfa(), torch.randn(4, 6), show=None)
    with pytest.raises(NotImplementedError, match="module '3'"):
        learner(torch.randn(4, 6))


def test_in_eval_mode_blocks_are_taught_and_feedback_learns_on(pair):
    """Fine-tuning with norms held still: what has gradients is trained, and nothing of it goes without a word."""
    learner = sb.attach(pair.net, sb.fdfa(feedback=DRAWN), pair.x, seed=SEED, show=None)
    found = []
    for mode in (True, False):
        one = copy.deepcopy(learner).train(mode)
        F.cross_entropy(one(pair.x), pair.labels).backward()
        found.append([p.grad for p in one.parameters()])
        assert not torch.equal(one.direct.stream.position, learner.direct.stream.position)
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*found, strict=True))
    before = learner.direct.stream.position.clone()
    with torch.no_grad():
        learner.eval()(pair.x)
    assert torch.equal(learner.direct.stream.position, before)
