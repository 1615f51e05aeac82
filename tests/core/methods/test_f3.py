"""f3 against NumPy: all signals of the published code, and the library's own convention."""

import dataclasses

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback import draws, signals
from skipback.core.feedback import Fixed
from skipback.methods import f3
from skipback.signals import Masked, OutputError, Scaled

LR = 0.01


def bce(y, t):
    return F.binary_cross_entropy(y, t)


def published(name, *, link=signals.sigmoid, loss=bce):
    return f3.published_signals(memory=11, link=link, loss=loss)[name]


def in_double(signal):
    """The same signal with a float64 memory."""
    if isinstance(signal, Masked | Scaled):
        return dataclasses.replace(signal, signal=in_double(signal.signal))
    return dataclasses.replace(signal, dtype=torch.float64)


# -------------------------------------------------------------------------------------- the published code, 1.1.3


@pytest.mark.parametrize("name", oracles.F3_ROWS)
@pytest.mark.parametrize("double", [False, True])
def test_five_published_steps_of_the_delayed_kinds(pair, feedback_of, name, double):
    """Memory starts at t; E = M[ids], masked for one-hot; rows written after use. Three epochs, a short last batch."""
    signal = published(name)
    learner = sb.attach(
        pair.net, f3.as_published(memory=11, signal=in_double(signal) if double else signal), pair.x, show=None
    )
    net = pair.oracle(oracles.sigmoid)
    M = oracles.f3(
        net,
        feedback_of(learner),
        pair.numpy_batches(),
        M=pair.t.numpy(),
        rows=oracles.F3_ROWS[name],
        masked=name.endswith("one_hot"),
        head=oracles.head_error_bce,
        lr=LR,
    )
    pair.train(learner, F.binary_cross_entropy_with_logits, lr=LR)
    assert pair.difference(net) < (1e-10 if double else 1e-6)
    # the library's memory holds output minus target, the sign is in the method
    rows = -learner.memory.rows.double().numpy()
    assert abs(rows - M).max() < (1e-10 if double else 1e-6)


def test_the_default_signal_is_delayed_error(pair):
    assert f3.as_published(memory=11).signal == Scaled(published("delayed_error"), factor=-1.0)


def ce(q, t):
    return -(t * q.log()).sum(1).mean()


CE_ROWS = {  # of the published code under cross-entropy, whose networks return logits: q = softmax(y), target first
    "delayed_error": lambda q, t: t - q,
    "delayed_loss": lambda q, t: (t - q) / len(t),
    "delayed_error_one_hot": lambda q, t: t - q,
    "delayed_loss_one_hot": lambda q, t: (t - q) / len(t),
    "delayed_error_softmax": lambda q, t: t - q,
    "delayed_loss_softmax": lambda q, t: (t - q) / len(t),
}


@pytest.mark.parametrize("name", CE_ROWS)
def test_five_published_steps_under_cross_entropy(pair, feedback_of, name):
    """Never the softmax of a softmax: the code's transformer sends t - softmax(logits) as delayed_error_softmax."""
    signal = in_double(published(name, link=signals.softmax, loss=ce))
    learner = sb.attach(pair.net, f3.as_published(memory=11, link=signals.softmax, signal=signal), pair.x, show=None)
    net = pair.oracle(oracles.softmax)
    oracles.f3(
        net,
        feedback_of(learner),
        pair.numpy_batches(),
        M=pair.t.numpy(),
        rows=CE_ROWS[name],
        masked=name.endswith("one_hot"),
        head=oracles.head_error_ce,
        lr=LR,
    )
    pair.train(learner, F.cross_entropy, lr=LR)
    assert pair.difference(net) < 1e-10


@pytest.mark.parametrize("build", [f3.signals, f3.published_signals])
@pytest.mark.parametrize("name", [name for name in CE_ROWS if name.endswith("softmax")])
def test_one_name_means_one_error_under_cross_entropy(pair, build, name):
    """With and without `as_published`, up to the scale 1/N of the published loss rows."""
    of = build(memory=11, link=signals.softmax, loss=ce)[name].of
    y, t = 3 * pair.net(pair.x).detach(), pair.t
    published_loss = build is f3.published_signals and name.startswith("delayed_loss")
    want = torch.from_numpy(oracles.softmax(y.numpy())) - t
    assert torch.allclose(of.record(y, t) * (len(t) if published_loss else 1), want, rtol=1e-12, atol=1e-14)


def test_the_softmax_kinds_under_bce_are_of_the_published_prediction():
    """F3's fully connected networks end in a sigmoid, and its softmax comes after that."""
    y, t = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0.0, 1.0, 0.0]])
    q = oracles.softmax(oracles.sigmoid(y.numpy()))
    assert abs(published("delayed_error_softmax").of.record(y, t).numpy() - (q - t.numpy())).max() < 1e-6


CURRENT = {
    "current_error": lambda y, t: t - y,
    "one_hot_target": lambda y, t: t,
    "zeros": lambda y, t: 0 * t,
}


@pytest.mark.parametrize("name", CURRENT)
def test_five_published_steps_of_the_kinds_without_memory(pair, feedback_of, name):
    learner = sb.attach(pair.net, f3.as_published(memory=11, signal=published(name)), pair.x, show=None)
    assert learner.memory is None
    net = pair.oracle(oracles.sigmoid)
    oracles.train(
        net, feedback_of(learner), pair.numpy_batches(), signal=CURRENT[name], head=oracles.head_error_bce, lr=LR
    )
    pair.train(learner, F.binary_cross_entropy_with_logits, lr=LR)
    assert pair.difference(net) < 1e-10


@pytest.mark.parametrize(
    ("name", "rows"), [("delayed_error", oracles.row_error), ("delayed_loss", oracles.row_loss_mse)]
)
def test_five_published_steps_of_a_regression(regression, feedback_of, name, rows):
    signal = in_double(published(name, link=signals.identity, loss=F.mse_loss))
    method = f3.as_published(memory=11, link=signals.identity, signal=signal)
    learner = sb.attach(regression.net, method, regression.x, show=None)
    net = regression.oracle(oracles.identity)
    oracles.f3(
        net,
        feedback_of(learner),
        regression.numpy_batches(),
        M=regression.t.numpy(),
        rows=rows,
        masked=False,
        head=oracles.head_error_mse,
        lr=LR,
    )
    regression.train(learner, F.mse_loss, lr=LR)
    assert regression.difference(net) < 1e-10


def test_all_nine_signals_have_their_published_names():
    names = [*oracles.F3_ROWS, "current_error", "one_hot_target", "zeros"]
    for table in (f3.signals, f3.published_signals):
        assert sorted(table(memory=3, link=signals.sigmoid, loss=bce)) == sorted(names)


# ------------------------------------------------------------------------------------------ the library's convention


def test_two_visits_under_cross_entropy(pair, agree, feedback_of):
    """teaching_l = M[ids] B_l / N: M is 1/C - t at first, then softmax(y) - t."""
    signal = in_double(sb.f3(memory=11).signal)
    learner = sb.attach(pair.net, sb.f3(memory=11, signal=signal.signal), pair.x, show=None)
    net, B = pair.oracle(oracles.softmax), feedback_of(learner)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    head = oracles.head_error_ce(y, t)
    for M in (1 / t.shape[1] - t, y - t):
        expected = oracles.direct(net, hs, oracles.feedback(M / len(x), B), head)
        agree(pair.one_step(learner, F.cross_entropy), expected)


OWN_ROWS = {  # on logits z, per sample; output minus target
    "delayed_error": lambda z, t: oracles.sigmoid(z) - t,
    "delayed_loss": lambda z, t: (oracles.sigmoid(z) - t) / t.shape[1],
    "delayed_error_softmax": lambda z, t: oracles.softmax(z) - t,
}


@pytest.mark.parametrize("name", OWN_ROWS)
@pytest.mark.parametrize("masked", [False, True])
def test_own_signals_record_on_one_scale(pair, agree, feedback_of, name, masked):
    """Gradients are taken at the logits and per sample; the memory starts at what zeros would leave."""
    if masked and name.endswith("softmax"):
        return
    table = f3.signals(memory=11, link=signals.sigmoid, loss=bce)
    signal = in_double(table[f"{name}_one_hot" if masked else name])
    learner = sb.attach(pair.net, sb.f3(memory=11, signal=signal), pair.x, show=None)
    net, B = pair.oracle(oracles.sigmoid), feedback_of(learner)
    _, x, t = pair.numpy_batches()[0]
    hs, z, y = net.forward(x)
    head = oracles.head_error_bce(y, t)
    for M in (OWN_ROWS[name](0 * z, t), OWN_ROWS[name](z, t)):
        E = (t * M if masked else M) / len(x)
        expected = oracles.direct(net, hs, oracles.feedback(E, B), head)
        agree(pair.one_step(learner, F.binary_cross_entropy_with_logits), expected)


def test_own_delayed_loss_softmax(pair):
    """dLoss(softmax(z))/dz per sample, by finite differences of the oracle's loss."""
    signal = f3.signals(memory=11, link=signals.sigmoid, loss=bce)["delayed_loss_softmax"]
    z, t = pair.oracle(oracles.identity).forward(pair.x.numpy())[2], pair.t.numpy()

    def loss(z):
        q = oracles.softmax(z)
        return -(t * np.log(q) + (1 - t) * np.log(1 - q)).mean()

    expected = np.zeros_like(z)
    for i in np.ndindex(z.shape):
        h = np.zeros_like(z)
        h[i] = 1e-5
        expected[i] = len(z) * (loss(z + h) - loss(z - h)) / 2e-5
    found = signal.of.record(torch.tensor(z), pair.t).numpy()
    assert abs(found - expected).max() < 1e-8


def test_rows_do_not_depend_on_the_company_of_a_sample(pair):
    """Published loss rows do: they carry 1/N of the batch in which they were stored."""
    ours = f3.signals(memory=11, link=signals.sigmoid, loss=bce)["delayed_loss"].of
    theirs = published("delayed_loss").of
    y = pair.net(pair.x).detach()
    for of, ratio in ((ours, 1.0), (theirs, 11 / 4)):
        whole, part = of.record(y, pair.t), of.record(y[:4], pair.t[:4])
        assert torch.allclose(ratio * whole[:4], part, rtol=1e-12)


@pytest.mark.parametrize("link", [signals.softmax, signals.sigmoid, signals.identity])
def test_the_default_signal(link):
    method = sb.f3(memory=7, link=link)
    assert method.signal == Scaled(signals.Delayed(7, of=OutputError(link)), mean=True)
    assert method.signal == Scaled(f3.signals(memory=7, link=link, loss=bce)["delayed_error"], mean=True)


def test_defaults_are_the_published_draw():
    assert sb.f3(memory=1).feedback == f3.as_published(memory=1).feedback == Fixed(draws.KaimingUniform())
