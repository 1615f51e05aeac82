"""Optimizers of other people in a step: one step for a step, closures and sparse gradients refused, several at once."""

import copy
import pickle
import warnings

import nets
import pytest
import torch
from nets import C, made
from torch import nn
from torch.nn import functional as F
from twins import batches, by_backward, by_step, cross_entropy, equal, twins

import skipback as sb
from skipback import update

DATA = batches(steps=6)
METHODS = {
    "dfa": sb.dfa,
    "drtp": sb.drtp,
    "dkp": sb.dkp,
    "f3": lambda: sb.f3(memory=16),
    "bp": sb.bp,
    "fa": sb.fa,
    "shallow": sb.shallow,
}


class Counting(torch.optim.Optimizer):
    """Divides its rate by the steps it has counted in its group, and by the norm of all gradients: as schedulefree,
    Prodigy and others do, it is another optimizer when it is called once for each block."""

    def __init__(self, parameters, lr=0.5):
        super().__init__(parameters, {"lr": lr, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            held = [p for p in group["params"] if p.grad is not None]
            norm = sum(p.grad.square().sum() for p in held) ** 0.5
            for p in held:
                p -= group["lr"] / group["k"] / norm * p.grad


class OwnAdam(torch.optim.Adam):
    """A user's subclass, of which nothing is known."""


@pytest.mark.parametrize("make", [Counting, OwnAdam])
@pytest.mark.parametrize("name", METHODS)
def test_an_optimizer_that_is_not_known_steps_once(make, name):
    one, other = twins(nets.mlp, METHODS[name](), DATA[0][0])
    kept = [torch.full_like(p, 7.0) for p in one.parameters()]
    for p, g in zip(one.parameters(), kept, strict=True):
        p.grad = g
    by_step(one, step := update.Update(make), DATA)
    by_backward(other, optimizer := make(other.parameters()), DATA)
    assert equal(one, other)
    assert all(p.grad is g and bool((g == 7).all()) for p, g in zip(one.parameters(), kept, strict=True))
    if make is Counting:
        assert step.optimizer.param_groups[0]["k"] == optimizer.param_groups[0]["k"] == len(DATA)


@pytest.mark.parametrize("said", [None, True, False])
def test_a_user_can_say_that_an_optimizer_keeps_its_state_by_parameter(said):
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    calls, step = [], update.Update(OwnAdam, by_parameter=said)
    optimizer = step.bind(one)
    own = optimizer.step
    optimizer.step = lambda: calls.append(1) or own()
    by_step(one, step, DATA)
    by_backward(other, OwnAdam(other.parameters()), DATA)
    assert equal(one, other)
    assert len(calls) == len(DATA) * (3 if said else 1)


def test_a_step_that_failed_leaves_no_gradients_for_the_next():
    one, other = twins(nets.mlp, sb.drtp(), DATA[0][0])
    step = update.Update(Counting)
    with pytest.raises(ZeroDivisionError):
        one.step(*DATA[0][:2], loss=lambda y, t: 1 / 0, update=step)
    assert equal(one, other)
    by_step(one, step, DATA)
    by_backward(other, Counting(other.parameters()), DATA)
    assert equal(one, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_it_is_copied_with_its_learner(copied):
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(learner, step := update.Update(Counting), DATA[:2])
    twin, again = copied((learner, step))
    by_step(learner, step, DATA[2:])
    by_step(twin, again, DATA[2:])
    assert equal(twin, learner)


def test_a_hook_of_a_known_optimizer_is_called_once_a_step_and_finds_all_gradients():
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step, seen = update.adam(), []
    step.bind(learner).register_step_pre_hook(
        lambda o, *_: seen.append([p.grad is not None for group in o.param_groups for p in group["params"]])
    )
    by_step(learner, step, DATA[:2])
    assert seen == [[True] * 6] * 2


# ---------------------------------------------------------------------------------------------------------- closures


class SAM(torch.optim.SGD):
    """As the well-known ones are: `step` takes a closure, and says so late."""

    def step(self, closure=None):
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"


class TwoSteps(torch.optim.SGD):
    def first_step(self):
        pass

    def second_step(self):
        pass


@pytest.mark.parametrize("make", [torch.optim.LBFGS, SAM, TwoSteps])
@pytest.mark.parametrize("name", ["dfa", "drtp", "bp"])
def test_an_optimizer_that_runs_the_loss_itself_is_refused_in_words(make, name):
    learner, twin = twins(nets.mlp, METHODS[name](), DATA[0][0])
    step = update.Update(make)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{make.__name__} .*closure.*optimizer\.step\(closure\)"):
            by_step(learner, step, DATA[:1])
    assert equal(learner, twin)
    assert all(p.grad is None for p in learner.parameters())


def test_what_is_no_optimizer_is_refused_in_words():
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    with pytest.raises(TypeError, match=r"made from a torch\.optim\.Optimizer, not from a list"):
        by_step(learner, update.Update(list), DATA[:1])


# --------------------------------------------------------------------------------------------------- sparse gradients


class Click(nn.Module):
    """A bag of sparse embeddings under a small net."""

    def __init__(self, *, functional=False):
        super().__init__()
        self.below = nn.Linear(1, 1)
        self.bag = nn.EmbeddingBag(30, 12, mode="sum", sparse=not functional)
        self.hidden, self.out = nn.Linear(12, 16), nn.Linear(16, C)
        self.functional = functional

    def forward(self, tokens):
        own = F.embedding_bag(tokens, self.bag.weight, mode="sum", sparse=True) if self.functional else None
        h = self.bag(tokens) if own is None else own
        return self.out(torch.tanh(self.hidden(h)))


def clicks(steps=4):
    generator = torch.Generator().manual_seed(3)
    picks = [torch.randint(30, (8, 5), generator=generator) for _ in range(steps)]
    return [(tokens, torch.randint(C, (8,), generator=generator), None) for tokens in picks]


def click_twins(method, **options):
    found = twins(lambda: Click(**options), method, clicks()[0][0])
    for learner in found:
        learner.net.below.requires_grad_(False)
    return found


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_sgd_takes_sparse_gradients(name, functional):
    one, other = click_twins(METHODS[name](), functional=functional)
    before = one.net.bag.weight.detach().clone()
    by_step(one, update.sgd(0.1, inside=False), clicks())
    by_backward(other, torch.optim.SGD(other.parameters(), 0.1), clicks())
    assert nets.difference(one.state_dict(), other.state_dict()) < 1e-12
    assert not torch.equal(before, one.net.bag.weight)


@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_momentum_takes_sparse_gradients(name):
    one, other = click_twins(METHODS[name]())
    by_step(one, update.momentum(0.1), clicks())
    by_backward(other, torch.optim.SGD(other.parameters(), 0.1, momentum=0.9), clicks())
    assert equal(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: update.adam(),
        lambda: update.rmsprop(),
        lambda: update.sgd(0.1, weight_decay=0.1),
        lambda: update.Update(lambda ps: torch.optim.Adagrad(ps, weight_decay=0.1)),
        lambda: update.split(update.adam()),
    ],
)
@pytest.mark.parametrize("name", ["dfa", "drtp", "bp", "fa"])
def test_others_refuse_sparse_gradients_before_anything_is_changed(name, make):
    learner, twin = click_twins(METHODS[name]())
    step = make()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the gradient of 'net\.bag\.weight' is sparse .*update\.sgd\(\)"):
            by_step(learner, step, clicks()[:1])
    assert equal(learner, twin)


def test_a_sparse_gradient_that_no_module_says_is_refused_when_it_comes():
    learner, _ = click_twins(sb.dfa(), functional=True)
    with pytest.raises(ValueError, match=r"the gradient of a weight of shape \(30, 12\) is sparse"):
        by_step(learner, update.adam(), clicks()[:1])


def test_sparse_adam_for_the_embedding_and_adam_for_the_rest():
    one, other = click_twins(sb.dfa())
    sparse = update.Update(lambda ps: torch.optim.SparseAdam(ps, lr=0.01))
    by_step(one, update.split((sparse, [one.net.bag.weight]), update.adam(0.01)), clicks())
    rest = [p for p in other.parameters() if p is not other.net.bag.weight]
    pair = [torch.optim.SparseAdam([other.net.bag.weight], 0.01), torch.optim.Adam(rest, 0.01, fused=True)]
    by_backward(other, update.Joined(pair), clicks())
    assert equal(one, other)


def test_sparse_adam_for_all_is_refused():
    learner, twin = click_twins(sb.dfa())
    with pytest.raises(ValueError, match=r"that of 'net\.hidden\.weight' is dense"):
        by_step(learner, update.Update(torch.optim.SparseAdam), clicks()[:1])
    assert equal(learner, twin)


# ------------------------------------------------------------------------------------------------- several optimizers


def matrices(name, p):
    """What Muon is for: the matrices of hidden blocks."""
    return p.dim() == 2 and name.startswith("net.") and not name.startswith("net.4.")


def both():
    return update.split((update.muon(0.02), matrices), update.adamw(0.01))


def both_of_torch(learner):
    chosen = [p for name, p in learner.named_parameters() if matrices(name, p)]
    rest = [p for name, p in learner.named_parameters() if not matrices(name, p)]
    muon = torch.optim.Muon(chosen, lr=0.02, weight_decay=0.1, momentum=0.95)
    return update.Joined([muon, torch.optim.AdamW(rest, 0.01, weight_decay=1e-2, fused=True)])


@pytest.mark.parametrize("name", METHODS)
def test_two_optimizers_have_the_bits_of_the_loop_with_both(name):
    one, other = twins(nets.mlp, METHODS[name](), DATA[0][0])
    by_step(one, step := both(), DATA)
    by_backward(other, both_of_torch(other), DATA)
    assert equal(one, other)
    assert len(step.parts[0].optimizer.state) == (0 if name == "shallow" else 2)


def test_the_joined_optimizer_of_the_reference_steps_both():
    """Each alone has other bits."""
    one, other, third = (made(nets.mlp) for _ in range(3))
    learners = [sb.attach(net, sb.dfa(), DATA[0][0], show=None) for net in (one, other, third)]
    joined = both_of_torch(learners[0])
    by_backward(learners[0], joined, DATA)
    by_backward(learners[1], both_of_torch(learners[1]).optimizers[0], DATA)
    by_backward(learners[2], both_of_torch(learners[2]).optimizers[1], DATA)
    assert not nets.same(one.state_dict(), other.state_dict())
    assert not nets.same(one.state_dict(), third.state_dict())


@pytest.mark.parametrize("kinds", ["sgd inside", "sgd and adam", "counting"])
def test_each_part_goes_its_own_way(kinds):
    """A fused product for one, a kernel for another, one call at the end of the step for a third."""
    first = {"counting": lambda: update.Update(Counting)}.get(kinds, lambda: update.sgd(0.3))
    second = (lambda: update.sgd(0.1)) if kinds == "sgd inside" else (lambda: update.adam(0.01))
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    lower = lambda name, p: name.startswith(("net.0.", "net.2."))  # noqa: E731
    by_step(one, update.split(second(), (first(), lower)), DATA)
    low = [p for name, p in other.named_parameters() if lower(name, p)]
    high = [p for name, p in other.named_parameters() if not lower(name, p)]
    low = Counting(low) if kinds == "counting" else torch.optim.SGD(low, 0.3, fused=True)
    high = torch.optim.SGD(high, 0.1) if kinds == "sgd inside" else torch.optim.Adam(high, 0.01, fused=True)
    by_backward(other, update.Joined([low, high]), DATA)
    assert nets.difference(one.state_dict(), other.state_dict()) < 1e-12


def test_a_scheduler_takes_both_and_each():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step, reference = both(), both_of_torch(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a scheduler that is called before the optimizer
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(step.bind(one), [lambda k: 0.5**k, lambda k: 0.7**k]),
            *(
                torch.optim.lr_scheduler.ExponentialLR(o, g)
                for o, g in zip(reference.optimizers, (0.5, 0.7), strict=True)
            ),
        ]
        for data in DATA:
            by_step(one, step, [data])
            by_backward(other, reference, [data])
            for schedule in schedules:
                schedule.step()
    rates = [group["lr"] for group in step.optimizer.param_groups]
    assert rates == pytest.approx([0.02 * 0.5**6, 0.01 * 0.7**6])
    assert nets.difference(one.state_dict(), other.state_dict()) < 1e-12


def test_a_run_with_both_goes_on_from_their_state():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(one, first := both(), DATA[:3])
    saved = pickle.loads(pickle.dumps((one.state_dict(), first.optimizer.state_dict())))
    by_step(one, first, DATA[3:])
    other.load_state_dict(saved[0])
    (last := both()).bind(other).load_state_dict(saved[1])
    by_step(other, last, DATA[3:])
    assert equal(one, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_both_are_copied_with_their_learner(copied):
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(learner, step := both(), DATA[:2])
    twin, again = copied((learner, step))
    by_step(learner, step, DATA[2:])
    assert not equal(twin, learner)
    by_step(twin, again, DATA[2:])
    assert equal(twin, learner)


def test_a_hook_of_both_is_called_once_a_step():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    step, reference, seen = both(), both_of_torch(other), []
    step.bind(one).register_step_post_hook(lambda *_: seen.append(1))
    by_step(one, step, DATA)
    by_backward(other, reference, DATA)
    assert equal(one, other)
    assert len(seen) == len(DATA)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (lambda: [(update.adam(), matrices)], r"'net\.0\.bias' is named for none, and no update takes the rest"),
        (
            lambda: [(update.adam(), matrices), (update.sgd(), lambda n, p: n == "net.2.weight"), update.sgd()],
            r"'net\.2\.weight' is named for 2 of them",
        ),
        (lambda: [(update.adam(), lambda n, p: False), update.sgd()], r"update 0 of split\(\) has no parameter"),
        (lambda: [update.adam(), update.sgd()], "one update without parameters at most"),
        (lambda: [(update.muon(), lambda n, p: True)], r"Muon steps matrices only.*split"),
        (lambda: [(update.Update(torch.optim.LBFGS), matrices), update.sgd()], "LBFGS .*closure"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_words(parts, says):
    learner, twin = twins(nets.mlp, sb.dfa(), DATA[0][0])
    with pytest.raises(ValueError, match=says):
        by_step(learner, update.split(*parts()), DATA[:1])
    assert equal(learner, twin)


def test_parameters_of_several_learners_and_new_ones_are_refused():
    one, other = twins(nets.mlp, sb.dfa(), DATA[0][0])
    by_step(one, step := both(), DATA[:1])
    with pytest.raises(ValueError, match="make an update for each learner"):
        by_step(other, step, DATA[:1])
    with pytest.raises(ValueError, match=r"parts\[k\]\.optimizer"):
        step.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


def test_what_is_frozen_needs_no_update():
    learner, twin = twins(nets.mlp, sb.dfa(), DATA[0][0])
    for name, p in learner.named_parameters():
        p.requires_grad_(matrices(name, p))
    by_step(learner, update.split((update.muon(), matrices)), DATA)
    assert torch.equal(learner.net[0].bias, twin.net[0].bias)
    assert not torch.equal(learner.net[0].weight, twin.net[0].weight)


# ------------------------------------------------------------------------- what steps blocks at different times refuses


@pytest.mark.parametrize("make", [lambda: update.Update(Counting), both])
def test_schedules_that_step_blocks_apart_refuse_them(make):
    build = lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, C))  # noqa: E731
    learner, twin = twins(build, sb.drtp(), DATA[0][0])
    with pytest.raises(ValueError, match=r"a wavefront steps each block by itself, but this update (calls|has)"):
        sb.wavefront(learner, update=make()).epoch(DATA, loss=cross_entropy)
    with pytest.raises(ValueError, match=r"a stage steps each block by itself, but this update (calls|has)"):
        sb.stages(learner).epoch(DATA, loss=cross_entropy, update=make())
    assert equal(learner, twin)


def test_captured_steps_refuse_a_hook():
    learner, _ = twins(nets.mlp, sb.dfa(), DATA[0][0])
    (step := update.sgd()).bind(learner).register_step_post_hook(lambda *_: None)
    from skipback.engine.capture.checks import reason

    assert "a replay would not call them" in reason(learner, step)
    assert reason(learner, update.split((update.sgd(), matrices), update.sgd())) is None
