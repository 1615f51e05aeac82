"""oneDNN's kernel in a step: used where it is worth it, as exact as torch's product, and the setting comes back."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb
from skipback import precision
from skipback.step import onednn

pytestmark = pytest.mark.skipif(not onednn._exact(), reason="this torch has no oneDNN kernel")

N, WIDE, STEPS = 64, 300, 50
METHODS = {"dfa": sb.dfa, "drtp": sb.drtp, "f3": lambda: sb.f3(memory=N), "shallow": sb.shallow}
UPDATES = {"adam": lambda: sb.update.adam(1e-3), "sgd": lambda: sb.update.sgd(0.1)}


def build(act=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(100, WIDE), act(), nn.Linear(WIDE, WIDE, bias=False), act(), nn.Linear(WIDE, 5)
    )


def data():
    torch.manual_seed(1)
    return torch.randn(N, 10, 10), torch.randint(5, (N,)), torch.arange(N)


def train(method, update, *, how, act=nn.Tanh, steps=STEPS, dtype=torch.float32):
    (x, t, ids), net = data(), build(act).to(dtype)
    learner, change = sb.attach(net, method(), example=x.to(dtype), show=None), update()
    for _ in range(steps):
        learner.step(x.to(dtype), t, loss=F.cross_entropy, update=change, ids=ids, precision=how)
    return [p.detach().clone() for p in net.parameters()]


def apart(ours, theirs):
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def products(monkeypatch):
    """The shapes that the kernel has multiplied."""
    seen, kernel = [], onednn._product

    def spy(h, W, b=None, f="none"):
        seen.append((tuple(h.shape), tuple(W.shape), f))
        return kernel(h, W, b, f)

    monkeypatch.setattr(onednn, "_product", spy)
    return seen


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("method", METHODS)
def test_fifty_steps_are_those_of_torchs_product(method, update):
    ours = train(METHODS[method], UPDATES[update], how=precision.onednn())
    theirs = train(METHODS[method], UPDATES[update], how=None)
    true = train(METHODS[method], UPDATES[update], how=None, dtype=torch.float64)
    assert apart(ours, theirs) < (2e-5 if update == "adam" else 1e-6)  # Adam divides small gradients by their own size
    assert apart(ours, true) < 3 * apart(theirs, true) + 1e-7


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Identity])
def test_of_all_activations(act):
    ours = train(sb.dfa, UPDATES["sgd"], how=precision.onednn(), act=act, steps=10)
    theirs = train(sb.dfa, UPDATES["sgd"], how=None, act=act, steps=10)
    assert apart(ours, theirs) < 1e-6


def test_large_products_go_by_the_kernel_and_small_ones_do_not(products):
    train(sb.drtp, UPDATES["adam"], how=precision.onednn(), steps=1)
    W, V = (WIDE, 100), (WIDE, WIDE)
    forwards, gradients = [((N, 100), W, "tanh"), ((N, WIDE), V, "tanh")], [((w, N), (i, N), "none") for w, i in (W, V)]
    assert sorted(products) == sorted(forwards + gradients)
    assert N * 100 * WIDE >= onednn.LEAST > N * WIDE * 5


def test_sgd_inside_the_product_needs_no_gradient(products):
    train(sb.drtp, UPDATES["sgd"], how=precision.onednn(), steps=1)
    assert [f for _, _, f in products] == ["tanh", "tanh"]


def test_without_the_setting_nothing_changes(products):
    train(sb.dfa, UPDATES["adam"], how=None, steps=1)
    assert products == []


@pytest.mark.parametrize("method", [sb.fdfa, sb.dkp])
def test_learned_feedback_too(method):
    """Forward mode has a closed form of its own, which the setting reaches."""
    ours = train(method, UPDATES["sgd"], how=precision.onednn(), steps=5)
    assert apart(ours, train(method, UPDATES["sgd"], how=None, steps=5)) < 1e-6


def test_the_setting_comes_back_when_a_step_fails():
    x, t, _ = data()
    learner, before = sb.attach(build(), sb.dfa(), example=x, show=None), precision.product()
    seen = []

    def loss(y, t):
        seen.append(precision.product())
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        learner.step(x, t, loss=loss, update=sb.update.adam(), precision=precision.onednn())
    assert seen == ["none"]  # small products, as the loss's, are torch's own
    assert precision.product() == before


def test_an_empty_batch_is_as_ever():
    x, t, _ = data()
    for how in (None, precision.onednn()):
        learner = sb.attach(build(), sb.dfa(), example=x, show=None)
        value = learner.step(x[:0], t[:0], loss=F.cross_entropy, update=sb.update.sgd(), precision=how)
        assert value.isnan()
