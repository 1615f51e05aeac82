"""Initialisations: zeros, and pre-alignment against NumPy and against brute force."""

import copy
import itertools
import math

import nets
import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from nets import C, batch, gradients, made, same, teach
from torch import nn
from torch.nn.utils import parametrizations

import skipback as sb
from skipback.init import prealigned, solve, zeros
from skipback.routes.transported import Convolution

TOLERANCE = 100 * np.finfo(np.float64).eps


def conv_tanh():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(24, C),
    )


# ----------------------------------------------------------------------------------------------------------- zeros


@pytest.mark.parametrize(("build", "shape"), [(nets.mlp, nets.FLAT), (conv_tanh, nets.IMAGE)])
def test_all_dense_and_convolution_layers_are_zero_and_norms_are_not(build, shape):
    net = made(build)
    kept = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    parameters = list(net.parameters())
    zeros(net, batch(shape)[0])
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    for p in net.parameters():
        assert bool(p.any()) is any(p is k and k.any() for k in kept)


def test_at_the_first_step_only_the_first_weights_move():
    """All others see activations of 0. The biases are taught at once."""
    x, t, ids = batch()
    net = made(nets.mlp)
    zeros(net)
    learner = sb.attach(net, sb.dfa(), x, show=None)
    teach(learner, x, t, ids)
    assert {name for name, p in net.named_parameters() if p.grad.any()} == {"0.weight", "0.bias", "2.bias", "4.bias"}


def test_feedback_learns_from_zero_and_backprop_does_not():
    x, t, _ = batch(n=20)
    moved = {}
    for method in (sb.dfa(), sb.bp()):
        net = made(nets.mlp)
        zeros(net)
        learner = sb.attach(net, method, x, show=None)
        for _ in range(20):
            learner.zero_grad()
            F.cross_entropy(learner(x), t).backward()
            for p in net.parameters():
                p.data -= 0.5 * p.grad
        moved[type(method)] = [bool(net[k].weight.any()) for k in (0, 2, 4)]
    assert moved == {sb.Direct: [True] * 3, sb.Exact: [False] * 3}


@pytest.mark.parametrize("build", [nets.conv, nets.LeNet])
def test_from_zero_a_relu_never_starts(build):
    net = made(build)
    before = copy.deepcopy(net.state_dict())
    name = "'1' \\(ReLU\\)" if build is nets.conv else "an operation in forward \\(ReluBackward0\\)"
    with pytest.raises(ValueError, match=f"zeros: {name}.*its slope at 0 is 0.*Use tanh or sigmoid"):
        zeros(net, batch(nets.IMAGE)[0])
    assert same(before, net.state_dict())


def test_what_zeros_cannot_write():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), parametrizations.weight_norm(nn.Linear(5, C)))
    with pytest.raises(ValueError, match="layer '2' computes its weight from other parameters"):
        zeros(net)
    assert net[0].weight.any()
    with pytest.raises(ValueError, match="no dense or convolution layer"):
        zeros(nn.Sequential(nn.LayerNorm(6)))


def test_looking_for_functions_changes_nothing():
    net = made(conv_tanh)
    buffers, random = [b.clone() for b in net.buffers()], torch.get_rng_state()
    zeros(net, batch(nets.IMAGE)[0])
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


# -------------------------------------------------------------------------------------- pre-alignment, dense layers


def attached(build=nets.mlp, shape=nets.FLAT, *, n=12, method=None, **kw):
    x, t, ids = batch(shape, n)
    return sb.attach(made(build), method or sb.dfa(), x, show=None, **kw), x, t, ids


def weights(net):
    return {name: p.detach().clone() for name, p in net.named_parameters() if p.dim() > 1}


def aligned_by_hand(W, b, B, x, t):
    """From the output down, every layer with the new weights above it; tanh and cross-entropy, in NumPy."""
    W = list(W)
    for k in reversed(range(1, len(W))):
        hs, _, y = oracles.MLP(W, b, oracles.softmax).forward(x)
        e = oracles.head_error_ce(y, t)
        D = e
        for j in reversed(range(k, len(W) - 1)):
            D = (D @ W[j + 1]) * (1 - hs[j + 1] ** 2)
        W[k] = (np.linalg.pinv(D, rcond=TOLERANCE) @ (e @ B[k - 1])).copy()
        W[k] /= np.linalg.norm(W[k])
    return W


@pytest.mark.parametrize("n", [4, 12])
def test_dense_layers_against_numpy(n):
    """Also with less samples than units."""
    learner, x, t, _ = attached(n=n)
    layers = [m for m in learner.net if isinstance(m, nn.Linear)]
    W, b = ([getattr(m, which).detach().numpy().copy() for m in layers] for which in ("weight", "bias"))
    expected = aligned_by_hand(
        W, b, [B.numpy() for B in learner.feedback.values()], x.numpy(), oracles.one_hot(t.numpy(), C)
    )
    prealigned(learner, x, t, F.cross_entropy)
    for layer, value in zip(layers, expected, strict=True):
        np.testing.assert_allclose(layer.weight.detach().numpy(), value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [3, 10])
def test_the_facts_of_the_reference(outputs, dtype):
    """Aligned at once, above 0.99; Frobenius norm 1; rank C - 1. It was about 0 before."""
    x, t, _ = batch(n=100, dtype=dtype)
    sizes = (6, 60, 60, 60)
    build = lambda: [m for pair in itertools.pairwise(sizes) for m in (nn.Linear(*pair), nn.Tanh())]  # noqa: E731
    net = made(lambda: nn.Sequential(*build(), nn.Linear(60, outputs)), dtype=dtype)
    learner = sb.attach(net, sb.dfa(), x, show=None)
    done = prealigned(learner, x, t % outputs, F.cross_entropy)
    assert [(one.layer, one.port) for one in done.layers] == [("2", "0"), ("4", "2"), ("6", "4")]
    for one in done.layers:
        assert abs(one.before) < 0.5
        assert one.after > 0.99
        assert one.rank == outputs - 1  # also of classes that nobody has: they get errors too
        assert float(net.get_submodule(one.layer).weight.detach().norm()) == pytest.approx(1, rel=1e-5)
    assert done.skipped == {"0": "no port stands directly before it"}
    found = {a.port: a.cosine for a in sb.alignment(learner, x, t % outputs, F.cross_entropy)}
    assert {one.port: one.after for one in done.layers} == found


def test_other_batches_are_aligned_too():
    learner, x, t, _ = attached(lambda: nets.linear_mlp(6, 7, 8, C), n=40)
    prealigned(learner, x, t, F.cross_entropy)
    x, t, _ = batch(seed=9)
    assert all(one.cosine > 1 - 1e-9 for one in sb.alignment(learner, x, t, F.cross_entropy))


def test_tokens_have_one_row_each():
    """A dense layer on (N, T, in): every token of every sample is a row of the least squares."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, C)

        def forward(self, x):
            return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))).mean(1))

    learner, x, t, _ = attached(Tokens, (3, 6))
    done = prealigned(learner, x, t, F.cross_entropy)
    assert [one.layer for one in done.layers] == ["b", "out"]
    assert done.layers[1].after > 1 - 1e-9
    assert done.layers[0].after > done.layers[0].before


@pytest.mark.parametrize("name", ["drtp", "sdfa", "f3"])
def test_every_signal_can_be_followed(name):
    """F3's memory is read; it starts with what an untrained network would leave."""
    method = sb.f3(memory=12) if name == "f3" else getattr(sb, name)()
    learner, x, t, ids = attached(method=method)
    done = prealigned(learner, x, t, F.cross_entropy, ids=ids)
    assert [one.layer for one in done.layers] == ["2", "4"]
    assert all(one.after > max(one.before, 0.3) for one in done.layers)


# ---------------------------------------------------------------------------------------------------- convolutions

SHAPES = {
    "plain": ((1, 1), (0, 0), (1, 1), 1),
    "padded": ((1, 1), (1, 2), (1, 1), 1),
    "strided": ((2, 3), (1, 0), (1, 1), 1),
    "dilated": ((1, 1), (2, 1), (2, 1), 1),
    "groups": ((2, 1), (1, 1), (1, 2), 2),
    "depthwise": ((1, 1), (1, 1), (1, 1), 4),
}


def by_brute_force(conv, D, G):
    """W from the dense matrix whose columns are what each single number of the kernel sends to the input."""
    columns = []
    for k in range(conv.weight.numel()):
        unit = torch.zeros_like(conv.weight).flatten().index_fill(0, torch.tensor([k]), 1.0).reshape(conv.weight.shape)
        h = torch.zeros_like(G, requires_grad=True)
        y = torch.func.functional_call(conv, {"weight": unit}, h)
        columns.append(torch.autograd.grad(y, h, D)[0].flatten())
    W = torch.linalg.lstsq(torch.stack(columns, 1), G.reshape(-1, 1), rcond=TOLERANCE, driver="gelsd").solution
    return W.reshape(conv.weight.shape).numpy()


def problem(conv, places, n=2):
    G = torch.randn(n, conv.in_channels, *places, dtype=torch.float64)
    return torch.randn_like(conv(G)).detach(), G


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_against_brute_force(shape):
    stride, padding, dilation, groups = SHAPES[shape]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    conv = nn.Conv2d(4, 4, (3, 2), **options, bias=False, dtype=torch.float64)
    D, G = problem(conv, (5, 6))
    W = solve.convolution(Convolution(**options), D, G, (3, 2), TOLERANCE)
    np.testing.assert_allclose(W.numpy(), by_brute_force(conv, D, G), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("kind", "places"), [(nn.Conv1d, (9,)), (nn.Conv3d, (4, 5, 3))])
def test_convolutions_of_one_and_three_dimensions(kind, places):
    conv = kind(2, 3, 2, stride=2, padding=1, bias=False, dtype=torch.float64)
    D, G = problem(conv, places)
    layer = Convolution(stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=1)
    W = solve.convolution(layer, D, G, conv.kernel_size, TOLERANCE)
    np.testing.assert_allclose(W.numpy(), by_brute_force(conv, D, G), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 4])
def test_of_many_solutions_the_smallest(rank):
    """Less rows than columns, or rows that repeat: chunks of any size give NumPy's pseudo-inverse."""
    A = torch.randn(9, rank, dtype=torch.float64) @ torch.randn(rank, 4, dtype=torch.float64)
    G = torch.randn(9, 2, dtype=torch.float64)
    for rows, size in itertools.product((9, 3), (1, 2, 9)):
        X = solve.least_squares(zip(A[:rows].split(size), G[:rows].split(size), strict=True), 1e-10)
        expected = np.linalg.pinv(A[:rows].numpy(), rcond=1e-10) @ G[:rows].numpy()
        np.testing.assert_allclose(X.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_the_size_of_chunks_does_not_matter(monkeypatch):
    conv = nn.Conv2d(2, 3, 2, bias=False, dtype=torch.float64)
    D, G = problem(conv, (4, 4), n=7)
    layer = Convolution(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    whole = solve.convolution(layer, D, G, (2, 2), TOLERANCE)
    for chunk in (1, 500):
        monkeypatch.setattr(solve, "CHUNK", chunk)
        torch.testing.assert_close(solve.convolution(layer, D, G, (2, 2), TOLERANCE), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", [0, "same", "valid"])
def test_a_convolution_in_its_network(padding):
    """G and D by plain autograd, with the new head; then brute force. Pooling and a norm are in the block before."""

    def build():
        net = conv_tanh()
        net[4] = nn.Conv2d(4, 6, 3, groups=2, padding=padding)
        net[7] = nn.Linear(6 * (16 if padding == "same" else 4), C)
        return net

    learner, x, t, _ = attached(build, nets.IMAGE, n=5)
    old = copy.deepcopy(learner.detach())
    learner = sb.attach(learner.net, sb.dfa(), x, show=None)
    done = prealigned(learner, x, t, F.cross_entropy)
    assert [(one.layer, one.port) for one in done.layers] == [("4", "0"), ("7", "4")]
    old[7].weight.data.copy_(learner.net[7].weight.data)
    h = old[:4](x).detach()
    a = old[4](h).detach().requires_grad_(True)
    y = old[5:](a)
    y.retain_grad()
    F.cross_entropy(y, t).backward()
    G = (y.grad @ learner.feedback["0"].flatten(1)).reshape(h.shape)
    conv = nn.Conv2d(4, 6, 3, groups=2, padding=padding, bias=False, dtype=torch.float64)
    W = by_brute_force(conv, a.grad, G)
    np.testing.assert_allclose(learner.net[4].weight.detach().numpy(), W / np.linalg.norm(W), rtol=1e-6, atol=1e-10)
    assert all(one.after > one.before for one in done.layers)


# ------------------------------------------------------------------------------------------ what is left as it is


class Skip(nn.Module):
    """The port of `a` is read by `b`, and by the sum behind it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, C)

    def forward(self, x):
        h = self.a(x)
        return self.out(h + self.b(h))


def image_net(**options):
    return lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(8, C),
    )  # fmt: skip


def frozen():
    net = nets.mlp()
    net[2].weight.requires_grad_(False)
    return net


def normed():
    net = nets.mlp()
    parametrizations.weight_norm(net[2])
    return net


@pytest.mark.parametrize(
    ("build", "shape", "blocks", "why"),
    [
        (
            nets.Shared,
            nets.FLAT,
            ["stem"],
            {"shared": "it is called 2 times in a pass", "stem": "no port", "out": "no port"},
        ),
        (nets.LeNet, nets.IMAGE, "auto", {"conv1": "no port stands directly before it"}),
        (nets.batchnorm, nets.FLAT, ["1"], {"1": "no port", "4": "no port", "7": "no port"}),
        (nets.batchnorm, nets.FLAT, "auto", {"1": "no port"}),
        (nets.residual_modules, nets.FLAT, "auto", None),
        (Skip, nets.FLAT, ["a"], {"a": "no port", "b": "what leaves the port goes other ways too", "out": "no port"}),
        (nets.Unrolled, nets.FLAT, "auto", {"cell": "it is a LSTMCell; dense and convolution layers are solved"}),
        (frozen, nets.FLAT, "auto", {"0": "no port", "2": "its weight is frozen"}),
        (normed, nets.FLAT, "auto", {"0": "no port", "2": "it computes its weight from other parameters"}),
        (
            image_net(kernel_size=3, padding=1, padding_mode="reflect"),
            nets.IMAGE,
            "auto",
            {"0": "no port", "2": "its padding is 'reflect'"},
        ),
        (
            image_net(kernel_size=2, padding="same"),
            nets.IMAGE,
            "auto",
            {"0": "no port", "2": "it pads more on one side"},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
def test_what_cannot_be_aligned_is_listed_and_left(build, shape, blocks, why):
    learner, x, t, _ = attached(build, shape, blocks=blocks)
    before = weights(learner.net)
    done = prealigned(learner, x, t, F.cross_entropy)
    for name, reason in (why or {}).items():
        assert done.skipped[name].startswith(reason)
    assert why is None or not done.skipped.keys() - why.keys()
    after = weights(learner.net)
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert changed == {one.layer for one in done.layers}
    modules = {n for n, m in learner.net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert modules <= changed | done.skipped.keys()


def test_tied_weights_and_dead_layers_are_listed():
    tokens = torch.randint(0, 11, (8, 4), generator=torch.Generator().manual_seed(1))
    learner = sb.attach(made(nets.Tied), sb.dfa(), tokens, show=None)
    done = prealigned(learner, tokens, torch.arange(8), F.cross_entropy)
    assert done.skipped["out"] == "another module has the same weight"
    assert [one.layer for one in done.layers] == ["middle"]
    learner, x, t, _ = attached()
    for B in learner.feedback.values():
        B.zero_()
    done = prealigned(learner, x, t, F.cross_entropy)
    assert done.layers == ()
    assert (
        done.skipped["2"] == done.skipped["4"] == "no teaching reaches its port, or none that its weights could carry"
    )
    learner, x, t, _ = attached()
    done = prealigned(learner, x, t, lambda y, t: 0 * y.sum())
    assert done.skipped["2"] == done.skipped["4"] == "no gradient reaches its output"
    learner, x, t, _ = attached()
    learner.feedback["0"].fill_(math.inf)
    done = prealigned(learner, x, t, F.cross_entropy)
    assert done.skipped["2"] == "its gradient or the teaching at its port is not finite"
    assert [one.layer for one in done.layers] == ["4"]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training):
    """Buffers, random state, gradients, modes, feedback, memory, and parameters that are not such weights."""

    def build():
        return nn.Sequential(
            *(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.3)),
            *(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3)),
            nn.Linear(5, C),
        )

    learner, x, t, ids = attached(build, method=sb.f3(memory=12))
    teach(learner, x, t, ids)
    learner.train(training)
    state, grads, random = copy.deepcopy(learner.state_dict()), gradients(learner), torch.get_rng_state()
    done = prealigned(learner, x, t, F.cross_entropy, ids=ids)
    assert [one.layer for one in done.layers] == ["4", "8"]
    after = learner.state_dict()
    assert {n for n in state if not torch.equal(state[n], after[n])} == {"net.4.weight", "net.8.weight"}
    assert same(grads, gradients(learner))
    assert torch.equal(random, torch.get_rng_state())
    assert all(m.training is training for m in learner.modules())
    assert all(p.requires_grad for p in learner.net.parameters())


@pytest.mark.parametrize("name", ["bp", "shallow", "fa", "fg_a", "dkp", "fdfa"])
def test_without_fixed_feedback_there_is_nothing_to_align_with(name):
    learner, x, t, _ = attached(method=getattr(sb, name)())
    before = weights(learner.net)
    words = "learns, so there is nothing fixed" if name in ("dkp", "fdfa") else "has no feedback at its ports"
    with pytest.raises(ValueError, match=f"prealigned: .*{words}.*such as skipback.dfa"):
        prealigned(learner, x, t, F.cross_entropy)
    assert same(before, weights(learner.net))


def test_delayed_signals_need_ids_and_blocks_are_found_if_nobody_has():
    learner, x, t, _ = attached(method=sb.f3(memory=12))
    with pytest.raises(ValueError, match="pass ids="):
        prealigned(learner, x, t, F.cross_entropy)
    learner = sb.attach(made(nets.mlp), sb.dfa(), show=None)
    known, *_ = attached()
    assert prealigned(learner, x, t, F.cross_entropy) == prealigned(known, x, t, F.cross_entropy)
    assert math.isfinite(sum(float(p.detach().sum()) for p in learner.parameters()))
