"""Each method against its equation: NumPy for five SGD steps, and the laws of its feedback."""

import copy
import math

import layer_oracles as oracles
import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import gradients, same
from torch import nn

import skipback as sb

SIGNED = ["usf", "frsf", "brsf"]


def numpy_of(learner):
    layers = [m for m in learner.net if isinstance(m, nn.Linear)]
    return tuple(
        [p.detach().numpy().copy() for p in part]
        for part in ([m.weight for m in layers], [m.bias for m in layers], learner.feedback.values())
    )


THROUGH = {
    "fa": (sb.fa(), lambda W, B: B, {}),
    "usf": (sb.usf(), lambda W, B: np.sign(W) * B.flat[0], {}),
    "frsf": (sb.frsf(), lambda W, B: np.sign(W) * np.abs(B), {}),
    "kp": (sb.kp(decay=0.1), lambda W, B: B, {"learned": True, "decay": 0.1}),
}


@pytest.mark.parametrize("name", THROUGH)
def test_five_steps_in_numpy(attached, name):
    method, through, options = THROUGH[name]
    learner, x = attached(method, x=torch.randn(11, 6, dtype=torch.float64))
    W, b, B = numpy_of(learner)
    t = torch.randint(0, nets.C, (11,))
    opt = torch.optim.SGD(learner.parameters(), lr=0.3)
    parts = [torch.randperm(11)[:6] for _ in range(5)]
    for part in parts:
        opt.zero_grad()
        F.cross_entropy(learner.net(x[part]), t[part]).backward()
        opt.step()
    batches = [(x[part].numpy(), np.eye(nets.C)[t[part]]) for part in parts]
    oracles.train(W, b, B, batches, lr=0.3, through=through, **options)
    for found, expected in zip(numpy_of(learner), (W, b, B), strict=True):
        for f, e in zip(found, expected, strict=True):
            assert abs(f - e).max() < 1e-12


# ------------------------------------------------------------------------------------------------ random and signed


def test_random_feedback_has_the_distribution_of_the_weights(attached):
    make = lambda: nn.Sequential(nn.Conv2d(4, 60, 5, groups=2), nn.Flatten(), nn.Linear(60, 300))  # noqa: E731
    learner, _ = attached(sb.fa(), make, torch.randn(2, 4, 5, 5, dtype=torch.float64))
    for B, fan_in in zip(learner.feedback.values(), (50, 60), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert 0.95 * bound < B.abs().max() <= bound
        assert B.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["fa", "frsf", "kp"])
def test_the_seed_of_the_network_does_not_give_its_weights_as_feedback(name, seed):
    """Both draw from U(+-1/sqrt(fan_in)): one stream for both would silently be backprop."""
    make = lambda: nn.Sequential(*(nn.Linear(30, 30, bias=False) for _ in range(3)))  # noqa: E731
    torch.manual_seed(seed)
    net = make()
    learner = sb.attach(net, getattr(sb, name)(), torch.randn(2, 30), show=None, seed=seed)
    for key, B in learner.feedback.items():
        W = net.get_parameter(key)
        assert abs(F.cosine_similarity(W.flatten(), B.flatten(), dim=0)) < 0.15
        assert not torch.equal(W.abs(), B.abs())


def test_the_published_feedback_is_a_copy_of_the_initial_weights(attached, cross_entropy):
    learner, x = attached(sb.methods.page("fa").as_published())
    first = {name: p.detach().clone() for name, p in learner.net.named_parameters() if p.dim() == 2}
    opt = torch.optim.SGD(learner.parameters(), lr=1.0)
    cross_entropy(learner, x)
    opt.step()
    assert same(first, learner.feedback)


@pytest.mark.parametrize("name", SIGNED)
def test_what_the_error_passes_has_the_signs_of_the_weights_now(name):
    """Also after they changed."""
    transport = getattr(sb, name)().transport
    W = torch.randn(5, 4)
    B = transport.init(W, torch.Generator().manual_seed(0))
    for weight in (W, -W, W.roll(1, 0)):
        M = transport.weight(weight, B)
        assert torch.equal(M.sign(), weight.sign())
        assert torch.equal(M.abs(), B.abs())


def test_usf_has_the_size_of_the_initial_weights(attached):
    learner, _ = attached(sb.usf())
    for name, B in learner.feedback.items():
        W = learner.net.get_parameter(name)
        assert torch.equal(B, torch.full_like(B, B.flatten()[0].item()))
        assert torch.allclose(B.norm(), W.norm())
    published, _ = attached(sb.methods.page("usf").as_published())
    assert all((B == 1).all() for B in published.feedback.values())


@pytest.mark.parametrize("name", ["fa", "usf", "frsf"])
def test_fixed_feedback_does_not_change(attached, cross_entropy, name):
    learner, x = attached(getattr(sb, name)())
    before = {k: B.clone() for k, B in learner.feedback.items()}
    opt = torch.optim.SGD(learner.parameters(), lr=1.0)
    for _ in range(2):
        cross_entropy(learner, x)
        opt.step()
    assert same(before, learner.feedback)


def test_brsf_is_drawn_anew_for_every_training_batch(attached):
    learner, x = attached(sb.brsf())
    seen = [learner.feedback]
    for _ in range(3):
        learner(x)
        seen.append(learner.feedback)
    for k in range(3):
        assert all(not torch.equal(seen[k][name], seen[k + 1][name]) for name in seen[0])
    with torch.no_grad():
        learner(x)
        learner.eval()(x)
    with learner.exact():
        learner(x)
    assert same(seen[-1], learner.feedback)
    learner(x)  # eval mode with gradients trains, too
    assert all(not torch.equal(seen[-1][name], B) for name, B in learner.feedback.items())


def test_brsf_uses_the_draw_of_its_own_pass(attached, labels):
    """The second forward draws anew, and the first backward still has its own."""
    learner, x = attached(sb.brsf())
    apart = copy.deepcopy(learner)
    losses = [F.cross_entropy(learner(x * k), labels) for k in (1, 2)]
    sum(losses).backward()
    for k in (1, 2):
        F.cross_entropy(apart(x * k), labels).backward()
    for a, b in zip(learner.parameters(), apart.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=0, atol=1e-14)


def test_published_magnitudes():
    for name in ("frsf", "brsf"):
        transport = sb.methods.page(name).as_published().transport
        B = transport.init(torch.zeros(100, 100), torch.Generator().manual_seed(0)).abs()
        assert B.max() <= 1
        assert B.mean().item() == pytest.approx(0.5, abs=0.01)


# ------------------------------------------------------------------------------------------------- Kolen-Pollack


def distance(learner):
    return {name: (learner.net.get_parameter(name) - B).detach() for name, B in learner.feedback.items()}


@pytest.mark.parametrize("make", [nets.mlp, nets.conv, nets.Shared])
def test_the_decay_law(attached, cross_entropy, make):
    """W - B shrinks by (1 - eta lambda) at each step, whatever the data; shared weights and kernels too."""
    x = torch.randn(8, *((1, 8, 8) if make is nets.conv else (6,)), dtype=torch.float64)
    learner, _ = attached(sb.kp(decay=0.2), make, x)
    opt = torch.optim.SGD(learner.parameters(), lr=0.5)
    for _ in range(4):
        before = distance(learner)
        opt.zero_grad()
        cross_entropy(learner, torch.randn_like(x))
        opt.step()
        for name, D in distance(learner).items():
            assert torch.allclose(D, 0.9 * before[name], rtol=1e-10, atol=1e-14), name


def test_feedback_converges_to_the_weights(attached, cross_entropy):
    learner, x = attached(sb.kp(decay=0.05))
    opt = torch.optim.SGD(learner.parameters(), lr=0.5, momentum=0.5)
    losses = []
    for _ in range(300):
        opt.zero_grad()
        losses.append(cross_entropy(learner, x))
        opt.step()
    assert losses[-1] < losses[0]
    for name, D in distance(learner).items():
        assert D.norm() < 1e-4, name
        assert learner.net.get_parameter(name).norm() > 0.01


def test_biases_do_not_decay(attached):
    learner, x = attached(sb.kp(decay=1.0))
    (learner(x).sum() * 0).backward()
    for name, p in learner.net.named_parameters():
        assert torch.equal(p.grad, p.detach() if p.dim() == 2 else torch.zeros_like(p)), name
    for B in learner.feedback.values():
        assert torch.equal(B.grad, B.detach())


def test_decay_under_accumulation_and_two_passes(attached, labels):
    """Once for every backward pass; `scale` says that there are more of them."""
    learner, x = attached(sb.kp(decay=0.3))
    halves, two = copy.deepcopy(learner), copy.deepcopy(learner)
    F.cross_entropy(learner(x), labels).backward()
    for part in (slice(0, 4), slice(4, 8)):
        (F.cross_entropy(halves(x[part], scale=0.5), labels[part]) / 2).backward()
    sum(F.cross_entropy(two(x[p], scale=0.5), labels[p]) / 2 for p in (slice(0, 4), slice(4, 8))).backward()
    for a, *others in zip(*(one.parameters() for one in (learner, halves, two)), strict=True):
        assert all(torch.allclose(a.grad, b.grad, rtol=0, atol=1e-14) for b in others)


def test_kp_as_published_does_not_decay(attached, cross_entropy):
    learner, x = attached(sb.methods.page("kp").as_published())
    cross_entropy(learner, x)
    for name, B in learner.feedback.items():
        assert torch.equal(learner.net.get_parameter(name).grad, B.grad)


# -------------------------------------------------------------------------------------------------- weight mirror


def mirror_drift(W, B, **options):
    transport = sb.weight_mirror(**options).transport
    nothing, dB = transport.drift(W, B, torch.Generator().manual_seed(1))
    assert nothing is None
    return dB


@pytest.mark.parametrize("shape", [(5, 4), (6, 3, 2, 2)])
def test_the_expected_update_is_along_the_weights(shape):
    """E[dB] = decay B - noise^2 W."""
    W, B = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    dB = mirror_drift(W, B, noise=0.5, decay=0.7, samples=400_000)
    assert (dB - (0.7 * B - 0.25 * W)).norm() < 0.02 * W.norm()


def test_the_mirrors_gradient_in_numpy():
    """-(1/S) sum (W xi) xi^T + decay B, with the noise that the generator gives."""
    W, B = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    xi = 2.0 * torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double().numpy()
    expected = 0.5 * B.numpy() - sum(np.outer(W.numpy() @ v, v) for v in xi) / 3
    assert abs(mirror_drift(W, B, noise=2.0, decay=0.5, samples=3).numpy() - expected).max() < 1e-12


def test_feedback_mirrors_the_weights(attached, cross_entropy):
    learner, x = attached(sb.weight_mirror(samples=64))
    opt = torch.optim.SGD(learner.route.parameters(), lr=0.05)
    for _ in range(150):
        opt.zero_grad()
        cross_entropy(learner, x)
        opt.step()
    for name, B in learner.feedback.items():
        W = learner.net.get_parameter(name)
        assert F.cosine_similarity(W.flatten(), B.flatten(), dim=0) > 0.95, name


def test_the_mirror_reads_no_data_and_draws_anew(attached, cross_entropy):
    learner, x = attached(sb.weight_mirror())
    other = copy.deepcopy(learner)
    cross_entropy(learner, x)
    cross_entropy(other, -3 * x)
    first = [B.grad.clone() for B in learner.feedback.values()]
    assert all(torch.equal(a, B.grad) for a, B in zip(first, other.feedback.values(), strict=True))
    learner.zero_grad()
    cross_entropy(learner, x)
    assert not any(torch.equal(a, B.grad) for a, B in zip(first, learner.feedback.values(), strict=True))


def test_the_weights_get_no_noise(attached, cross_entropy):
    learner, x = attached(sb.weight_mirror())
    fixed, _ = attached(sb.fa(), x=x)
    for name, B in learner.feedback.items():
        fixed.feedback[name].copy_(B)
    cross_entropy(learner, x)
    cross_entropy(fixed, x)
    assert same(gradients(learner.net), gradients(fixed.net))
