"""fg_w and fg_a: NumPy oracles, unbiasedness, and the loop around them."""

import copy

import nets
import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from nets import batch, difference, gradients, logits, made, same, teach
from torch import nn

import skipback as sb
from skipback.estimate import mean, projection

METHODS = {"fg_w": sb.fg_w, "fg_a": sb.fg_a}


@pytest.fixture(params=METHODS)
def constructor(request):
    return METHODS[request.param]


def attached(method, build=nets.mlp, shape=nets.FLAT, n=8, **options):
    x, t, ids = batch(shape, n)
    return sb.attach(made(build), method, x, show=None, **options), x, t, ids


def exact(learner, x, t):
    """The gradients of backprop, with the dropout masks of seed 5."""
    learner.zero_grad()
    torch.manual_seed(5)
    with learner.exact():
        F.cross_entropy(logits(learner(x)), t).backward()
    found = gradients(learner.net)
    learner.zero_grad()
    return found


def one_step(learner, x, t, **options):
    learner.zero_grad()
    torch.manual_seed(5)
    teach(learner, x, t, None, **options)
    return gradients(learner.net)


def next_draws(learner):
    """The generator of the learner's next step."""
    return copy.deepcopy(learner.route.stream).next(torch.device("cpu"))


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()


# ------------------------------------------------------------------------------------------------------- the oracles


def weights_oracle(net, hs, e, directions):
    """s = <e, dy>, with d_k = f'(z_k) (W_k d_{k-1} + V_k h_{k-1} + c_k);  gradient s v, as a mean over directions."""
    estimates = [np.zeros_like(p) for p in net.parameters()]
    K = len(directions[0])
    for k in range(K):
        d = np.zeros_like(hs[0])
        for layer, W in enumerate(net.W):
            V, c = directions[2 * layer][k], directions[2 * layer + 1][k]
            d = d @ W.T + hs[layer] @ V.T + c
            if layer < len(net.W) - 1:
                d = (1 - hs[layer + 1] ** 2) * d
        s = (e * d).sum()
        for estimate, v in zip(estimates, directions, strict=True):
            estimate += s * v[k] / K
    return estimates


@pytest.mark.parametrize("K", [1, 3])
def test_one_step_of_fg_w(pair, agree, K):
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.fg_w(tangents=K), pair.x, show=None, seed=4)
    generator = next_draws(learner)
    directions = [normal(generator, K, *p.shape) for p in net.parameters()]
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    agree(pair.one_step(learner, F.cross_entropy), weights_oracle(net, hs, oracles.head_error_ce(y, t), directions))


def activities_oracle(net, hs, e, noise):
    """teaching_{k,n} = s_n u_{k,n}, s_n = <e_n, dy_n>, with d_k = f'(z_k) W_k d_{k-1} + u_k; a mean over passes."""
    teaching = [np.zeros_like(u) for u in noise[0]]
    for us in noise:
        d = us[0]
        for k in range(1, len(us)):
            d = (1 - hs[k + 1] ** 2) * (d @ net.W[k].T) + us[k]
        s = (e * (d @ net.W[-1].T)).sum(1, keepdims=True)
        for G, u in zip(teaching, us, strict=True):
            G += s * u / len(noise)
    return oracles.direct(net, hs, teaching, e)


@pytest.mark.parametrize("K", [1, 3])
def test_one_step_of_fg_a(pair, agree, K):
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.fg_a(tangents=K), pair.x, show=None, seed=4)
    generator = next_draws(learner)
    _, x, t = pair.numpy_batches()[0]
    noise = [[normal(generator, len(x), len(b)) for b in net.b[:-1]] for _ in range(K)]
    hs, _, y = net.forward(x)
    agree(pair.one_step(learner, F.cross_entropy), activities_oracle(net, hs, oracles.head_error_ce(y, t), noise))


# --------------------------------------------------------------------------------------------------- the expectation


def tiny():
    return nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, nets.C))


@pytest.mark.parametrize(
    ("name", "build", "shape"),
    [("fg_w", tiny, nets.FLAT), ("fg_a", nets.mlp, nets.FLAT), ("fg_a", nets.conv, nets.IMAGE)],
)
def test_unbiased(name, build, shape):
    """The mean of 40 steps of 25 directions lies within 5 standard errors of backprop, at every parameter."""
    learner, x, t, _ = attached(METHODS[name](tangents=25), build, shape)
    expected = torch.cat([g.flatten() for g in exact(learner, x, t).values()])
    steps = torch.stack([torch.cat([g.flatten() for g in one_step(learner, x, t).values()]) for _ in range(40)])
    found, error = steps.mean(0), steps.std(0) / len(steps) ** 0.5
    assert ((found - expected).abs() <= 5 * error + 1e-12).all()
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.9
    assert abs(found @ expected / (expected @ expected) - 1) < 0.1


@pytest.mark.parametrize("name", nets.CASES)
def test_activities_projected_on_a_full_basis_are_backprop(name):
    """As many directions as a sample has units, at every network without coupled samples."""
    case = nets.CASES[name]
    learner, x, t, _ = attached(sb.fg_a(combine=projection), case.build, case.shape, n=2)
    units = sum(int(np.prod(s.shape[1:])) for s in learner.layout.segments[:-1])
    learner, x, t, _ = attached(sb.fg_a(tangents=units, combine=projection), case.build, case.shape)
    far = difference(exact(learner, x, t), one_step(learner, x, t))
    assert far > 1e-3 if name == "batchnorm" else far < 1e-6  # deviation 3


@pytest.mark.parametrize("extra", [[], [nn.BatchNorm1d(3)], [nn.Dropout(0.4)]])
def test_weights_projected_on_a_full_basis_are_backprop(extra):
    """As many directions as parameters: also with coupled samples, and with the dropout masks of the training pass."""

    def build():
        return nn.Sequential(nn.Linear(6, 3), *extra, nn.Tanh(), nn.Linear(3, nets.C))

    count = sum(p.numel() for p in made(build).parameters())
    learner, x, t, _ = attached(sb.fg_w(tangents=count, combine=projection), build)
    expected = exact(learner, x, t)
    found = one_step(learner, x, t)
    size = max(g.abs().max() for g in expected.values())
    assert all((found[name] - expected[name]).abs().max() < 1e-6 * size for name in expected)


def test_the_head_of_fg_a_gets_its_exact_gradient():
    learner, x, t, _ = attached(sb.fg_a())
    expected, found = exact(learner, x, t), one_step(learner, x, t)
    for name in ("4.weight", "4.bias"):
        assert torch.allclose(found[name], expected[name], rtol=1e-12, atol=0)
    assert not torch.allclose(found["2.weight"], expected["2.weight"], rtol=0.1)


# ------------------------------------------------------------------------------------------------------- the directions


def test_every_step_draws_anew_and_a_seed_repeats_all(constructor):
    runs = []
    for seed in (3, 3, 4):
        learner, x, t, _ = attached(constructor(), seed=seed)
        runs.append([one_step(learner, x, t) for _ in range(2)])
    first, again, other = runs
    assert same(first[0], again[0])
    assert same(first[1], again[1])
    assert difference(first[0], first[1]) > 0.1
    assert difference(first[0], other[0]) > 0.1


def test_seeds_are_told_apart_beyond_32_bits(constructor):
    """torch's CPU generator looks at the lower 32 bits only."""
    learner, x, t, _ = attached(constructor(), seed=1)
    other, *_ = attached(constructor(), seed=1 + 2**32)
    assert difference(one_step(learner, x, t), one_step(other, x, t)) > 0.1


def test_a_state_dict_continues_to_the_same_bits(constructor):
    learner, x, t, _ = attached(constructor(), seed=3)
    for _ in range(2):
        one_step(learner, x, t)
    other, *_ = attached(constructor(), seed=9)
    one_step(other, x, t)
    other.load_state_dict(learner.state_dict())
    assert other.route.stream.position.tolist() == [3, 2]
    for _ in range(2):
        assert same(one_step(learner, x, t), one_step(other, x, t))


def test_the_global_random_state_is_only_used_by_the_network(constructor):
    learner, x, *_ = attached(constructor(tangents=3), nets.dropout)
    plain = made(nets.dropout)
    torch.manual_seed(5)
    expected = plain(x)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    y = learner(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(y, expected)


def test_batch_norm_counts_one_pass(constructor):
    learner, x, t, _ = attached(constructor(tangents=3), nets.batchnorm)
    plain = made(nets.batchnorm)
    plain(x)
    one_step(learner, x, t)
    assert same(dict(plain.named_buffers()), dict(learner.net.named_buffers()))


# ------------------------------------------------------------------------------------------------------------ the loop


def test_twice_the_loss_is_twice_the_gradient(constructor):
    """The estimate is linear in the loss: loss scaling and accumulation weights go through."""
    for combine in (mean, projection):
        learner, x, t, _ = attached(constructor(tangents=2, combine=combine))
        other = copy.deepcopy(learner)
        once, twice = one_step(learner, x, t), one_step(other, x, t, weight=2.0)
        assert difference({name: 2 * g for name, g in once.items()}, twice) < 1e-12


def test_weights_need_no_graph():
    """The output hangs on the parameters themselves: nothing of the network is recorded."""
    learner, x, *_ = attached(sb.fg_w(), nets.conv, nets.IMAGE)
    y = learner(x)
    kinds = {type(node).__name__ for node, _ in y.grad_fn.next_functions if node is not None}
    assert kinds == {"AccumulateGrad"}
    assert torch.is_grad_enabled()


def test_a_frozen_parameter_is_neither_perturbed_nor_taught():
    """As many directions as there are parameters without it suffice for the exact gradient."""
    count = sum(p.numel() for name, p in made(tiny).named_parameters() if name != "0.weight")
    learner, x, t, _ = attached(sb.fg_w(tangents=count, combine=projection), tiny)
    learner.net[0].weight.requires_grad_(False)
    expected, found = exact(learner, x, t), one_step(learner, x, t)
    assert found["0.weight"] is None
    assert difference(expected, found) < 1e-6


def test_a_frozen_block_is_no_port_but_its_noise_is_in_the_derivative():
    learner, x, t, _ = attached(sb.fg_a(tangents=12, combine=projection))
    learner.net[0].requires_grad_(False)
    assert difference(exact(learner, x, t), one_step(learner, x, t)) < 1e-6
    learner.net[2].requires_grad_(False)
    assert difference(exact(learner, x, t), one_step(learner, x, t)) < 1e-6


def test_several_ports_of_one_block():
    """A cell that is called at every step: the noise of a call belongs to the port of the same call."""
    units = 3 * 3
    learner, x, t, _ = attached(sb.fg_a(tangents=units, combine=projection), Cell)
    assert len(learner.layout.segments) == 2
    assert difference(exact(learner, x, t), one_step(learner, x, t)) < 1e-6


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Linear(5, 3), nn.Linear(3, nets.C)

    def forward(self, x):
        h = x.new_zeros(len(x), 3)
        for part in x.split(2, dim=1):
            h = torch.tanh(self.cell(torch.cat([h, part], 1)))
        return self.out(h)


class Raises(nn.Sequential):
    broken = None

    def forward(self, x):
        y = super().forward(x)
        if self.broken and not torch.autograd.forward_ad._current_level >= 0:
            raise self.broken("a bug of the user's")
        return y


def test_after_an_error_everything_is_as_before(constructor):
    learner, x, t, _ = attached(constructor(), lambda: Raises(*nets.mlp()))
    hooks = [len(m._forward_pre_hooks) for m in learner.net.modules()]
    learner.net.broken = KeyError
    with pytest.raises(KeyError, match="a bug"):
        learner(x)
    assert torch.is_grad_enabled()
    assert [len(m._forward_pre_hooks) for m in learner.net.modules()] == hooks
    learner.net.broken = None
    assert all(g is not None for g in one_step(learner, x, t).values())


@pytest.mark.parametrize("method", [sb.fg_w(), sb.fg_a(), sb.lg_fg_a()])
def test_after_an_interrupt_the_next_pass_is_whole(method):
    """Ctrl-C in a notebook: torch then calls no hook behind the network."""
    learner, x, t, _ = attached(method, lambda: Raises(*nets.mlp()))
    hooks = [len(m._forward_pre_hooks) for m in learner.net.modules()]
    learner.net.broken = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        learner(x, target=t)
    learner.net.broken = None
    assert all(g is not None for g in one_step(learner, x, t).values())
    assert [len(m._forward_pre_hooks) for m in learner.net.modules()] == hooks
    learner.net.broken = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        learner(x, target=t)
    learner.detach()
    assert torch.is_grad_enabled()
    assert not any(m._forward_pre_hooks for m in learner.net.modules())


def test_plain_passes_are_left_alone(constructor):
    """No direction is drawn for evaluation, nor inside `exact`."""
    learner, x, t, _ = attached(constructor())
    with torch.no_grad():
        learner(x)
    exact(learner, x, t)
    learner.eval()
    y = learner(x)
    assert learner.route.stream.position.tolist() == [0, 0]
    with pytest.raises(RuntimeError, match=r"in eval mode.*call train\(\).*learner.exact\(\)"):
        y.sum().backward()


def test_norms_may_stay_in_eval_mode(constructor):
    learner, x, t, _ = attached(constructor(), nets.batchnorm)
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    assert all(g.isfinite().all() for g in one_step(learner, x, t).values())


def test_a_network_that_takes_another_path():
    passes = [None]  # an attribute of the network is put back after the forward-mode pass

    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, nets.C)

        def forward(self, x):
            passes.append(x)
            h = torch.tanh(self.a(x))
            return self.out(h if len(passes) == 1 else torch.tanh(self.b(h)))

    learner, x, *_ = attached(sb.fg_a(), Fickle)
    passes.clear()
    with pytest.raises(RuntimeError, match=r"'a' .*was not met in the forward-mode pass.*same path twice"):
        learner(x)


def test_a_batch_that_is_not_first():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 7), nn.Linear(7, nets.C)

        def forward(self, x):
            return self.b(self.a(x)[None]).squeeze(0)

    x, *_ = batch()
    with pytest.raises(ValueError, match="the first dimension of both must be the batch"):
        sb.attach(made(Transposed), sb.fg_a(), x, show=None)


def test_plain_gradients_under_the_same_autocast():
    """A cast of a weight that has no graph must not be found again by the pass that follows."""
    x, t, _ = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.fg_w(), x, show=None)
    with torch.autocast("cpu", torch.bfloat16):
        learner(x)
        with learner.exact():
            loss = F.cross_entropy(learner(x), t)
    loss.backward()
    assert all(p.grad is not None for p in learner.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_pages(name):
    page = sb.methods.page(name)
    assert page.as_published() == getattr(sb, name)()
    assert page.as_published().estimate.tangents == 1
