"""Measures: what alignment says, when it may be read, and that nothing changes by looking."""

import copy
import math

import nets
import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from nets import C, batch, gradients, linear_mlp, made, same, teach
from torch import nn

import skipback as sb
from skipback.measure.alignment import Verdict, _compare, alignment


def attached(method, build=nets.mlp, *, shape=nets.FLAT, n=8):
    x, t, ids = batch(shape, n)
    return sb.attach(made(build), method, x, show=None), x, t, ids


def measure(learner, x, t, ids=None):
    return alignment(learner, x, t, F.cross_entropy, ids=ids)


def products(learner):
    """B_l = W_L ... W_{l+1}."""
    B, weights = [], [m.weight for m in learner.net if isinstance(m, nn.Linear)]
    for k in range(1, len(weights)):
        product = weights[-1]
        for W in reversed(weights[k:-1]):
            product = product @ W
        B.append(product.detach())
    return B


def set_feedback(learner, values):
    with torch.no_grad():
        for B, value in zip(learner.feedback.values(), values, strict=True):
            B.copy_(value)


# ------------------------------------------------------------------------------------------------------ the numbers


def test_a_linear_network_with_the_product_of_its_weights_is_aligned():
    learner, x, t, _ = attached(sb.dfa(), lambda: linear_mlp(6, 7, 8, C))
    set_feedback(learner, products(learner))
    found = measure(learner, x, t)
    assert [one.port for one in found] == ["0", "1"]
    for one in found:
        assert one.cosine == pytest.approx(1, abs=1e-12)
        assert one.degrees == pytest.approx(0, abs=1e-3)
        assert one.teaching_norm == pytest.approx(one.gradient_norm, rel=1e-12)
        assert one.verdict is Verdict.VALID


def test_the_opposite_feedback_points_the_other_way():
    learner, x, t, _ = attached(sb.dfa(), lambda: linear_mlp(6, 7, 8, C))
    set_feedback(learner, [-2 * B for B in products(learner)])
    for one in measure(learner, x, t):
        assert one.cosine == pytest.approx(-1, abs=1e-12)
        assert one.degrees == pytest.approx(180, abs=1e-3)
        assert one.teaching_norm == pytest.approx(2 * one.gradient_norm, rel=1e-12)
        assert one.verdict is Verdict.VALID


def test_numbers_against_numpy():
    """Mean over samples of the cosine, on tanh layers; gradients by the chain rule of the oracle."""
    learner, x, t, _ = attached(sb.dfa())
    layers = [m for m in learner.net if isinstance(m, nn.Linear)]
    net = oracles.MLP(
        [m.weight.detach().numpy() for m in layers], [m.bias.detach().numpy() for m in layers], oracles.softmax
    )
    hs, _, y = net.forward(x.numpy())
    e = oracles.head_error_ce(y, oracles.one_hot(t.numpy(), C))
    second = e @ net.W[2]
    first = (second * (1 - hs[2] ** 2)) @ net.W[1]
    for one, exact, B in zip(measure(learner, x, t), (first, second), learner.feedback.values(), strict=True):
        teaching = e @ B.numpy()
        norms = np.linalg.norm(teaching, axis=1), np.linalg.norm(exact, axis=1)
        cosine = np.mean((teaching * exact).sum(1) / (norms[0] * norms[1]))
        assert one.cosine == pytest.approx(cosine, rel=1e-10)
        assert one.degrees == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-5)
        assert one.teaching_norm == pytest.approx(norms[0].mean(), rel=1e-10)
        assert one.gradient_norm == pytest.approx(norms[1].mean(), rel=1e-10)


def test_ports_of_convolutions_are_flattened():
    learner, x, t, _ = attached(sb.dfa(), nets.conv, shape=nets.IMAGE)
    found = measure(learner, x, t)
    assert [one.port for one in found] == ["0", "3"]
    units = [math.prod(B.shape[1:]) for B in learner.feedback.values()]
    for one, size in zip(found, units, strict=True):
        assert 2 / math.sqrt(size * C) < one.null_band < 2 / math.sqrt(size)


def test_every_method_measures_what_it_teaches(direct, case, monkeypatch):
    """The teaching of the measure is that of training: with it as the gradient at the port, the same gradients."""
    x, t, ids = batch(case.shape)
    learner = sb.attach(made(case.build), direct, x, show=None)
    torch.manual_seed(5)
    teach(learner, x, t, ids)  # early signals: a visit to remember
    torch.manual_seed(5)
    found = {
        one.port: one for one in alignment(learner, x, t, lambda y, t: F.cross_entropy(nets.logits(y), t), ids=ids)
    }
    seen = {}

    def spy(self, lesson, parts):
        teaching = project(self, lesson, parts)
        seen[lesson.port.name] = teaching.flatten(1).double().norm(dim=1).mean().item()
        return teaching

    cls = type(direct.feedback)
    project = cls.project
    monkeypatch.setattr(cls, "project", spy)  # which leaves nothing behind where it is inherited
    torch.manual_seed(5)
    teach(learner, x, t, ids)
    assert set(found) == set(seen)
    for block, norm in seen.items():
        assert found[block].teaching_norm == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("method", [sb.bp(), sb.shallow()])
def test_methods_without_a_signal_have_nothing_to_measure(method):
    learner, x, t, _ = attached(method)
    assert measure(learner, x, t) == []


def test_several_inputs_are_a_tuple():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(6, 7), nn.Linear(7, C)

        def forward(self, x, factor):
            return self.out(torch.tanh(self.a(x * factor)))

    x, t, _ = batch()
    learner = sb.attach(made(Two), sb.dfa(), show=None)
    assert [one.port for one in alignment(learner, (x, x), t, F.cross_entropy)] == ["a"]


def test_a_delayed_signal_needs_ids():
    learner, x, t, ids = attached(sb.f3(memory=8))
    with pytest.raises(ValueError, match="pass ids="):
        measure(learner, x, t)
    assert len(measure(learner, x, t, ids)) == 2


# ------------------------------------------------------------------------------------------- when it may be read


def test_the_null_band_is_two_standard_deviations_under_random_feedback():
    """400 draws of a gaussian feedback that has nothing to do with the network: mean 0, spread = band / 2.

    The standard deviation of an estimated standard deviation from 400 draws is 1/sqrt(800) = 3.5 %.
    """
    learner, x, t, _ = attached(sb.dfa(), lambda: nn.Sequential(nn.Linear(6, 60), nn.Tanh(), nn.Linear(60, C)), n=40)
    generator = torch.Generator().manual_seed(2)
    cosines = []
    for _ in range(400):
        set_feedback(learner, [torch.randn(C, 60, generator=generator)])
        (one,) = measure(learner, x, t)
        cosines.append(one.cosine)
    cosines = np.array(cosines)
    assert abs(cosines.mean()) < 5 * one.null_band / 2 / math.sqrt(400)
    assert 0.86 < cosines.std() / (one.null_band / 2) < 1.14


def one_hidden(width, outputs, x):
    return sb.attach(
        made(lambda: nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, outputs))), sb.dfa(), x, show=None
    )


@pytest.mark.parametrize("outputs", [2, 3, 5, 10])
def test_random_feedback_leaves_the_null_band_as_often_as_said(outputs):
    """1000 draws: 4.6 % of a normal variable is outside of two standard deviations; a share of it is known to 0.7 %.

    The errors of a softmax sum to zero, so for few outputs C directions would be one too many.
    """
    x, t, _ = batch(n=40)
    learner, generator = one_hidden(60, outputs, x), torch.Generator().manual_seed(outputs)
    with learner.exact(), torch.no_grad():
        e = torch.softmax(learner.net(x), 1) - F.one_hot(t % outputs, outputs)
    exact = e @ learner.net[2].weight.detach()
    (one,) = measure(learner, x, t % outputs)
    same = _compare("0", e @ learner.feedback["0"], exact)
    assert (same.cosine, same.null_band) == pytest.approx((one.cosine, one.null_band), rel=1e-10)
    draws = torch.randn(1000, outputs, 60, generator=generator, dtype=torch.float64)
    found = [_compare("0", e @ B, exact) for B in draws]
    assert np.mean([one.verdict is Verdict.VALID for one in found]) == pytest.approx(0.0455, abs=0.026)
    spread = math.sqrt(np.mean([one.null_band**2 for one in found])) / 2
    assert np.std([one.cosine for one in found]) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(("labels", "directions"), [([0, 1, 0, 1], 1), ([0, 1, 2, 0], None)])
def test_the_null_band_counts_the_directions_of_the_errors(labels, directions):
    """Two outputs: every error is +-(1, -1), one direction, however many samples; three: two directions at most."""
    outputs = max(labels) + 1
    x, _, _ = batch(n=4)
    learner = one_hidden(9, outputs, x)
    (one,) = measure(learner, x, torch.tensor(labels))
    if directions == 1:
        assert one.null_band == pytest.approx(2 / math.sqrt(9), rel=1e-6)
    else:
        assert 2 / math.sqrt(9 * 2) < one.null_band < 2 / math.sqrt(9)


def test_a_cosine_inside_the_band_is_suspicious_and_outside_valid():
    learner, x, t, _ = attached(sb.dfa(), lambda: nn.Sequential(nn.Linear(6, 60), nn.Tanh(), nn.Linear(60, C)))
    W = learner.net[2].weight.detach()
    noise = torch.randn(C, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noise -= noise @ torch.linalg.pinv(W) @ W  # orthogonal to the exact feedback
    verdicts = {}
    for share in (0.0, 0.01, 0.9, -0.9):
        set_feedback(learner, [share * W / W.norm() + (1 - abs(share)) * noise / noise.norm()])
        (one,) = measure(learner, x, t)
        assert (abs(one.cosine) > one.null_band) == (one.verdict is Verdict.VALID)
        verdicts[share] = one.verdict
    assert verdicts == {
        0.0: Verdict.SUSPICIOUS,
        0.01: Verdict.SUSPICIOUS,
        0.9: Verdict.VALID,
        -0.9: Verdict.VALID,
    }


@pytest.mark.parametrize("what", ["teaching", "gradient"])
def test_where_a_vector_vanishes_there_is_no_direction(what):
    learner, x, t, _ = attached(sb.dfa(), lambda: linear_mlp(6, 7, C))
    with torch.no_grad():
        for tensor in learner.feedback.values() if what == "teaching" else [learner.net[1].weight]:
            tensor.zero_()
    (one,) = measure(learner, x, t)
    assert one.verdict is Verdict.INVALID
    assert one.cosine == 0
    assert (one.teaching_norm if what == "teaching" else one.gradient_norm) == 0


def test_samples_without_a_direction_are_left_out():
    """Two dead samples of eight: the mean is over the other six."""
    learner, x, t, _ids = attached(sb.drtp())
    alive = measure(learner, x[2:], F.one_hot(t[2:], C).double())
    target = F.one_hot(t, C).double()
    target[:2] = 0
    for one, other in zip(measure(learner, x, target), alive, strict=True):
        assert one.cosine == pytest.approx(other.cosine, rel=1e-10)


# -------------------------------------------------------------------------------------------------- nothing changes


def everything(learner):
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    state["random"] = torch.get_rng_state()
    for name, p in learner.net.named_parameters():
        state[f"{name}.grad"] = None if p.grad is None else p.grad.clone()
    return state


def measured(learner, x, t, ids):
    return alignment(learner, x, t, lambda y, t: F.cross_entropy(nets.logits(y), t), ids=ids)


@pytest.mark.parametrize("fill", [False, True])
def test_nothing_changes_by_measuring(direct, case, fill):
    """Weights, buffers (also of batch norm), memory, random state and gradients."""
    x, t, ids = batch(case.shape)
    learner = sb.attach(made(case.build), direct, x, show=None)
    if fill:
        teach(learner, x, t, ids)
    before = everything(learner)
    measured(learner, x, t, ids)
    assert same(before, everything(learner))
    assert learner.training


def test_training_with_and_without_measuring_is_one_trajectory(direct, case):
    x, t, ids = batch(case.shape)
    results = []
    for looking in (False, True):
        learner = sb.attach(made(case.build), direct, x, show=None)
        opt = torch.optim.SGD(learner.parameters(), lr=0.1)
        torch.manual_seed(5)
        for _ in range(3):
            if looking:
                measured(learner, x, t, ids)
            opt.zero_grad()
            teach(learner, x, t, ids)
            if looking:
                measured(learner, x, t, ids)
            opt.step()
        results.append(everything(learner))
    assert same(*results)


def test_buffers_that_are_replaced_come_back_as_well():
    """Not every module writes its buffers in place."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))
            self.a, self.out = nn.Linear(6, 7), nn.Linear(7, C)

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
            return self.out(torch.tanh(self.a(x)))

    x, t, _ = batch()
    net = made(Counting)
    buffer = net.mean
    learner = sb.attach(net, sb.dfa(), x, show=None)
    measure(learner, x, t)
    assert net.mean is buffer
    assert net.mean == 0
    learner(x)
    assert net.mean != 0


def test_measuring_does_not_need_gradients_switched_on():
    learner, x, t, _ = attached(sb.dfa())
    expected = measure(learner, x, t)
    with torch.no_grad():
        assert measure(learner, x, t) == expected


def test_measuring_finds_the_blocks_if_nobody_has():
    x, t, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.dfa(), show=None)
    known, *_ = attached(sb.dfa())
    assert measure(learner, x, t) == measure(known, x, t)


def test_dropout_masks_are_those_of_the_training_pass():
    """The gradient that is compared is on the same masks as the next forward pass from this random state."""
    learner, x, t, _ = attached(sb.dfa(), nets.dropout)
    torch.manual_seed(7)
    one = measure(learner, x, t)
    again = measure(learner, x, t)
    assert one == again
    kept = {}
    handle = learner.net[6].register_forward_pre_hook(lambda module, args: kept.update(h=args[0]))
    with learner.exact():
        y = learner(x)  # from the state that measuring has left, which is the one before it
    handle.remove()
    (gradient,) = torch.autograd.grad(F.cross_entropy(y, t), kept["h"])
    assert one[1].gradient_norm == gradient.flatten(1).norm(dim=1).mean().item()
    assert measure(learner, x, t) != one  # the random state has moved on: other masks


def test_evaluation_mode_measures_without_dropout():
    learner, x, t, _ = attached(sb.dfa(), nets.dropout)
    learner.eval()
    one = measure(learner, x, t)
    torch.manual_seed(99)
    assert measure(learner, x, t) == one
    assert not learner.training


def test_the_memory_is_read_as_it_is():
    """A measure before the first visit sees the initial rows, after it those of the visit; and writes none."""
    learner, x, t, ids = attached(sb.f3(memory=8, signal=sb.signals.Delayed(8, dtype=torch.float64)))
    first = measure(learner, x, t, ids)
    assert not learner.memory.seen.any()
    teach(learner, x, t, ids)
    dfa, *_ = attached(sb.dfa(feedback=learner.method.feedback))
    assert [one.cosine for one in measure(learner, x, t, ids)] == pytest.approx(
        [one.cosine for one in measure(dfa, x, t)], rel=1e-10
    )
    assert first != measure(learner, x, t, ids)


def test_measuring_leaves_the_graph_of_a_pending_loss_alone():
    learner, x, t, _ = attached(sb.dfa())
    other = copy.deepcopy(learner)
    loss = F.cross_entropy(learner(x), t)
    measure(learner, x, t)
    loss.backward()
    teach(other, x, t, None)
    assert same(gradients(learner.net), gradients(other.net))
