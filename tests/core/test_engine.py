"""The engine: what is computed and what is not, in-place operations, copies of the graph, and its refusals."""

import copy
import itertools
import warnings

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import C, Recall, batch, difference, gradients, logits, made, same, teach
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import skipback as sb
from skipback.core.method import Direct
from skipback.signals import OutputError


def attached(method, build=nets.mlp, *, shape=nets.FLAT, blocks="auto", dtype=torch.float64):
    x, t, ids = batch(shape, dtype=dtype)
    return sb.attach(made(build, dtype=dtype), method, x, blocks, show=None), x, t, ids


# --------------------------------------------------------------------------------------------- what is not computed

N, SIZES = 20, (784, 500, 500, 10)


def wide():
    layers = []
    for i, o in itertools.pairwise(SIZES):
        layers += [nn.Linear(i, o), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def wide_step(method):
    x, t = torch.randn(N, 784), torch.arange(N) % 10
    learner = sb.attach(made(wide, dtype=torch.float32), method, x, show=None)
    return lambda: F.cross_entropy(learner(x, target=t, ids=torch.arange(N)), t).backward()


def flops(*products):
    """2 a b c for a product of (a, b) with (b, c)."""
    return sum(2 * a * b * c for a, b, c in products)


FORWARD = flops(*((N, i, o) for i, o in itertools.pairwise(SIZES)))
WEIGHTS = FORWARD  # (o, N) x (N, i)
HEAD_WEIGHT = flops((10, N, 500))
INPUTS = flops((N, 10, 500), (N, 500, 500))  # of backprop, for all but the first layer
FEEDBACK = flops((N, 10, 500), (N, 10, 500))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (sb.bp(), FORWARD + WEIGHTS + INPUTS),
        (sb.shallow(), FORWARD + HEAD_WEIGHT),
        (sb.dfa(), FORWARD + WEIGHTS + FEEDBACK),
        (sb.sdfa(), FORWARD + WEIGHTS + FEEDBACK),
        (sb.drtp(), FORWARD + WEIGHTS + FEEDBACK),
    ],
)
def test_flops_of_a_step_are_exactly_these(method, expected):
    """No block computes the gradient of its input: three products become two, and not even the head's is needed."""
    step = wide_step(method)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == expected


class Products(TorchDispatchMode):
    """Shapes (a, b, c) of all matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            a, b = args[-2:]
            self.shapes.append((*a.shape, b.shape[1]))
        return func(*args, **kwargs or {})


def test_the_products_of_a_step_one_by_one():
    def of(method):
        step = wide_step(method)
        with Products() as products:
            step()
        return sorted(products.shapes)

    forward = [(N, 784, 500), (N, 500, 500), (N, 500, 10)]
    weights = [(500, N, 784), (500, N, 500), (10, N, 500)]
    assert of(sb.dfa()) == sorted(forward + weights + [(N, 10, 500)] * 2)
    assert of(sb.bp()) == sorted([*forward, *weights, (N, 10, 500), (N, 500, 500)])


def test_f3_costs_what_dfa_costs():
    """But for the fingerprints of its first visits, two products with a vector."""
    step = wide_step(sb.f3(memory=N))
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == FORWARD + WEIGHTS + FEEDBACK


def test_what_flows_on_does_not_require_grad():
    seen = []
    learner, x, _t, _ids = attached(sb.dfa())
    for layer in (learner.net[2], learner.net[4]):
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].requires_grad))
    learner(x)
    assert seen == [False, False]


# --------------------------------------------------------------------------------------------- in-place operations


def in_place(module):
    """The same network with in-place activations."""
    return nn.Sequential(nn.Linear(6, 7), module(), nn.Linear(7, 5), module(), nn.Linear(5, C))


class Functional(nn.Module):
    """Activations are functions, in place or not."""

    def __init__(self, f) -> None:
        super().__init__()
        self.a, self.b, self.out, self.f = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, C), f

    def forward(self, x):
        return self.out(self.f(self.b(self.f(self.a(x)))))


class TanhBlock(nn.Sequential):
    """Autograd needs this block's own output, so a write into it would ruin its gradient."""

    def __init__(self, i, o) -> None:
        super().__init__(nn.Linear(i, o), nn.Tanh())


def after_tanh(in_place):
    return nn.Sequential(
        TanhBlock(6, 7), nn.LeakyReLU(0.1, in_place), TanhBlock(7, 5), nn.LeakyReLU(0.1, in_place), nn.Linear(5, C)
    )


TWINS = {
    "auto, module": (lambda p: in_place(lambda: nn.LeakyReLU(0.1, inplace=p)), "auto"),
    "auto, function": (lambda p: Functional(F.relu_ if p else F.relu), "auto"),
    "named, module": (lambda p: in_place(lambda: nn.LeakyReLU(0.1, inplace=p)), ["0", "2"]),
    "named, function": (lambda p: Functional(F.relu_ if p else F.relu), ["a", "b"]),
    "named, needs its output": (after_tanh, ["0", "2"]),
    "named, through a view": (lambda p: Functional(lambda h: flat_relu(h, p)), ["a", "b"]),
    "named, arithmetic": (lambda p: Functional(lambda h: h.mul_(2) if p else h * 2), ["a", "b"]),
}


def flat_relu(h, in_place):
    flat = h.view(-1)
    if in_place:
        flat.relu_()
        return h
    return flat.relu().view(h.shape)


@pytest.mark.parametrize("name", TWINS)
def test_in_place_after_a_cut_does_not_reach_the_port(name, direct):
    """Forward, gradients and the measure, against the twin that copies.

    Plain backprop, which the measure needs, is impossible where a block needs the output that is written into.
    """
    build, blocks = TWINS[name]
    results = []
    for place in (False, True):
        learner, x, t, ids = attached(direct, lambda place=place: build(place), blocks=blocks)
        y = teach(learner, x, t, ids)
        measured = None if "needs" in name else sb.alignment(learner, x, t, F.cross_entropy, ids=ids)
        results.append(({"output": y, **gradients(learner.net)}, measured))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_in_place_is_copied_only_where_needed():
    copies = {}
    for place in (False, True):
        learner, *_ = attached(sb.dfa(), lambda place=place: after_tanh(place), blocks=["0", "2"])
        copies[place] = [cut.copy for cut in learner.layout.cuts]
    assert copies == {False: [False, False], True: [True, True]}
    learner, *_ = attached(sb.dfa(), lambda: in_place(lambda: nn.ReLU(inplace=True)))
    assert [cut.copy for cut in learner.layout.cuts] == [False, False]


def test_an_in_place_write_that_discovery_did_not_meet_is_refused():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out, self.rude = TanhBlock(6, 7), nn.Linear(7, C), False

        def forward(self, x):
            h = self.a(x)
            return self.out(F.relu_(h) if self.rude else F.relu(h))

    learner, x, _t, _ids = attached(sb.dfa(), Moody, blocks=["a"])
    learner.net.rude = True
    with pytest.raises(RuntimeError, match="output of block 'a' was changed in place after the cut"):
        learner(x)


def test_the_output_may_be_written_in_place(direct):
    """As that of the plain network: temperature, masks."""
    learner, x, t, ids = attached(direct)
    other = copy.deepcopy(learner)
    F.cross_entropy(learner(x, target=t, ids=ids, scale=0.5) / 2, t).backward()
    y = other(x, target=t, ids=ids, scale=0.5)
    y /= 2
    F.cross_entropy(y, t).backward()
    assert same(gradients(learner.net), gradients(other.net))


# ---------------------------------------------------------------------------------------------- copies of the graph


@pytest.mark.parametrize("blocks", ["auto", ["a", "b"]])
def test_activation_checkpointing_of_blocks(blocks, direct):
    """They run again in backward; where the cut stands before an in-place activation, that too."""
    in_place, results = blocks != "auto", []
    for again in (False, True):
        learner, x, t, ids = attached(direct, lambda again=again: nets.Checkpointed(again, in_place), blocks=blocks)
        for _ in range(2):
            learner.zero_grad()
            y = teach(learner, x, t, ids)
        results.append({"output": y, **gradients(learner.net)})
    assert same(*results)


@pytest.mark.parametrize("name", ["bp", "shallow", "dfa", "sdfa", "drtp"])
def test_activation_checkpointing_of_the_whole_network(name):
    learner, x, t, ids = attached(getattr(sb, name)())
    other = copy.deepcopy(learner)
    teach(learner, x, t, ids)
    y = checkpoint(lambda x: other(x, target=t), x, use_reentrant=False)
    F.cross_entropy(y, t).backward()
    assert same(gradients(learner.net), gradients(other.net))


def test_a_delayed_signal_refuses_activation_checkpointing_of_the_whole_network():
    """The second run would read the rows that the first has written."""
    learner, x, t, ids = attached(sb.f3(memory=8))
    y = checkpoint(lambda x: learner(x, target=t, ids=ids), x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="checkpoint parts of the network"):
        F.cross_entropy(y, t).backward()


def test_two_backward_calls_teach_what_one_on_the_sum_teaches(direct):
    """An early signal once, a sign of the whole error; the entropy adds what its error adds."""
    learner, x, t, ids = attached(direct)
    other = copy.deepcopy(learner)

    def losses(one):
        y = one(x, target=t, ids=ids)
        return F.cross_entropy(y, t), -0.01 * torch.distributions.Categorical(logits=y).entropy().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sb.SkipbackWarning)
        first, second = losses(learner)
        first.backward(retain_graph=True)
        second.backward()
        sum(losses(other)).backward()
    wanted, found = gradients(other), gradients(learner)
    assert wanted.keys() == found.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-12, msg=name)


def test_gradients_by_autograd_grad(direct):
    learner, x, t, ids = attached(direct)
    other = copy.deepcopy(learner)
    found = torch.autograd.grad(F.cross_entropy(learner(x, target=t, ids=ids), t), list(learner.net.parameters()))
    teach(other, x, t, ids)
    assert all(torch.equal(a, p.grad) for a, p in zip(found, other.net.parameters(), strict=True))
    assert all(p.grad is None for p in learner.net.parameters())


def test_loss_scaling_as_a_grad_scaler_does(direct):
    """Scaled loss, scaled early signals, unscaled gradients: nothing has changed."""
    learner, x, t, ids = attached(direct)
    other = copy.deepcopy(learner)
    teach(learner, x, t, ids)
    teach(other, x, t, ids, weight=2.0**16, scale=2.0**16)
    assert same({k: 2.0**16 * g for k, g in gradients(learner.net).items()}, gradients(other.net))


# ------------------------------------------------------------------------------------------------- moved and recast


def test_a_network_moved_without_its_learner_takes_the_feedback_along():
    learner, x, _t, _ids = attached(sb.dfa())
    learner.net.to("meta")
    assert learner.feedback["0"].device.type == "cpu"
    learner.net(x.to("meta")).sum().backward()
    assert all(B.device.type == "meta" for B in learner.feedback.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_feedback_has_the_dtype_of_the_network(direct, dtype):
    learner, x, t, ids = attached(direct, dtype=dtype)
    assert all(B.dtype == dtype for B in learner.feedback.values())
    teach(learner, x, t, ids)
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in learner.net.parameters())


def test_a_network_recast_without_its_learner(direct):
    learner, x, t, ids = attached(direct, dtype=torch.float32)
    learner.net.double()
    teach(learner, x.double(), t, ids)
    assert all(p.grad.dtype == torch.float64 for p in learner.net.parameters())


def test_to_moves_and_casts_feedback_with_the_learner():
    learner, *_ = attached(sb.dfa())
    learner.to(torch.float32)
    assert {B.dtype for B in learner.feedback.values()} == {torch.float32}


# -------------------------------------------------------------------------------------------------- what it refuses


def test_attaching_twice():
    learner, x, *_ = attached(sb.dfa())
    for method in (sb.dfa(), sb.bp()):
        with pytest.raises(ValueError, match=r"already has a method attached.*detach"):
            sb.attach(learner.net, method, x, show=None)
    learner.detach()
    sb.attach(learner.net, sb.drtp(), x, show=None)


@pytest.mark.parametrize(
    ("method", "wrong", "net"),
    [
        (sb.dfa, {"blocks": ["typo"], "example": torch.zeros(2, 6)}, nets.mlp),
        (sb.dfa, {"example": torch.zeros(2, 3)}, nets.mlp),
        (sb.fdfa, {}, nets.mlp),
        (sb.fa, {"example": torch.zeros(2, 6)}, lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)))),
    ],
)
def test_what_could_not_be_attached_is_plain_again(method, wrong, net):
    """The caller has no learner to detach: in a notebook, a typo would have cost the network."""
    net = made(net, dtype=torch.float32)
    with pytest.raises((ValueError, RuntimeError)):
        sb.attach(net, method(), show=None, **wrong)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    sb.attach(net, sb.dfa(), example=torch.zeros(2, 6), show=None).detach()


def test_other_hooks_of_the_user_are_no_reason_to_refuse():
    net, calls = made(nets.mlp), []
    net.register_forward_pre_hook(lambda module, args: calls.append(1))
    sb.attach(net, sb.dfa(), batch()[0], show=None)
    net(batch()[0])
    assert len(calls) == 2  # discovery, and this one


@pytest.mark.parametrize("training", [True, False])
def test_a_part_of_the_network_is_refused_and_forward_is_a_pass(direct, training):
    learner, x, t, ids = attached(direct)
    learner.train(training)
    with pytest.raises(RuntimeError, match=r"'2' ran outside of a call of the network.*learner\.exact"):
        learner.net[:3](x)
    with torch.no_grad():
        learner.net[:3](x)
    with learner.exact():
        learner.net[:3](x)
    other = copy.deepcopy(learner)
    teach(other, x, t, ids)
    with learner.given(target=t, ids=ids):
        F.cross_entropy(learner.net.forward(x), t).backward()
    assert same(gradients(learner.net), gradients(other.net))


def test_a_part_of_the_network_is_refused_for_named_blocks_too():
    learner, x, _t, _ids = attached(sb.dfa(), blocks=["0", "2"])
    with pytest.raises(RuntimeError, match="'0' ran outside of a call of the network"):
        learner.net[0](x)
    learner(x)
    with pytest.raises(RuntimeError, match="'0' ran outside of a call of the network"):
        learner.net[0](x)


@pytest.mark.parametrize("name", ["drtp", "f3", "dfa-published", "sdfa-published"])
def test_a_missing_target(name):
    page = sb.methods.page(name.split("-")[0])
    method = page.as_published() if "-" in name else getattr(page, name)(**({"memory": 8} if name == "f3" else {}))
    learner, x, _t, _ids = attached(method)
    asked = r"learner\(x, target=t, ids=ids\)" if name == "f3" else r"learner\(x, target=t\)"
    with pytest.raises(ValueError, match=asked + r".*learner\.given"):
        learner(x)
    with pytest.raises(ValueError, match=asked):
        learner.net(x)
    assert not any(p.grad is not None for p in learner.net.parameters())


@pytest.mark.parametrize("given", ["target", "ids"])
def test_f3_needs_both_target_and_ids(given):
    learner, x, t, ids = attached(sb.f3(memory=8))
    with pytest.raises(ValueError, match="target=t, ids=ids"):
        learner(x, **{given: {"target": t, "ids": ids}[given]})


def test_given_reaches_a_network_that_is_called_by_something_else():
    learner, x, t, ids = attached(sb.f3(memory=8))
    other = copy.deepcopy(learner)
    for _ in range(2):
        learner.zero_grad()
        other.zero_grad()
        teach(learner, x, t, ids, weight=0.5, scale=0.5)
        with other.given(target=t, ids=ids, scale=0.5):
            y = other.net(x)
        (0.5 * F.cross_entropy(y, t)).backward()
    assert same(gradients(learner.net), gradients(other.net))
    with pytest.raises(ValueError, match="target=t, ids=ids"):
        other.net(x)  # what was given does not outlive the block


def test_what_was_given_to_one_call_is_forgotten():
    learner, x, t, ids = attached(sb.f3(memory=8))
    learner(x, target=t, ids=ids)
    with pytest.raises(ValueError, match="target=t, ids=ids"):
        learner.net(x)


def test_given_is_forgotten_when_the_forward_fails():
    learner, x, t, _ids = attached(sb.drtp())
    with pytest.raises(RuntimeError, match="shapes"):
        learner(x[:, :3], target=t)
    with pytest.raises(ValueError, match="target=t"):
        learner(x)
    with pytest.raises(RuntimeError, match="shapes"), learner.given(target=t):
        learner.net(x[:, :3])
    with pytest.raises(ValueError, match="target=t"):
        learner(x)


def test_training_in_eval_mode_without_a_target_is_refused_in_backward(early):
    learner, x, t, _ids = attached(early)
    learner.eval()
    y = learner(x)
    with pytest.raises(RuntimeError, match="in eval mode and got no target"):
        F.cross_entropy(y, t).backward()


@pytest.mark.parametrize("frozen", ["4", "0"])
def test_refusal_in_eval_mode_with_a_frozen_block(frozen):
    learner, x, t, _ids = attached(sb.drtp())
    learner.net.get_submodule(frozen).requires_grad_(False)
    learner.eval()
    y = learner(x)
    with pytest.raises(RuntimeError, match="in eval mode and got no target"):
        F.cross_entropy(y, t).backward()


def test_training_in_eval_mode_with_a_target_teaches_and_writes():
    """Frozen batch norm is trained so; errors that stayed as they were at the start would be another signal."""
    learner, x, t, ids = attached(sb.f3(memory=8))
    trained = copy.deepcopy(learner)
    learner.eval()
    teach(learner, x, t, ids)
    teach(trained, x, t, ids)
    assert same(gradients(learner.net), gradients(trained.net))
    assert torch.equal(learner.memory.rows, trained.memory.rows)
    assert learner.memory.seen.all()


def test_late_methods_train_in_eval_mode():
    learner, x, t, _ids = attached(sb.dfa())
    trained = copy.deepcopy(learner)
    learner.eval()
    for one in (learner, trained):
        F.cross_entropy(one(x), t).backward()
    assert same(gradients(learner.net), gradients(trained.net))


def test_loading_a_state_needs_the_blocks(direct):
    learner, _x, *_ = attached(direct)
    if direct.feedback.learns:
        pytest.skip("attach itself asks for the example")
    unknown = sb.attach(made(nets.mlp), direct, show=None)
    with pytest.raises(RuntimeError, match=r"pass example=... to attach\(\) before loading"):
        unknown.load_state_dict(learner.state_dict())


def test_bp_loads_without_an_example():
    learner, x, *_ = attached(sb.bp())
    other = sb.attach(made(nets.mlp, seed=8), sb.bp(), show=None)
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other(x), learner(x))


def test_exact_ends_also_after_an_error():
    learner, x, _t, _ids = attached(sb.drtp())
    with pytest.raises(ZeroDivisionError), learner.exact():
        _ = 1 / 0
    with pytest.raises(ValueError, match="target=t"):
        learner(x)


def test_exact_may_be_nested():
    learner, x, _t, _ids = attached(sb.drtp())
    with learner.exact():
        with learner.exact():
            learner(x)
        learner(x)
    with pytest.raises(ValueError, match="target=t"):
        learner(x)


def test_a_failed_forward_leaves_nothing_behind():
    learner, x, _t, _ids = attached(sb.dfa())
    handle = learner.net[4].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner(x)
    handle.remove()
    copy.deepcopy(learner)


def test_a_failed_forward_does_not_disturb_the_next_one(direct):
    learner, x, t, ids = attached(direct)
    other = copy.deepcopy(learner)
    handle = learner.net[4].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner(x, target=t, ids=ids)
    handle.remove()
    for one in (learner, other):
        teach(one, x, t, ids)
    assert same(gradients(learner.net), gradients(other.net))


# ------------------------------------------------------------------------------------------------ outputs and inputs


def test_a_regression_with_a_squeezed_output():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nets.mlp(outputs=1)

        def forward(self, x):
            return self.body(x).squeeze(-1)

    x, *_ = batch()
    t = torch.randn(8, dtype=torch.float64)
    found = []
    for build, target in ((Net, t), (lambda: nets.Wrapper(nets.mlp(outputs=1)), t.unsqueeze(1))):
        learner = sb.attach(made(build), sb.f3(memory=8, link=sb.signals.identity), x, show=None)
        for _ in range(2):
            learner.zero_grad()
            F.mse_loss(learner(x, target=target, ids=torch.arange(8)), target).backward()
        found.append([p.grad.clone() for p in learner.net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_image_of_outputs_teaches_place_by_place():
    """One B (C, D) for all places: each is taught by the errors at the same place."""

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    x = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    t = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    learner = sb.attach(made(Maps), sb.dfa(), x, show=None)
    assert learner.feedback["a"].shape == (2, 3)
    y = learner(x)
    F.mse_loss(y, t).backward()
    found = gradients(learner.net)
    e = (2 * (y - t) / y.numel()).detach()
    h = torch.tanh(learner.net.a(x))
    teaching = torch.einsum("ncqr,cd->ndqr", e, learner.feedback["a"])
    expected = torch.autograd.grad(h, learner.net.a.weight, teaching)[0]
    torch.testing.assert_close(found["a.weight"], expected, rtol=1e-10, atol=1e-12)


def test_keyword_inputs_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 7), nn.Linear(2, 7), nn.Linear(7, C)

        def forward(self, x, *, context):
            return self.out(torch.tanh(self.a(x) + self.b(context)))

    x, t, _ids = batch()
    context = torch.randn(8, 2, dtype=torch.float64)
    learner = sb.attach(made(Two), sb.drtp(), show=None)
    F.cross_entropy(learner(x, context=context, target=t), t).backward()
    assert all(p.grad.any() for p in learner.net.parameters())
    assert list(learner.feedback) == ["b"]


def test_several_examples_are_a_tuple():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(6, 7), nn.Linear(7, C)

        def forward(self, x, factor):
            return self.out(torch.tanh(self.a(x * factor)))

    x, _t, _ = batch()
    learner = sb.attach(made(Two), sb.dfa(), (x, x), show=None)
    assert list(learner.feedback) == ["a"]
    assert learner.net(x, x).shape == (8, C)


@pytest.mark.parametrize("case", ["tuple_output", "dict_output"])
def test_outputs_keep_their_structure(case):
    case = nets.CASES[case]
    x, _t, _ids = batch(case.shape)
    plain = made(case.build)(x)
    learner = sb.attach(made(case.build), sb.dfa(), x, show=None)
    output = learner(x)
    assert type(output) is type(plain)
    if isinstance(plain, dict):
        assert list(output) == list(plain)
        assert output["batch"] == 8
    else:
        assert torch.equal(output[1], plain[1])
    assert torch.equal(logits(output), logits(plain))


def test_blocks_may_be_found_again():
    """For inputs of another size, say: the old cuts and the old feedback are gone."""

    def build():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C)
        )

    x, t, ids = batch((1, 9, 9))
    learner = sb.attach(made(build), sb.dfa(), batch((1, 8, 8))[0], show=None)
    learner.discover(x)
    fresh = sb.attach(made(build), sb.dfa(), x, show=None)
    for one in (learner, fresh):
        teach(one, x, t, ids)
    assert same(gradients(learner.net), gradients(fresh.net))
    assert same(learner.state_dict(), fresh.state_dict())
    learner.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in learner.net.modules())


def test_show_is_called_once_with_the_table():
    shown = []
    learner = sb.attach(made(nets.mlp), sb.dfa(), batch()[0], show=shown.append)
    learner(batch()[0])
    assert shown == [learner.summary()]
    assert shown[0].splitlines() == [
        "block  port  feedback        parameters",
        "0      7     5 x 7           49",
        "2      5     5 x 5           40",
        "head   5     exact gradient  30",
    ]


def test_the_table_is_printed_unless_told_otherwise(capsys):
    x, *_ = batch()
    learner = sb.attach(made(nets.mlp), sb.dfa(), x, show=None)
    assert capsys.readouterr().out == ""
    sb.attach(made(nets.mlp), sb.dfa(), x)
    assert capsys.readouterr().out == learner.summary() + "\n"


def test_the_summary_names_what_is_not_taught():
    learner = sb.attach(made(nets.mlp), sb.shallow(), batch()[0], show=None)
    assert learner.summary().splitlines()[-1] == "not taught: 0.weight, 0.bias, 2.weight, 2.bias"
    assert learner.summary().splitlines()[1].split() == ["0", "7", "none", "49"]


def test_a_method_of_ones_own():
    """Signals and feedback combine freely: here by hand."""
    method = Direct(paper=sb.dfa().paper, signal=OutputError(), feedback=sb.feedback.Fixed(sb.draws.Gaussian(1.0)))
    learner, x, t, ids = attached(method)
    teach(learner, x, t, ids)
    with torch.no_grad(), learner.exact():
        h, E = learner.net[:2](x), torch.softmax(learner.net(x), 1) - F.one_hot(t, C)
        expected = {"0.weight": ((E @ learner.feedback["0"]) * (1 - h**2)).T @ x}
    assert difference(expected, {"0.weight": learner.net[0].weight.grad}) < 1e-12


def test_feedback_is_not_drawn_from_the_stream_that_made_the_network():
    """Else a square network without biases would get its own first weights for feedback, from the same seed."""
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(C, C, bias=False) for _ in range(3)])
    learner = sb.attach(net, sb.dfa(), torch.zeros(2, C), seed=0, show=None)
    for B in learner.feedback.values():
        for W in net.parameters():
            assert abs(torch.corrcoef(torch.stack([B.flatten(), W.detach().flatten()]))[0, 1]) < 0.9


def test_a_call_inside_given_takes_what_was_given():
    """As DDP around a learner does."""
    learner, x, t, _ids = attached(sb.drtp())
    other = copy.deepcopy(learner)
    F.cross_entropy(learner(x, target=t), t).backward()
    with other.given(target=t):
        F.cross_entropy(other(x), t).backward()
    assert same(gradients(learner.net), gradients(other.net))


def test_classes_out_of_range_are_named():
    learner, x, t, _ids = attached(sb.drtp())
    with pytest.raises(ValueError, match=f"classes from -7 to .*, but the output has {C}"):
        learner(x, target=torch.where(t == t[0], -7, t))


def test_one_logit_takes_integer_labels():
    net = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 1))
    learner = sb.attach(net, sb.drtp(), torch.zeros(2, 6), show=None)
    x, labels = torch.randn(8, 6), torch.arange(8) % 2
    with pytest.warns(sb.SkipbackWarning, match="feedback of one sign"):
        y = learner(x, target=labels)
    F.binary_cross_entropy_with_logits(y[:, 0], labels.float()).backward()
    h = torch.tanh(x @ net[0].weight.T + net[0].bias)
    expected = ((-labels[:, None] / 8 * learner.feedback["0"]) * (1 - h**2)).sum(0)
    torch.testing.assert_close(net[0].bias.grad, expected)


def test_a_call_inside_given_may_say_more():
    """Its own scale counts, with the target that was given."""
    learner, x, t, _ids = attached(sb.drtp())
    other = copy.deepcopy(learner)
    (4 * F.cross_entropy(learner(x, target=t, scale=4.0), t)).backward()
    with other.given(target=t, scale=2.0):
        (4 * F.cross_entropy(other(x, scale=4.0), t)).backward()
    assert same(gradients(learner.net), gradients(other.net))


def test_a_squeezed_output_takes_integer_labels():
    """(N,) logits are one number per sample, not N classes."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nets.mlp(outputs=1)

        def forward(self, x):
            return self.body(x).squeeze(-1)

    x, _t, _ids = batch()
    labels, found = torch.arange(8) % 2, []
    for build, shape in ((Net, (8,)), (lambda: nets.Wrapper(nets.mlp(outputs=1)), (8, 1))):
        learner = sb.attach(made(build), sb.drtp(feedback=sb.feedback.Fixed(sb.draws.RepeatLine())), x, show=None)
        with pytest.warns(sb.SkipbackWarning, match="feedback of one sign"):
            y = learner(x, target=labels)
        F.binary_cross_entropy_with_logits(y, labels.double().reshape(shape)).backward()
        found.append(list(gradients(learner.net).values()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_network_that_is_all_head(direct):
    """There is no port: nothing to send, and nothing to fail."""
    x, t, ids = batch()
    learner = sb.attach(made(lambda: nn.Linear(6, C)), direct, x, show=None)
    teach(learner, x, t, ids)
    assert learner.feedback == {}
    found = gradients(learner.net)
    learner.zero_grad()
    with learner.exact():
        teach(learner, x, t, ids)
    assert same(found, gradients(learner.net))


def test_a_port_of_one_number_without_a_dimension_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), nn.Linear(1, C)

        def forward(self, x):
            return self.b(self.a(x)[:, None])

    with pytest.raises(ValueError, match=r"port 'a' has shape \(8,\), one number .* let the block return \(8, 1\)"):
        sb.attach(made(Net), sb.dfa(), batch()[0], blocks=["a"], show=None)


def test_what_was_run_ahead_of_a_failed_pass_is_forgotten():
    """The Jacobian of an earlier batch must not stand in for that of the next one."""
    x, t, ids = batch()
    learner, twin = (sb.attach(made(nets.mlp), sb.fdfa(), x, show=None) for _ in range(2))

    def fail(*_):
        if torch.is_grad_enabled():  # not in the forward-mode pass
            raise ZeroDivisionError

    handle = learner.net[4].register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        learner(2 * x)
    handle.remove()
    twin(2 * x)
    for one in (learner, twin):
        teach(one, x, t, ids)
    found, wanted = ([B.grad for B in one.feedback.values()] for one in (learner, twin))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("scale", [1024.0, torch.tensor(1024.0, dtype=torch.float64)], ids=["number", "tensor"])
def test_all_gradients_grow_with_the_scale(direct, scale):
    """A GradScaler divides them by it all: decay and Jacobians of learned feedback, too."""
    learner, x, t, ids = attached(direct)
    other = copy.deepcopy(learner)
    teach(learner, x, t, ids)
    teach(other, x, t, ids, weight=float(scale), scale=scale)
    assert difference({name: 1024 * g for name, g in gradients(learner).items()}, gradients(other)) < 1e-12
    assert all(B.grad.any() for B in learner.direct.parameters())


class Reader(nn.Module):
    """An embedding with positions, a port without, and logits (N, T, V) made of both."""

    def __init__(self, width=6):
        super().__init__()
        self.emb, self.pool, self.out = nn.Embedding(7, 4), nn.Linear(4, width), nn.Linear(width, 3 * 7)

    def forward(self, tokens):
        return self.out(torch.tanh(self.pool(self.emb(tokens).mean(1)))).unflatten(1, (3, 7))


def test_ports_with_and_without_positions_in_one_network():
    """The port with positions hears each one's error, the other that of the whole sequence."""
    tokens = torch.arange(24).reshape(8, 3) % 7
    t = (tokens + 1) % 7
    learner = sb.attach(made(Reader), sb.dfa(), tokens, blocks=["emb", "pool"], show=None)
    assert {name: B.shape for name, B in learner.feedback.items()} == {"emb": (7, 4), "pool": (21, 6)}
    F.cross_entropy((y := learner(tokens)).flatten(0, 1), t.flatten()).backward()
    e = ((torch.softmax(y, -1) - F.one_hot(t, 7)) / 24).detach()
    embedded = torch.zeros(7, 4, dtype=torch.float64).index_add_(
        0, tokens.flatten(), (e @ learner.feedback["emb"]).flatten(0, 1)
    )
    torch.testing.assert_close(learner.net.emb.weight.grad, embedded)
    h = learner.net.emb.weight[tokens].mean(1)
    expected = (e.flatten(1) @ learner.feedback["pool"]).T @ h
    torch.testing.assert_close(learner.net.pool.weight.grad, expected)
    steps = sb.alignment(learner, tokens, t, lambda y, t: F.cross_entropy(y.flatten(0, 1), t.flatten()))
    assert [one.port for one in steps] == ["emb", "pool"]


def test_a_sequence_may_have_another_length():
    """Where ports and output share the positions, the feedback of one serves all."""
    net = made(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 7)))
    tokens = torch.arange(24).reshape(8, 3) % 7
    for method in (sb.dfa(), sb.drtp(), sb.fdfa(), sb.normalised_dfa()):
        learner = sb.attach(net, method, tokens, show=None)
        for T in (3, 5, 1):
            x = (torch.arange(2 * T) % 7).reshape(2, T)
            learner.zero_grad()
            F.cross_entropy(learner(x, target=x).flatten(0, 1), x.flatten()).backward()
            assert all(p.grad.isfinite().all() for p in learner.parameters())
        learner.detach()


def test_a_sequence_of_another_length_is_refused_where_feedback_cannot_follow():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.out = nn.Embedding(7, 4), nn.Linear(4, 7)

        def forward(self, tokens):
            return self.out(self.emb(tokens).repeat(1, 2, 1)[:, : tokens.shape[1] + 1])

    tokens = torch.zeros(2, 3, dtype=torch.int64)
    learner = sb.attach(made(Pooled), sb.dfa(), tokens, blocks=["emb"], show=None)
    with pytest.raises(ValueError, match=r"per sample from 28 numbers, and the output has shape \(2, 6, 7\)"):
        learner(torch.zeros(2, 5, dtype=torch.int64))
    shared = sb.attach(made(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))), sb.dfa(), tokens, show=None)
    shared.net[1].weight, shared.net[1].bias = nn.Parameter(torch.ones(9, 4, dtype=torch.float64)), None
    with pytest.raises(ValueError, match="per position from 7 numbers"):
        shared(tokens)


def test_the_jacobian_of_a_block_that_is_called_twice_on_a_sequence():
    """E = mean over samples and positions of dy p^T, p the mean of the two calls' directions."""
    from skipback.streams import Stream

    tokens = torch.arange(24).reshape(8, 3) % 7
    learner = sb.attach(made(Recall), sb.fdfa(), tokens, seed=3, show=None)
    F.cross_entropy(learner(tokens).flatten(0, 1), tokens.flatten()).backward()
    generator = Stream(3).next(torch.device("cpu"))
    p, q, r = (torch.randn(8, 3, 4, generator=generator).double() for _ in range(3))  # emb, cell, cell
    W, V = learner.net.cell.weight, learner.net.out.weight
    dy = ((((p @ W.T) + q) @ W.T + r) @ V.T).flatten(0, 1)
    for block, noise in (("emb", p), ("cell", (q + r) / 2)):
        E = dy.T @ noise.flatten(0, 1) / 24
        grad = learner.feedback[block].grad
        torch.testing.assert_close(grad, (-2 if block == "cell" else -1) * E)  # B is 0; one lesson for each call


def reader(method, width=6, blocks=("emb", "pool")):
    """The network above, its tokens and a class for each position."""
    tokens = torch.arange(24).reshape(8, 3) % 7
    learner = sb.attach(made(lambda: Reader(width)), method, tokens, blocks=list(blocks), show=None)
    return learner, tokens, (tokens + 1) % 7


def test_a_port_that_is_as_wide_as_the_sequence_is_long_has_no_positions():
    learner, _, _ = reader(sb.dfa(), width=3)
    assert learner.feedback["pool"].shape == (21, 3)


@pytest.mark.parametrize("blocks", [("emb", "pool"), ("pool",)])
def test_class_indices_of_a_sequence_without_ports_that_share_it(blocks):
    """One-hot for each position, whatever the ports are."""
    one_hot = F.one_hot(torch.arange(1, 25).reshape(8, 3) % 7, 7).double()
    learner, tokens, t = reader(sb.drtp(), blocks=blocks)
    y = learner(tokens, target=t)
    F.cross_entropy(y.flatten(0, 1), t.flatten()).backward()
    h = learner.net.emb.weight[tokens].mean(1)
    teaching = -one_hot.flatten(1) / 24 @ learner.feedback["pool"]
    torch.testing.assert_close(learner.net.pool.weight.grad, teaching.T @ h)
    loss = lambda y, t: F.cross_entropy(y.flatten(0, 1), t.flatten())  # noqa: E731
    assert len(sb.alignment(learner, tokens, t, loss)) == len(blocks)
    memory, tokens, t = reader(sb.anchored(sb.f3(memory=8, link=sb.signals.identity), every=1), blocks=blocks)
    y = memory(tokens, target=t, ids=torch.arange(8))
    torch.testing.assert_close(memory.memory.rows, (y - one_hot).flatten(1).float())


def test_a_ternary_error_is_that_of_each_position():
    learner, tokens, t = reader(sb.ternary_dfa(threshold=0.3))
    F.cross_entropy((y := learner(tokens)).flatten(0, 1), t.flatten()).backward()
    e = ((torch.softmax(y, -1) - F.one_hot(t, 7)) / 24).detach()
    sent = e.sign() * (e.abs() > 0.3 * e.abs().amax(-1, keepdim=True))
    expected = torch.zeros(7, 4, dtype=torch.float64).index_add_(
        0, tokens.flatten(), (sent @ learner.feedback["emb"]).flatten(0, 1)
    )
    torch.testing.assert_close(learner.net.emb.weight.grad, expected)


class Confident(sb.signals.Signal):
    """e * y: looks at the gradient and the output."""

    needs = sb.core.records.Needs.GRADIENT | sb.core.records.Needs.OUTPUT
    scales = True

    def __call__(self, step):
        return step.gradient * step.output


def test_a_signal_that_looks_at_gradient_and_output():
    learner, x, t, _ids = attached(Direct(paper=sb.dfa().paper, signal=Confident()))
    F.cross_entropy(y := learner(x), t).backward()
    e = ((torch.softmax(y, 1) - F.one_hot(t, C)) / 8 * y).detach()
    with learner.exact():
        h = torch.tanh(learner.net[0](x))
    torch.testing.assert_close(learner.net[0].bias.grad, (e @ learner.feedback["0"] * (1 - h**2)).sum(0))


@pytest.mark.parametrize("method", [sb.dfa(), sb.shallow()])
def test_a_module_that_was_exchanged_is_noticed(method):
    """Its hook went with it: backprop would run through the place of the cut, in silence."""
    x, t, _ = batch()
    net = made(nets.mlp)
    learner = sb.attach(net, method, x, show=None)
    F.cross_entropy(learner(x), t).backward()
    net[2] = torch.nn.Linear(7, 5).double()
    with pytest.raises(RuntimeError, match=r"module '2' was exchanged after attach\(\), and the cut there"):
        learner(x)
