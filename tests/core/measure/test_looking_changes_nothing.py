"""Every measure on every method: weights, gradients, statistics, memory, counters, random states stay as they are."""

import copy

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import C, batch, gradients, made, same, teach
from torch import nn

import skipback as sb
from skipback.measure.stability import stability
from skipback.methods.ifa import Relayed

MEASURES = [
    sb.alignment,
    sb.audit,
    sb.feedback_alignment,
    sb.feedback_rank,
    sb.gradient_alignment,
    sb.growth,
    sb.norm_ratio,
    sb.saturation,
    stability,
]


def both(norm=nn.BatchNorm1d):
    """Batch norm and dropout."""
    return nn.Sequential(
        *(nn.Linear(6, 7), norm(7), nn.Tanh(), nn.Dropout(0.3)),
        *(nn.Linear(7, 5), norm(5), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(5, C),
    )


def layer_norm():
    """For a method that carries the teaching of each sample by itself, and refuses batch norm."""
    return both(nn.LayerNorm)


def look(learner, measures=MEASURES):
    x, t, ids = batch()
    return {measure.__name__: measure(learner, x, t, F.cross_entropy, ids=ids) for measure in measures}


def trained(method, *, looking, build=both):
    """What two epochs of two batches leave."""
    learner = sb.attach(made(build), method, batch()[0], show=None)
    opt = torch.optim.SGD(learner.parameters(), lr=0.1)
    torch.manual_seed(5)
    for seed in (1, 2, 1, 2):
        x, t, ids = batch(seed=seed)
        if looking:
            look(learner)
        opt.zero_grad()
        teach(learner, x, t, ids + 8 * (seed - 1))
        if looking:
            look(learner)
        opt.step()
    return {**learner.state_dict(), "random": torch.get_rng_state(), **gradients(learner)}


def test_training_with_and_without_looking_is_one_trajectory(method):
    build = layer_norm if isinstance(getattr(method, "feedback", None), Relayed) else both
    assert same(trained(method, looking=False, build=build), trained(method, looking=True, build=build))


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_leaves_gradients_and_counters(measure):
    learner = sb.attach(made(both), sb.f3(memory=16), batch()[0], show=None)
    teach(learner, *batch())
    memory, grads = copy.deepcopy(learner.memory), gradients(learner)
    for _ in range(2):  # the second pass of the same samples is one that the memory checks
        look(learner, [measure])
    for name in ("input_checks_left", "all_seen", "visits_until_rescan", "may_sync"):
        assert getattr(memory, name) == getattr(learner.memory, name)
    assert same(memory.state_dict(), learner.memory.state_dict())
    assert same(grads, gradients(learner))
    assert all(p.grad is not None for p in learner.net.parameters())


@pytest.mark.parametrize("measure", MEASURES)
def test_a_loss_that_waits_for_its_backward_still_gives_the_same(method, measure):
    x, t, ids = batch()
    found = []
    for looking in (False, True):
        learner = sb.attach(made(nets.mlp), method, x, show=None)
        loss = F.cross_entropy(learner(x, target=t, ids=ids), t)
        if looking:
            look(learner, [measure])
        loss.backward()
        found.append(gradients(learner))
    assert same(*found)


def test_modes_of_modules_come_back():
    learner = sb.attach(made(both), sb.dfa(), show=None).eval()
    learner.net[1].train()
    look(learner, [sb.audit])
    assert [m.training for m in learner.net.modules()].count(True) == 1
    assert learner.net[1].training


def test_a_pass_that_fails_leaves_the_learner_as_it_was():
    learner = sb.attach(made(nets.mlp), sb.f3(memory=16), batch()[0], show=None)
    x, t, ids = batch()
    before = {name: value.clone() for name, value in learner.state_dict().items()}

    def broken(y, t):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sb.gradient_alignment(learner, x, t, broken, ids=ids)
    assert same(before, dict(learner.state_dict()))
    teach(learner, x, t, ids)
    assert all(p.grad is not None for p in learner.net.parameters())


@pytest.mark.parametrize("measure", MEASURES)
def test_a_delayed_signal_needs_ids(measure):
    x, t, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.f3(memory=16), x, show=None)
    with pytest.raises(ValueError, match="pass ids="):
        measure(learner, x, t, F.cross_entropy)
