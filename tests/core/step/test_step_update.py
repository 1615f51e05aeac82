"""Updates: their state is torch.optim's, so a run goes on either way; groups, schedulers, gradients as they come."""

import copy
import pickle
import warnings

import nets
import pytest
import torch
from nets import C, batch
from test_step import KINDS
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from twins import apart, batches, by_backward, by_step, cross_entropy, equal, twins

import skipback as sb
from skipback import update

DATA = batches(steps=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dfa", "dkp", "fa"])
def test_a_run_goes_on_either_way(kind, name):
    """Two steps, two by backward with the state so far, two steps again with the state of those."""
    one, other = twins(nets.mlp, getattr(sb, name)(), DATA[0][0])
    make, make_optim = KINDS[kind]
    first, optimizer = make(), make_optim(one.parameters())
    by_step(one, first, DATA[:2])
    optimizer.load_state_dict(first.optimizer.state_dict())
    by_backward(one, optimizer, DATA[2:4])
    last = make()
    last.bind(one.parameters()).load_state_dict(optimizer.state_dict())
    by_step(one, last, DATA[4:])
    whole = make_optim(other.parameters())
    by_backward(other, whole, DATA)
    assert equal(one, other)
    a, b = last.optimizer.state_dict(), whole.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(b["state"][key][k])) for k, v in state.items())


def test_what_a_loaded_state_says_counts_from_the_next_step():
    """The trap: loading replaces the groups, and a kept reference would go on with the old rate."""
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    slow, fast = update.adam(0.01), torch.optim.Adam(one.parameters(), lr=0.5, fused=True)
    by_step(one, slow, DATA[:1])
    state = slow.optimizer.state_dict()
    state["param_groups"] = fast.state_dict()["param_groups"]
    slow.optimizer.load_state_dict(state)
    by_step(one, slow, DATA[1:2])
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01, fused=True)
    by_backward(other, optimizer, DATA[:1])
    optimizer.param_groups[0]["lr"] = 0.5
    by_backward(other, optimizer, DATA[1:2])
    assert equal(one, other)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd_outside", "momentum", "rmsprop", "sgd"])
def test_a_scheduler_takes_the_optimizer(kind):
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    inside = (lambda: update.sgd(0.3), lambda ps: torch.optim.SGD(ps, 0.3, fused=True))
    make, make_optim = inside if kind == "sgd" else KINDS[kind]
    step, optimizer = make(), make_optim(other.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a scheduler that is called before the optimizer
        schedules = [torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in (step.bind(one.parameters()), optimizer)]
        for data in DATA:
            by_step(one, step, [data])
            by_backward(other, optimizer, [data])
            for schedule in schedules:
                schedule.step()
    assert step.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(step_rate(kind))
    assert apart(one, other) < 1e-12 if kind == "sgd" else equal(one, other)


def step_rate(kind):
    """After six halvings."""
    return {"adam": 0.01, "adamw": 0.01, "rmsprop": 0.01, "momentum": 0.1}.get(kind, 0.3) / 64


def grouped(parameters, make):
    """Weights and biases, each with a rate of its own."""
    parameters = list(parameters)
    return make(
        [
            {"params": [p for p in parameters if p.dim() > 1], "lr": 0.02},
            {"params": [p for p in parameters if p.dim() == 1], "lr": 0.005},
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_groups_with_rates_of_their_own(kind):
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    make, make_optim = KINDS[kind]
    step = make()
    step.make = lambda ps: grouped(ps, make_optim)
    by_step(one, step, DATA)
    by_backward(other, grouped(other.parameters(), make_optim), DATA)
    assert equal(one, other)


def test_sgd_inside_the_product_looks_at_each_groups_own_rate():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step = update.sgd(0.3)
    by_rank = lambda ps: [{"params": [p], "lr": 0.1 * (1 + p.dim())} for p in ps]  # noqa: E731
    step.make = lambda ps: torch.optim.SGD(by_rank(ps), fused=True)
    by_step(one, step, DATA)
    by_backward(other, torch.optim.SGD(by_rank(other.parameters()), fused=True), DATA)
    assert apart(one, other) < 1e-12


@pytest.mark.parametrize("kind", [*KINDS, "sgd"])
@pytest.mark.parametrize("name", ["dfa", "drtp", "fa", "bp"])
def test_what_the_user_has_in_grad_is_left_alone_and_not_stepped_by(kind, name):
    one, other = twins(nets.mlp, getattr(sb, name)(), DATA[0][0])
    make = (lambda: update.sgd(0.3)) if kind == "sgd" else KINDS[kind][0]
    kept = [torch.full_like(p, 7.0) for p in one.parameters()]
    for p, g in zip(one.parameters(), kept, strict=True):
        p.grad = g
    by_step(one, make(), DATA)
    by_step(other, make(), DATA)
    assert equal(one, other)
    assert all(p.grad is g and bool((g == 7).all()) for p, g in zip(one.parameters(), kept, strict=True))
    assert all(p.grad is None for p in other.parameters())


class Odd(nn.Module):
    """Parameters whose gradients come out transposed, expanded, or as one tensor for two of them."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(6, 7))
        self.b, self.c = nn.Parameter(torch.randn(8, 7)), nn.Parameter(torch.randn(8, 7))
        self.scale = nn.Parameter(torch.ones(7, 5).t())

    def forward(self, x):
        return torch.tanh(x @ self.W + (self.b + self.c)) * self.scale.sum(0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_another_layout_than_their_parameter(kind):
    """The trap: a fused kernel reads a transposed gradient as if it lay like its parameter, and says nothing."""
    build = lambda: nn.Sequential(Odd(), nn.Linear(7, C))  # noqa: E731
    x, t, _ = batch()
    data = [(x, t, None)] * 4
    one, other = twins(build, sb.dfa(), x)
    by_step(one, KINDS[kind][0](), data)
    by_backward(other, KINDS[kind][1](other.parameters()), data)
    assert equal(one, other)


def test_convolutions_in_channels_last():
    data = batches(nets.IMAGE)
    one, other = twins(lambda: nets.conv().to(memory_format=torch.channels_last), sb.drtp(), data[0][0])
    by_step(one, update.adam(0.01), data)
    by_backward(other, torch.optim.Adam(other.parameters(), 0.01, fused=True), data)
    assert equal(one, other)


def test_an_update_of_another_learner_is_refused():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step, before = update.adam(), copy.deepcopy(other.state_dict())
    by_step(one, step, DATA)
    with pytest.raises(ValueError, match="make an update for each learner"):
        by_step(other, step, DATA)
    assert nets.same(before, other.state_dict())


def test_any_optimizer_of_torch():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(one, update.Update(lambda ps: torch.optim.Adagrad(ps, lr=0.1)), DATA)
    by_backward(other, torch.optim.Adagrad(other.parameters(), lr=0.1), DATA)
    assert equal(one, other)


@pytest.mark.parametrize(
    "option", [{"amsgrad": True, "fused": True}, {"fused": False}, {"maximize": True, "fused": True}]
)
def test_adam_with_other_options(option):
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step = update.adam()
    step.make = lambda ps: torch.optim.Adam(ps, lr=0.01, **option)
    by_step(one, step, DATA)
    by_backward(other, torch.optim.Adam(other.parameters(), lr=0.01, **option), DATA)
    assert equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["dfa", "drtp", "dkp", "f3"])
def test_weights_of_other_types(dtype, name):
    data = batches(dtype=dtype)
    method = sb.f3(memory=16) if name == "f3" else getattr(sb, name)()
    one, other = twins(nets.mlp, method, data[0][0], dtype=dtype)
    by_step(one, update.adam(0.01), data)
    by_backward(other, torch.optim.Adam(other.parameters(), 0.01, fused=True), data)
    assert equal(one, other)


def test_no_gradient_for_a_parameter_that_was_not_used():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.other = nn.Linear(6, 5), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return torch.tanh(self.used(x))

    build = lambda: nn.Sequential(Half(), nn.Linear(5, C))  # noqa: E731
    one, other = twins(build, sb.dfa(), DATA[0][0])
    by_step(one, update.adamw(0.01, weight_decay=0.5), DATA)
    by_backward(other, torch.optim.AdamW(other.parameters(), 0.01, weight_decay=0.5, fused=True), DATA)
    assert equal(one, other)
    assert bool((one.net[0].other == 1).all())


def test_clipping_by_a_hook_of_the_parameters():
    """What users have who clip where `.grad` is made."""
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    for learner in (one, other):
        for p in learner.net.parameters():
            p.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    by_step(one, update.sgd(1.0, inside=False), DATA)
    by_backward(other, torch.optim.SGD(other.parameters(), 1.0, fused=True), DATA)
    assert equal(one, other)


def test_a_hook_that_waits_for_grad_is_called():
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(learner, update.sgd(), DATA[:1])
    seen = []
    learner.net[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad is not None))
    learner.step(*DATA[0][:2], loss=cross_entropy, update=update.sgd())
    assert seen == [True]


# ------------------------------------------------------------------------------ what users do with the optimizer itself


def shrink(optimizer, *_):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.detach().mul_(0.9)


def halve(optimizer, *_):
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.mul_(0.5)


@pytest.mark.parametrize("register", ["step_pre_hook", "step_post_hook"])
@pytest.mark.parametrize("kind", ["adam", "sgd_outside", "momentum"])
def test_hooks_of_the_optimizer_are_called(kind, register):
    """A fused kernel in the place of `step` would not call them."""
    hook = halve if register == "step_pre_hook" else shrink
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    (step := KINDS[kind][0]()).bind(one.parameters())
    optimizer = KINDS[kind][1](other.parameters())
    for held in (step.optimizer, optimizer):
        getattr(held, f"register_{register}")(hook)
    by_step(one, step, DATA)
    by_backward(other, optimizer, DATA)
    assert equal(one, other)


def test_a_hook_of_all_optimizers_is_called():
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    seen = []
    handle = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    try:
        by_step(learner, update.sgd(), DATA[:1])
    finally:
        handle.remove()
    assert len(seen) == 1  # as in the loop, not once for each block


def test_adam_that_decouples_its_decay():
    """Of a loaded AdamW, say: torch's Adam asks its group, not its class."""
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    (step := update.adam(0.01, weight_decay=0.5)).bind(one.parameters())
    step.optimizer.param_groups[0]["decoupled_weight_decay"] = True
    by_step(one, step, DATA)
    by_backward(other, torch.optim.AdamW(other.parameters(), 0.01, weight_decay=0.5, fused=True), DATA)
    assert equal(one, other)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", ["dfa", "drtp", "bp"])
def test_what_the_optimizer_does_not_hold_is_never_changed(name, later):
    """A block of which it holds the weight alone: its bias was stepped with it."""
    learner, _ = twins(nets.mlp, getattr(sb, name)(), DATA[0][0])
    weights = [p for p in learner.net.parameters() if p.dim() > 1]
    step = update.adam() if later else update.Update(lambda ps: torch.optim.Adam(weights))
    if later:
        by_step(learner, step, DATA[:1])
        step.optimizer.param_groups[0]["params"] = weights
    before = copy.deepcopy(dict(learner.net.named_parameters()))
    with pytest.raises(ValueError, match=r"requires_grad_\(False\)"):
        by_step(learner, step, DATA[:1])
    assert nets.same(before, dict(learner.net.named_parameters()))
    for p in learner.net.parameters():
        p.requires_grad_(p.dim() > 1)
    by_step(learner, step, DATA[:1])


def test_a_parameter_that_is_exchanged_in_its_group():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step, optimizer = update.adam(0.01), torch.optim.Adam(other.parameters(), 0.01, fused=True)
    by_step(one, step, DATA[:1])
    by_backward(other, optimizer, DATA[:1])
    for learner, held in ((one, step.optimizer), (other, optimizer)):
        learner.net[4].weight = nn.Parameter(learner.net[4].weight.detach() * 2)
        held.param_groups[0]["params"][4] = learner.net[4].weight
    by_step(one, step, DATA[1:])
    by_backward(other, optimizer, DATA[1:])
    assert torch.equal(one.net[4].weight, other.net[4].weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_learner_and_its_update_are_copied_together(kind, copied):
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(learner, step := KINDS[kind][0](), DATA[:2])
    twin, again = copied((learner, step))
    by_step(learner, step, DATA[2:])
    assert not equal(twin, learner)
    by_step(twin, again, DATA[2:])
    assert equal(twin, learner)


@pytest.mark.parametrize("wrong", [lambda ps: torch.optim.Adam(ps), lambda ps: update.adam, lambda ps: None])
def test_an_optimizer_in_the_place_of_an_update_is_refused_in_words(wrong):
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    with pytest.raises(TypeError, match=r"skipback\.update\.adam"):
        by_step(learner, wrong(learner.parameters()), DATA[:1])
