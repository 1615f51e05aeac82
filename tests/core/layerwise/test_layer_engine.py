"""The route itself: what it refuses, what it leaves behind, and what it does not compute."""

import copy
import io

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import difference, gradients, made, same
from torch import nn
from torch.nn.utils import parametrizations
from torch.overrides import _get_current_function_mode_stack as modes
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import skipback as sb

METHODS = ["fa", "usf", "frsf", "brsf", "kp", "weight_mirror"]


@pytest.fixture(autouse=True)
def _no_mode_is_left_on():
    yield
    assert modes() == []


# ------------------------------------------------------------------------------------------------------ refusals


class Uses(nn.Module):
    """A linear layer, then something else with a weight of its own."""

    def __init__(self, use):
        super().__init__()
        self.first, self.weight, self.use = nn.Linear(6, 5), nn.Parameter(torch.randn(5, 5)), use

    def forward(self, x):
        return self.use(torch.tanh(self.first(x)), self.weight)


REFUSED = {
    "matmul": lambda h, W: h @ W,
    "matmul, transposed": lambda h, W: torch.matmul(h, W.t()),
    "matmul, from the left": lambda h, W: (W @ h.T).T,
    "matmul, masked": lambda h, W: h @ (W * torch.eye(5, dtype=W.dtype)),
    "mm": lambda h, W: torch.mm(h, W),
    "mv": lambda h, W: torch.mv(W, h[0]),
    "bmm": lambda h, W: torch.bmm(h[None], W[None]),
    "einsum": lambda h, W: torch.einsum("ni,oi->no", h, W),
    "addmm": lambda h, W: torch.addmm(h, h, W),
    "tensordot": lambda h, W: torch.tensordot(h, W, dims=1),
    "scaled_dot_product_attention": lambda h, W: F.scaled_dot_product_attention(W, h, h),
    "conv_transpose1d": lambda h, W: F.conv_transpose1d(h[:, :, None], W[:, :, None]),
}


@pytest.mark.parametrize("use", REFUSED)
def test_a_weight_in_another_product_is_refused(use):
    with pytest.raises(RuntimeError, match=rf"^parameter 'weight' takes part in torch\.{use.split(',')[0]}, and .*dfa"):
        sb.attach(Uses(REFUSED[use]), sb.fa(), torch.randn(3, 6), show=None)


MODULES = {
    "lstm": (lambda: nn.LSTM(6, 5), "weight_ih_l0", "nn.Linear"),
    "gru": (lambda: nn.GRU(6, 5), "weight_ih_l0", "nn.Linear"),
    "rnn_tanh": (lambda: nn.RNN(6, 5), "weight_ih_l0", "nn.Linear"),
    "lstm_cell": (lambda: nn.LSTMCell(6, 5), "weight_ih", "nn.Linear"),
    "gru_cell": (lambda: nn.GRUCell(6, 5), "weight_ih", "nn.Linear"),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 2, 1), "weight", "Upsample"),
}


@pytest.mark.parametrize("function", MODULES)
def test_a_module_with_its_own_kernel_is_refused(function):
    make, weight, fix = MODULES[function]
    with pytest.raises(RuntimeError, match=rf"parameter '{weight}' takes part in torch\.{function}, .*{fix}"):
        sb.attach(make(), sb.fa(), torch.randn(3, 6), show=None)


def test_a_computed_weight_is_refused():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), parametrizations.weight_norm(nn.Linear(5, 3)))
    with pytest.raises(
        RuntimeError, match=r"torch\.linear got a weight \(3, 5\).*computed from '2.*original0'.*remove"
    ):
        sb.attach(net, sb.fa(), torch.randn(3, 6), show=None)


def test_a_bilinear_layer_is_refused():
    net = nets.Wrapper(nn.Bilinear(6, 6, 3))
    net.forward = lambda x: net.model(x, x)
    with pytest.raises(RuntimeError, match=r"'model.weight' takes part in torch\.bilinear"):
        sb.attach(net, sb.fa(), torch.randn(3, 6), show=None)


def test_a_refusal_at_a_later_pass_takes_the_watch_off(attached):
    learner, x = attached(sb.fa(), lambda: Uses(lambda h, W: F.linear(h, W)))
    learner.net.use = lambda h, W: h @ W
    with pytest.raises(RuntimeError, match="'weight' takes part"):
        learner(x)
    assert modes() == []


def test_products_of_activities_and_fixed_maps_are_free(attached, as_backprop):
    """A weight without a gradient that is no parameter is a fixed function, and passed exactly."""
    fixed = torch.randn(5, 5, dtype=torch.float64)
    use = lambda h, W: F.linear(F.linear(h, W) @ fixed @ (h.T @ h), fixed)  # noqa: E731
    assert as_backprop(lambda: Uses(use), torch.randn(3, 6, dtype=torch.float64)) < 1e-10
    learner, _ = attached(sb.fa(), lambda: Uses(use))
    assert list(learner.feedback) == ["first.weight", "weight"]


def test_a_weight_that_discovery_did_not_meet(attached):
    learner, x = attached(sb.fa(), lambda: Uses(lambda h, W: h))
    learner.net.use = F.linear
    with pytest.raises(RuntimeError, match=r"parameter 'weight' has no feedback: .*same path"):
        learner(x)


@pytest.mark.parametrize("name", ["kp", "weight_mirror"])
def test_learned_feedback_needs_an_example(name):
    with pytest.raises(ValueError, match="pass example=x"):
        sb.attach(nets.mlp(), getattr(sb, name)(), show=None)


def test_compiling_is_refused(attached):
    learner, x = attached(sb.fa())
    torch._dynamo.reset()
    with pytest.raises(Exception, match="layerwise method watches torch's functions"):
        torch.compile(learner.net, fullgraph=True, backend="eager")(x)
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------- inside, and outside


def test_a_part_of_the_network_called_alone_is_refused(attached):
    """Silently it would be backprop."""
    learner, x = attached(sb.fa())
    with pytest.raises(RuntimeError, match="'0' ran outside of a call of the network"):
        learner.net[0](x)
    with torch.no_grad():
        learner.net[0](x)
    with learner.exact():
        learner.net[0](x)
    learner.detach()
    learner.net[0](x)


def test_the_forward_of_the_network_is_a_call_of_it(attached, cross_entropy):
    """It was refused when hooks on the network opened a pass, which a call of forward goes round."""
    learner, x = attached(sb.fa())
    cross_entropy(learner, x)
    expected = gradients(learner.net)
    learner.zero_grad()
    cross_entropy(learner.net.forward, x)
    assert same(expected, gradients(learner.net))


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, nets.C), lambda: Uses(lambda h, W: F.linear(h, W))])
def test_detach_takes_the_method_off_a_network_with_weights_of_its_own(attached, taught, make):
    learner, x = attached(sb.fa(), make)
    taught(learner.net, x)
    assert learner.attached
    net = learner.detach()
    assert not learner.attached
    assert "forward" not in vars(net)
    assert same(taught(net, x), taught(made(make), x))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.body, self.out = nn.Linear(6, 7), nn.Sequential(nn.Linear(7, 7), nn.Tanh()), nn.Linear(7, 5)
        self.attention, self.reentrant = nn.MultiheadAttention(7, 1), reentrant

    def hidden(self, h):
        h = self.body(h)[None]
        return self.attention(h, h, h)[0][0]

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        return self.out(self.hidden(h) if self.reentrant is None else self._again(h))

    def _again(self, h):
        return checkpoint(self.hidden, h, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["fa", "usf", "kp"])
def test_activation_checkpointing(attached, taught, name, reentrant):
    """What runs again in backward is met there too."""
    plain, x = attached(getattr(sb, name)(), lambda: Checkpointed(None))
    again, _ = attached(getattr(sb, name)(), lambda: Checkpointed(False), x)
    again.net.reentrant = reentrant
    assert difference(taught(plain.net, x), taught(again.net, x)) < 1e-12
    assert modes() == []


def test_the_watch_is_off_after_an_error_and_an_interruption(attached, taught):
    learner, x = attached(sb.fa())
    expected = taught(learner.net, x)
    for error in (ValueError, KeyboardInterrupt):

        def stop(*_, error=error):
            raise error

        handle = learner.net[2].register_forward_pre_hook(stop)
        with pytest.raises(error):
            learner(x)
        handle.remove()
        with learner.exact():
            exact = taught(learner.net, x)
        assert modes() == []
        assert same(exact, taught(made(nets.mlp), x))
        assert same(expected, taught(learner.net, x))


def test_a_users_own_mode_stays_on(attached, taught):
    learner, x = attached(sb.fa())
    expected = taught(learner.net, x)
    with torch.device("cpu"):
        assert len(modes()) == 1
        assert same(expected, taught(learner.net, x))
        assert len(modes()) == 1


def test_other_networks_are_free_meanwhile(attached, taught):
    """A frozen network that runs inside of this one, and one that runs between forward and backward."""
    other = nn.Linear(6, 6).double().requires_grad_(False)
    learner, x = attached(sb.fa(), lambda: Uses(lambda h, W: F.linear(h, W)))
    y = learner(x)
    assert taught(made(nets.mlp), x)["0.weight"].any()
    y.sum().backward()
    learner.net.use = lambda h, W: F.linear(h, W) + other(h.new_ones(1, 6))[:, :5]
    taught(learner.net, x)
    assert list(learner.feedback) == ["first.weight", "weight"]


# ---------------------------------------------------------------------------------------------------- what is paid


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", METHODS)
def test_the_first_layers_input_gradient_is_not_computed(attached, name):
    """Three products for each layer, but two for the first; the mirror's noise costs two more each."""
    sizes, n = [(6, 7), (7, 5), (5, nets.C)], 8
    learner, x = attached(getattr(sb, name)())
    extra = 2 * 128 * 2 if name == "weight_mirror" else 0
    expected = sum((2 * n * 3 + extra) * i * o for i, o in sizes) - 2 * n * 6 * 7
    assert flops(lambda: learner(x).sum().backward()) == expected
    x.requires_grad_()
    with pytest.warns(sb.SkipbackWarning, match="an input of the network requires grad"):
        assert flops(lambda: learner(x).sum().backward()) == expected + 2 * n * 6 * 7
    learner(x)  # warns once


def test_a_frozen_weights_gradient_is_not_computed(attached):
    learner, x = attached(sb.fa())
    full = flops(lambda: learner(x).sum().backward())
    learner.net[2].weight.requires_grad_(False)
    assert flops(lambda: learner(x).sum().backward()) == full - 2 * 8 * 7 * 5
    assert learner.net[0].weight.grad.any()  # the error passes on


# ------------------------------------------------------------------------------------------------------ the state


@pytest.mark.parametrize("name", METHODS)
def test_the_state(attached, name):
    learner, _ = attached(getattr(sb, name)())
    own = {"route.feedback_0", "route.feedback_1", "route.feedback_2"}
    own |= {"route.stream.position"} if name in ("brsf", "weight_mirror") else set()
    assert set(learner.state_dict()) == {f"net.{key}" for key in learner.net.state_dict()} | own
    learned = {key for key, _ in learner.named_parameters() if not key.startswith("net.")}
    assert learned == ({k for k in own if "feedback" in k} if name in ("kp", "weight_mirror") else set())
    for key, B in learner.feedback.items():
        assert B.shape == learner.net.get_parameter(key).shape


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_continues_to_the_bit(attached, cross_entropy, name):
    def step(learner):
        opt = torch.optim.SGD(learner.parameters(), lr=0.1)
        cross_entropy(learner, x)
        opt.step()
        opt.zero_grad()

    learner, x = attached(getattr(sb, name)())
    step(learner)
    saved = io.BytesIO()
    torch.save(learner.state_dict(), saved)
    saved.seek(0)
    other, _ = attached(getattr(sb, name)(), x=x, seed=7)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for one in (learner, other):
        step(one)
        step(one)
    assert same(learner.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_the_global_random_state_is_left_alone(attached, cross_entropy, name):
    state = torch.get_rng_state()
    net, x = made(nets.mlp), torch.zeros(8, 6, dtype=torch.float64)
    torch.set_rng_state(state)
    learner = sb.attach(net, getattr(sb, name)(), x, show=None)
    cross_entropy(learner, x)
    assert torch.equal(state, torch.get_rng_state())


def test_another_seed_draws_other_feedback(attached):
    one, x = attached(sb.fa())
    two, _ = attached(sb.fa(), x=x, seed=1)
    assert all(not torch.equal(B, two.feedback[name]) for name, B in one.feedback.items())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", ["learner", "net"])
def test_the_feedback_follows_a_conversion(attached, cross_entropy, name, which):
    learner, x = attached(getattr(sb, name)())
    (learner if which == "learner" else learner.net).float()
    cross_entropy(learner, x.float())
    assert all(B.dtype == torch.float32 for B in learner.feedback.values())
    assert all(p.grad.dtype == torch.float32 for p in learner.net.parameters())


def test_a_copy_of_the_network_has_its_own_feedback(attached, taught):
    learner, x = attached(sb.fa())
    taught(learner.net, x)
    net = copy.deepcopy(learner.net)
    before = taught(net, x)
    for B in learner.feedback.values():
        B.zero_()
    assert same(before, taught(net, x))
    assert not same(before, taught(learner.net, x))


def test_a_network_whose_parameters_were_exchanged(attached, taught):
    learner, x = attached(sb.fa())
    before = taught(learner.net, x)
    learner.net.load_state_dict(copy.deepcopy(learner.net.state_dict()), assign=True)
    assert same(before, taught(learner.net, x))


@pytest.mark.parametrize("name", METHODS)
def test_any_optimizer_steps_learned_feedback(attached, cross_entropy, name):
    learner, x = attached(getattr(sb, name)())
    before = {key: B.detach().clone() for key, B in learner.feedback.items()}
    opt = torch.optim.AdamW(learner.parameters())
    first = cross_entropy(learner, x)
    for _ in range(30):
        opt.step()
        opt.zero_grad()
        last = cross_entropy(learner, x)
    assert last < first
    changed = {key for key, B in learner.feedback.items() if not torch.equal(B, before[key])}
    assert changed == (set() if name in ("fa", "usf", "frsf") else set(before))


@pytest.mark.parametrize("name", METHODS)
def test_autocast_is_near_to_full_precision(attached, name):
    """Gradients in float32, for attention too, though the error arrives in bfloat16."""
    x = torch.arange(48).reshape(8, 6) % 11
    learner, _ = attached(getattr(sb, name)(), nets.Text, x, dtype=torch.float32)
    low, t = copy.deepcopy(learner), torch.arange(8) % nets.C
    F.cross_entropy(learner(x), t).backward()
    with torch.autocast("cpu", torch.bfloat16):
        y = low(x)
        loss = F.cross_entropy(y, t)
    loss.backward()
    assert y.dtype == torch.bfloat16
    a, b = ({key: p.grad for key, p in one.named_parameters()} for one in (learner, low))
    assert all(g.dtype == torch.float32 for g in b.values())
    for key in a:
        if "self_attn.in_proj_bias" not in key:  # a key's bias cancels in the softmax: rounding only
            assert F.cosine_similarity(a[key].flatten(), b[key].flatten(), dim=0) > 0.99, key


@pytest.mark.parametrize("name", METHODS)
def test_a_summary_and_the_weights_of_a_table(attached, name):
    learner, _ = attached(getattr(sb, name)())
    assert "for each weight" in learner.summary()
    assert learner.frozen == []


def test_second_derivatives_are_refused(attached):
    learner, x = attached(sb.fa())
    (g,) = torch.autograd.grad(learner(x).sum(), learner.net[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_gradients_add_up(attached, cross_entropy):
    learner, x = attached(sb.fa())
    cross_entropy(learner, x)
    once = gradients(learner.net)
    cross_entropy(learner, x)
    assert same({k: 2 * g for k, g in once.items()}, gradients(learner.net))
