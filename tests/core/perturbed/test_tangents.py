"""The forward-mode pass: its tangent is the hand-propagated one, and it leaves no trace."""

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, logits, made
from torch import nn

import skipback as sb
from skipback.forward.tangents import tangent_pass


class Drawn:
    """Noise from a seed, kept by block."""

    def __init__(self, seed=0):
        self.generator, self.by_block = torch.Generator().manual_seed(seed), {}

    def __call__(self, cut, flowing):
        u = torch.randn(flowing.shape, generator=self.generator, dtype=flowing.dtype)
        assert self.by_block.setdefault(cut.block, u) is u, "each port of these networks is met once"
        return u


def cut(net, x, **options):
    """A learner that knows the cuts of a network."""
    return sb.attach(net, sb.dfa(), x, show=None, **options)


def run(net, x):
    """A pass with noise at all cuts. Returns the tangent and the noise by block."""
    learner, noise = cut(net, x), Drawn()
    dy = tangent_pass(net, learner.layout, (x,), {}, noise)
    learner.detach()
    return dy, noise.by_block


# --------------------------------------------------------------------------------------------- propagated by hand


def test_an_mlp_by_hand():
    """d_1 = u_1;  d_2 = f'(z_2) W_2 d_1 + u_2;  dy = W_3 d_2."""
    net, (x, *_) = made(nets.mlp), batch()
    dy, u = run(net, x)
    h1 = torch.tanh(net[0](x))
    h2 = torch.tanh(net[2](h1))
    d2 = (1 - h2**2) * (u["0"] @ net[2].weight.T) + u["2"]
    assert torch.allclose(dy, d2 @ net[4].weight.T, rtol=0, atol=1e-14)


def test_a_conv_net_by_hand():
    """The port lies behind the pooling, so the noise has its shape."""
    net, (x, *_) = made(nets.conv), batch(nets.IMAGE)
    dy, u = run(net, x)
    assert u["0"].shape == (8, 4, 4, 4)
    z2 = net[3](net[:3](x))
    d2 = F.conv2d(u["0"], net[3].weight, groups=2) * (z2 > 0)
    assert torch.allclose(dy, (d2.flatten(1) + u["3"]) @ net[6].weight.T, rtol=0, atol=1e-14)


def test_parameters_by_hand():
    """d_k = f'(z_k) (W_k d_{k-1} + V_k h_{k-1} + c_k), with d_0 = 0."""
    net, (x, *_) = made(nets.mlp), batch()
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    dy = tangent_pass(net, None, (x,), {}, None, v)
    h, d = x, torch.zeros_like(x)
    for k in (0, 2, 4):
        d = d @ net[k].weight.T + h @ v[f"{k}.weight"].T + v[f"{k}.bias"]
        h = net[k](h)
        if k < 4:
            h = torch.tanh(h)
            d = (1 - h**2) * d
    assert torch.allclose(dy, d, rtol=0, atol=1e-14)


TOKENS = torch.randint(0, 11, (8, 6), generator=torch.Generator().manual_seed(2))
ALL = {name: (case.build, case.shape) for name, case in nets.CASES.items()} | {
    "resnet": (nets.ResNet, nets.IMAGE),
    "listed": (nets.Listed, nets.FLAT),
    "text": (nets.Text, None),
    "recurrent": (nets.Recurrent, None),
}


@pytest.mark.parametrize("name", ALL)
def test_it_is_the_derivative_that_reverse_mode_finds(name):
    """<e, dy> = sum_k <dL/dh_k, u_k>, with the dropout masks of the same random state."""
    build, shape = ALL[name]
    x, t, _ = batch(shape or nets.FLAT)
    x = TOKENS if shape is None else x
    net = made(build)
    learner, noise = cut(net, x), Drawn()
    torch.manual_seed(5)
    dy = tangent_pass(net, learner.layout, (x,), {}, noise)
    assert not dy.requires_grad
    torch.manual_seed(5)
    outputs, ports = learner.observe(x)
    y = logits(outputs.tree)
    loss = F.cross_entropy(y, t)
    e, *gradients = torch.autograd.grad(loss, [y, *ports.values()])
    expected = sum((g * noise.by_block[block]).sum() for block, g in zip(ports, gradients, strict=True))
    assert torch.allclose((e * dy).sum(), expected, rtol=1e-10, atol=0)
    assert abs(expected) > 1e-4


def rectified():
    return nn.Sequential(
        nn.Linear(6, 7), nn.LeakyReLU(0.25, inplace=True), nn.Linear(7, 7), nn.ReLU(inplace=True), nn.Linear(7, nets.C)
    )


def test_in_place_behind_a_cut():
    """The activation is written over the port's value and tangent; the noise itself must survive."""
    net, (x, *_) = made(rectified), batch()
    learner, noise = cut(net, x, blocks=["0", "2"]), Drawn()
    assert [c.copy for c in learner.layout.cuts] == [True, True]
    dy = tangent_pass(net, learner.layout, (x,), {}, noise)
    learner.detach()
    again = torch.Generator().manual_seed(0)
    u1, u2 = (torch.randn(8, 7, generator=again, dtype=x.dtype) for _ in range(2))
    assert torch.equal(noise.by_block["0"], u1)
    assert torch.equal(noise.by_block["2"], u2)
    z1 = net[0](x)
    z2 = net[2](F.leaky_relu(z1, 0.25))
    d2 = (torch.where(z1 > 0, 1.0, 0.25) * u1) @ net[2].weight.T + u2
    assert torch.allclose(dy, ((z2 > 0) * d2) @ net[4].weight.T, rtol=0, atol=1e-14)


def test_without_any_direction_the_tangent_is_zero():
    net, (x, *_) = made(nets.mlp), batch()
    assert torch.equal(tangent_pass(net, None, (x,), {}, None), torch.zeros(8, nets.C, dtype=x.dtype))


# -------------------------------------------------------------------------------------------------- leaves no trace


def test_buffers_random_state_and_gradients_are_left_alone():
    net = made(lambda: nn.Sequential(nets.batchnorm(), nn.Tanh(), nn.Dropout(0.5), nn.Linear(nets.C, 2)))
    x, *_ = batch()
    learner = cut(net, x)
    before = {name: (b, b.clone(), b._version) for name, b in net.named_buffers()}
    random = torch.get_rng_state()
    tangent_pass(net, learner.layout, (x,), {}, Drawn())
    assert torch.equal(random, torch.get_rng_state())
    for name, b in net.named_buffers():
        same, value, version = before[name]
        assert b is same
        assert torch.equal(b, value)
        assert b._version == version, "a graph may have saved it"
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.is_grad_enabled()


def test_a_network_that_writes_into_its_input():
    class Centred(nn.Sequential):
        def forward(self, x):
            x -= 1
            return super().forward(x)

    net = made(lambda: Centred(*nets.mlp()))
    x, *_ = batch()
    kept = x.clone()
    learner = sb.attach(net, sb.dfa(), x.clone(), show=None)
    tangent_pass(net, learner.layout, (x,), {}, Drawn())
    assert torch.equal(x, kept)


def test_the_hooks_are_gone_and_kernels_are_back():
    net = made(nets.Recurrent, dtype=torch.float32)  # in float32, oneDNN has a fused LSTM without a forward-mode rule
    run(net, TOKENS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.backends.mkldnn.enabled


def test_autocast_is_left_as_it_was():
    """Weights that were cast without a graph must not be handed to the training pass."""
    net, (x, t, _) = made(nets.mlp, dtype=torch.float32), batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        dy = tangent_pass(net, None, (x.bfloat16(),), {}, None, {"0.weight": torch.ones_like(net[0].weight)})
        loss = F.cross_entropy(net(x), t)
    loss.backward()
    assert dy.dtype == torch.float32
    assert all(p.grad is not None for p in net.parameters())


# ------------------------------------------------------------------------------------------- where it finds the port


class Masked(nn.Module):
    """Takes a constant and the activity, in this order."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(7, 7)

    def forward(self, mask, *, h):
        return torch.tanh(self.inner(h * mask))


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), Masked(), nn.Linear(7, nets.C)

    def forward(self, x):
        mask = torch.arange(7) % 2
        return self.c(self.b(mask.to(x), h=torch.tanh(self.a(x))))


def test_a_port_behind_other_inputs():
    """Without gradients nothing but the position tells which tensor the port is."""
    net, (x, *_) = made(ByName), batch()
    learner = cut(net, x)
    assert [(c.block, c.position) for c in learner.layout.cuts] == [("a", 1), ("b", 0)]
    learner.detach()
    dy, u = run(net, x)
    odd = (torch.arange(7) % 2).to(x)
    h2 = net.b(odd, h=torch.tanh(net.a(x)))
    d2 = (1 - h2**2) * ((u["a"] * odd) @ net.b.inner.weight.T) + u["b"]
    assert torch.allclose(dy, d2 @ net.c.weight.T, rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------------ what it refuses


class Distances(nn.Module):
    def forward(self, x):
        return torch.cdist(x, x[:4])


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Custom(nn.Module):
    def forward(self, x):
        return Doubled.apply(x)


@pytest.mark.parametrize(("module", "operation"), [(Distances, "_cdist_forward"), (Custom, "an operation")])
@pytest.mark.parametrize("method", [sb.fg_w, sb.fg_a])
def test_an_operation_without_forward_mode_is_named(method, module, operation):
    net = made(lambda: nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 4), nn.Sequential(module()), nn.Linear(4, 3)))
    x, *_ = batch()
    learner = sb.attach(net, method(), x, show=None)
    with pytest.raises(NotImplementedError, match=rf"{operation}.* in module '2.0' has no forward-mode .*dfa\(\)"):
        learner(x)
    assert torch.is_grad_enabled()
    with learner.exact():
        assert learner(x).requires_grad


def test_an_error_of_the_network_itself_passes_through():
    net, (x, *_) = made(nets.mlp), batch()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        tangent_pass(net, None, (x[:, :3],), {}, None)
