"""The conventions of two classic code bases, step by step against NumPy: dfa-torch and principled-dfa-training.

dfa-torch (Nøkland 2016): bce summed over the batch, so e = sigmoid(y) - t reaches head and hidden layers alike; the
RMSprop of Torch7; tanh networks start at 0. principled-dfa (Launay 2019): hidden layers get e = softmax(y) - t summed,
through one sliced matrix; the head gets the mean. That FA with B = W is backprop, and with one hidden layer DFA, is in
`layerwise/test_layer_identities.py`.
"""

import itertools
from dataclasses import dataclass

import nets
import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from nets import C, batch, difference, gradients, made
from torch import nn

import skipback as sb
from skipback import draws, signals
from skipback.core.feedback import Fixed
from skipback.core.records import SignalInputs
from skipback.methods import dfa


def bce_sum(y, t):
    return F.binary_cross_entropy_with_logits(y, t, reduction="sum")


def close(found, expected):
    """To 1e-12 of the largest entry."""
    for f, e in zip(found, expected, strict=True):
        assert abs(f.numpy() - e).max() <= 1e-12 * abs(e).max()


# ---------------------------------------------------------------------------------------- dfa-torch: sums everywhere


def summed(net, B, x, t):
    """The gradients of dfa-torch under bce: e = sigmoid(y) - t, neither divided by N nor by C."""
    hs, _, y = net.forward(x)
    return oracles.direct(net, hs, oracles.feedback(y - t, B), y - t)


@pytest.mark.parametrize("method", [sb.dfa(), dfa.as_published(link=signals.sigmoid)])
def test_link_minus_target_summed(pair, feedback_of, method):
    """The gradient of a summed bce, and the error that is sent as published, are one."""
    net = pair.oracle(oracles.sigmoid)
    learner = sb.attach(pair.net, method, pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    close(pair.one_step(learner, bce_sum), summed(net, feedback_of(learner), x, t))


class TorchRMSprop:
    """torch/optim of September 2016: m <- 0.99 m + 0.01 g^2 from 0; p <- p - lr g / (sqrt(m) + 1e-8)."""

    def __init__(self, parameters, lr):
        self.parameters, self.lr, self.m = list(parameters), lr, [np.zeros_like(p) for p in parameters]

    def step(self, gradients):
        for p, g, m in zip(self.parameters, gradients, self.m, strict=True):
            m[...] = 0.99 * m + 0.01 * g * g
            p -= self.lr * g / (np.sqrt(m) + 1e-8)


def test_five_steps_from_zero_by_its_rmsprop(pair, feedback_of):
    """torch.optim.RMSprop is Torch7's. The first step moves the first layer and the biases: all else sees zeros."""
    for p in pair.net.parameters():
        nn.init.zeros_(p)
    net = pair.oracle(oracles.sigmoid)
    learner = sb.attach(pair.net, sb.dfa(), pair.x, show=None)
    B, theirs = feedback_of(learner), TorchRMSprop(net.parameters(), 0.01)
    ours = torch.optim.RMSprop(learner.parameters(), lr=0.01)
    for k, ids in enumerate(pair.batches):
        bce_sum(learner(pair.x[ids]), pair.t[ids]).backward()
        ours.step()
        ours.zero_grad()
        theirs.step(summed(net, B, pair.x[ids].numpy(), pair.t[ids].numpy()))
        assert pair.difference(net) < 1e-12
        if k == 0:
            moved = [name for name, p in pair.net.named_parameters() if p.detach().any()]
            assert moved == ["0.weight", "0.bias", "2.bias", "4.bias"]


def test_a_net_that_ends_in_log_softmax_is_taught_by_the_target_alone():
    """Trap A of dfa-torch: the gradient at log-softmax is -t / N, which does not know the prediction: that is DRTP."""
    x, t, _ = batch()
    coded = sb.attach(nn.Sequential(*made(nets.mlp), nn.LogSoftmax(1)), sb.dfa(), x, show=None)
    projected = sb.attach(made(nets.mlp), sb.drtp(feedback=coded.method.feedback), x, show=None)
    error = sb.attach(made(nets.mlp), sb.dfa(), x, show=None)
    with pytest.warns(sb.SkipbackWarning, match="the network ends in log-softmax"):
        F.nll_loss(coded(x), t).backward()
    for learner in (projected, error):
        F.cross_entropy(learner(x, target=t), t).backward()
    assert difference(gradients(coded.net), gradients(projected.net)) < 1e-12
    assert difference(gradients(coded.net), gradients(error.net)) > 0.1


@pytest.mark.parametrize("method", [sb.fa(), sb.dfa()])
def test_adversarial_images_come_from_exact_backprop(method):
    """Trap D: also where the first layer has feedback of its own. Kept clean gradients add up with the method's."""
    x, t, _ = batch()
    learner, plain = sb.attach(made(nets.mlp), method, x, show=None), made(nets.mlp)
    seen = []
    for one, call in ((learner, learner.exact), (plain, torch.enable_grad)):
        moving = x.clone().requires_grad_()
        with call():
            F.cross_entropy(one(moving), t).backward()
        seen.append(moving.grad)
    assert torch.equal(*seen)
    clean, moved = gradients(plain), x + 0.08 * seen[0].sign()
    F.cross_entropy(learner(moved), t).backward()  # on top of the clean gradients
    total = gradients(learner.net)
    learner.zero_grad()
    F.cross_entropy(learner(moved), t).backward()
    own = gradients(learner.net)
    assert difference(total, {name: clean[name] + own[name] for name in own}) < 1e-12
    assert difference(total, own) > 0.1


# ------------------------------------------------------------------------------- principled-dfa: sums, and one mean


@dataclass(frozen=True)
class Sliced:
    """The first columns of one matrix R (C, widest), times sqrt(widest / D): equal widths share one B."""

    R: torch.Tensor

    def __call__(self, C, D, generator):
        return self.R[:, :D] * (self.R.shape[1] / D) ** 0.5


def test_hidden_layers_get_the_sum_and_the_head_the_mean(pair):
    """dW_l = (e R[:, :d_l] sqrt(d_max / d_l) * f'(a_l))^T h_{l-1}, head e^T h / N, with e = softmax(y) - t."""
    R = torch.randn(C, 7, dtype=torch.float64) / (7 * C) ** 0.5
    net = pair.oracle(oracles.softmax)
    method = dfa.as_published(feedback=Fixed(Sliced(R)), link=signals.softmax)
    learner = sb.attach(pair.net, method, pair.x, show=None)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e, B = y - t, [R.numpy()[:, :d] * (7 / d) ** 0.5 for d in (7, 5)]
    close(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, oracles.feedback(e, B), e / len(x)))


@pytest.mark.parametrize("d", [800, 7])
def test_each_slice_has_a_squared_frobenius_norm_of_one_on_average(d):
    """R ~ N(0, 1 / (d_max C)): |B|^2 has mean 1 and variance 2 / (d C). Five standard deviations of the mean of 200."""
    generator = torch.Generator().manual_seed(0)
    draw = draws.Gaussian((800 * C) ** -0.5)
    squares = [Sliced(draw(C, 800, generator))(C, d, generator).square().sum().item() for _ in range(200)]
    assert np.mean(squares) == pytest.approx(1, abs=5 * (2 / (d * C) / 200) ** 0.5)


# ---------------------------------------------------------------------------------- what the error's sum to zero does


@pytest.mark.parametrize(("link", "rank"), [(signals.softmax, C - 1), (signals.sigmoid, C)])
def test_the_error_of_softmax_sums_to_zero_and_leaves_one_direction_less(link, rank):
    """e 1 = 0, so teachings and the weight gradients of a hidden layer have rank C - 1 at most, whatever the batch."""
    x, t, _ = batch(n=64)
    learner = sb.attach(made(lambda: nets.linear_mlp(6, 9, 8, C)), dfa.as_published(link=link), x, show=None)
    y = learner(x, target=t)
    F.cross_entropy(y, t).backward()
    step = SignalInputs(output=y.detach(), target=F.one_hot(t, C).double())
    teachings = learner.teaching_probe(x)(step, y.shape)
    assert [torch.linalg.matrix_rank(T).item() for T in teachings.values()] == [rank, rank]
    assert [torch.linalg.matrix_rank(learner.net[k].weight.grad).item() for k in (0, 1)] == [rank, rank]
    error = learner.method.signal(step)
    assert (error.sum(1).abs().max() < 1e-14) == (link is signals.softmax)


# ---------------------------------------------------------------------------------------- the networks of both codes


def conv(i, o, *after):
    """Conv 5x5 pad 2, activation, what follows, max-pool 3/2."""
    return [nn.Conv2d(i, o, 5, padding=2), nn.Tanh(), *after, nn.MaxPool2d(3, 2)]


class Named(nn.Sequential):
    """Layers named as there: conv1 .. conv3, lin1, lin2 (trap B: two names with a 2, and a port goes missing)."""

    def __init__(self, *layers):
        super().__init__()
        seen = {}
        for m in layers:
            kind = {"Conv2d": "conv", "Linear": "lin"}.get(type(m).__name__, type(m).__name__)
            seen[kind] = seen.get(kind, 0) + 1
            self.add_module(f"{kind}{seen[kind]}", m)


class Bottleneck(nn.Linear):
    """A subclass (trap C: that code asks for exactly Linear, and so sees no layer here)."""


def dense(*sizes, second=nn.Linear):
    layers = [(second if k == 1 else nn.Linear)(*pair) for k, pair in enumerate(itertools.pairwise(sizes))]
    return nn.Sequential(nn.Flatten(), *[m for layer in layers[:-1] for m in (layer, nn.Tanh())], layers[-1])


NETS = {
    "nokland-mlp": (lambda: dense(784, 800, 800, 10), (1, 28, 28), 1_276_810, [800, 800]),
    "nokland-conv": (
        lambda: nn.Sequential(
            *conv(3, 96, nn.Dropout(0.25)),
            *conv(96, 128, nn.Dropout(0.25)),
            *conv(128, 256, nn.Dropout(0.5)),
            *dense(2304, 2048, 2048, 10),
        ),
        (3, 32, 32),
        10_071_562,
        [21600, 6272, 2304, 2048, 2048],
    ),
    "launay-fc": (lambda: dense(3072, 800, 800, 800, 10), (3, 32, 32), 3_748_010, [800, 800, 800]),
    "launay-conv": (
        lambda: Named(*conv(3, 32), *conv(32, 64), *conv(64, 64), *dense(576, 128, 10)),
        (3, 32, 32),
        231_306,
        [7200, 3136, 576, 128],
    ),
    "launay-conv-batchnorm": (
        lambda: Named(
            *conv(3, 32, nn.BatchNorm2d(32)),
            *conv(32, 64, nn.BatchNorm2d(64)),
            *conv(64, 64, nn.BatchNorm2d(64)),
            *dense(576, 128, 10),
        ),
        (3, 32, 32),
        231_306 + 2 * (32 + 64 + 64),
        [7200, 3136, 576, 128],
    ),
    "launay-bottleneck": (
        lambda: dense(3072, 800, 800, 800, 10, second=Bottleneck),
        (3, 32, 32),
        3_748_010,
        [800, 800, 800],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_one_port_less_than_weight_layers_of_the_published_sizes(name):
    """And every parameter that is trained gets a gradient that is not 0."""
    build, shape, parameters, sizes = NETS[name]
    net = build()
    assert sum(p.numel() for p in net.parameters()) == parameters
    x, t = torch.randn(2, *shape), torch.tensor([3, 7])
    learner = sb.attach(net, dfa.as_published(link=signals.softmax), x, show=None)
    assert [B[0].numel() for B in learner.feedback.values()] == sizes
    assert len(sizes) == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in net.modules()) - 1
    F.cross_entropy(learner(x, target=t), t).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
