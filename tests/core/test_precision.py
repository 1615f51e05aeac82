"""Precisions: a bfloat16 step is autocast and `torch.optim`, to the bit; oneDNN's product; and what is put back."""

import contextlib
import copy
import pickle
from dataclasses import replace

import nets
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import apart, batches, cross_entropy, equal, moved, twins, weights

import skipback as sb
from skipback import draws, precision, update
from skipback.signals import Delayed, OutputError, softmax, zeros
from skipback.step import ranks, stepper
from skipback.step.autocast_dense import AutocastDense
from skipback.step.rules import ModulesBlock

BF16 = torch.bfloat16


def learned(method):
    """With feedback that teaches from the first step on."""
    return replace(method, feedback=replace(method.feedback, draw=draws.Gaussian()))


METHODS = {
    "dfa": sb.dfa,
    "drtp": sb.drtp,
    # rows that bfloat16 holds: those in float32 are read as they are, where backward rounds them
    "f3": lambda: replace(sb.f3(memory=16), signal=Delayed(16, OutputError(softmax), zeros, BF16)),
    "dkp": lambda: learned(sb.dkp()),
    "fdfa": lambda: learned(sb.fdfa()),
    "shallow": sb.shallow,
    "fa": sb.fa,
    "bp": sb.bp,
    "anchored": lambda: sb.anchored(sb.dfa(), every=2),
}
BUILDS = {"mlp": nets.mlp, "named": nets.Named, "conv": nets.conv, "norm": nets.batchnorm, "dropout": nets.dropout}


def data_of(name):
    return batches(nets.IMAGE if name == "conv" else nets.FLAT, dtype=torch.float32)


def by_precision(learner, step, data, how):
    return [learner.step(x, t, loss=cross_entropy, update=step, ids=ids, precision=how).item() for x, t, ids in data]


def by_autocast(learner, optimizer, data, dtype=BF16):
    """The loop that torch's documentation shows."""
    losses = []
    for x, t, ids in data:
        with torch.autocast("cpu", dtype):
            loss = cross_entropy(learner(x, target=t, ids=ids), t)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def adam(learner):
    return torch.optim.Adam(learner.parameters(), lr=0.01, fused=True)


# ------------------------------------------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_bf16_is_autocast_to_the_bit(name, build):
    data = data_of(build)
    one, other = twins(BUILDS[build], METHODS[name](), data[0][0], dtype=torch.float32)
    before = weights(one)
    torch.manual_seed(5)
    losses = by_precision(one, step := update.adam(0.01), data, precision.bf16())
    torch.manual_seed(5)
    assert losses == by_autocast(other, adam(other), data)
    assert equal(one, other)
    assert moved(one, before)
    held = [*one.parameters(), *(v for s in step.optimizer.state.values() for v in s.values())]
    assert all(v.dtype is torch.float32 for v in held)
    plain, _ = twins(BUILDS[build], METHODS[name](), data[0][0], dtype=torch.float32)
    torch.manual_seed(5)
    by_precision(plain, update.adam(0.01), data, None)
    assert not equal(one, plain)  # so it was computed in bfloat16


def test_rows_of_float32_are_read_as_they_are():
    """Backward rounds a stored error to bfloat16, 8 bits: that moves a teaching by 2^-8 of its size, and no more."""
    data = data_of("mlp")[:1]
    one, other = twins(nets.mlp, sb.f3(memory=16), data[0][0], dtype=torch.float32)
    start = weights(one)
    by_precision(one, update.sgd(1.0), data, precision.bf16())
    by_autocast(other, torch.optim.SGD(other.parameters(), 1.0), data)
    for p, q, w in zip(one.net.parameters(), other.net.parameters(), start, strict=True):
        assert (p - q).norm() <= 2**-7 * (q - w).norm()  # rounded twice: the error, and the gradient made of it
    assert not equal(one, other)


ACTIVATIONS = [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Identity]


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_closed_form_is_the_generic_rule(monkeypatch, activation, dtype):
    """At a size for which products are split into blocks. The context of autocast is as good as a precision."""

    def build():
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(150, 70),
            activation(),
            nn.Linear(70, 60, bias=False),
            activation(),
            nn.Linear(60, 5),
        )

    data = batches((10, 15), 64, dtype=torch.float32, steps=2)
    one, other = twins(build, sb.dfa(), data[0][0], dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        by_precision(one, update.adam(0.01), data, None)
    ((_, form),) = one._stepper.chain.forms.values()
    assert all(isinstance(rule, AutocastDense) for rule in [*(rule for _, rule in form.hidden), form.head])
    monkeypatch.setattr("skipback.step.chain.rule", lambda modules, rows: ModulesBlock(modules))
    with torch.autocast("cpu", dtype):
        by_precision(other, update.adam(0.01), data, None)
    assert equal(one, other)
    third = twins(build, sb.dfa(), data[0][0], dtype=torch.float32)[0]
    by_autocast(third, adam(third), data, dtype)
    assert equal(one, third)


@pytest.mark.parametrize("build", ["mlp", "conv"])
def test_sgd_inside_the_product_changes_float32_weights(build):
    """By steps that bfloat16 weights, which have 8 bits, would lose."""
    data = data_of(build)
    one, other = twins(BUILDS[build], sb.dfa(), data[0][0], dtype=torch.float32)
    before = weights(one)
    by_precision(one, update.sgd(1e-3), data, precision.bf16())
    by_autocast(other, torch.optim.SGD(other.parameters(), 1e-3, fused=True), data)
    assert apart(one, other) < 3e-7
    assert moved(one, before)
    small = [(p.to(BF16) == q.to(BF16)) & (p != q) for p, q in zip(one.net.parameters(), before, strict=True)]
    assert all(bool(s.any()) for s in small)


@pytest.mark.parametrize("build", ["mlp", "named"])
def test_two_ranks(monkeypatch, build):
    """Both with the same batch here: their average is what one computes."""
    data = data_of(build)
    one, other = twins(BUILDS[build], sb.drtp(), data[0][0], dtype=torch.float32)
    by_precision(other, update.adam(0.01), data, precision.bf16())
    sent = []
    monkeypatch.setattr(stepper, "world", lambda: 2)
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(ranks, "check_alike", lambda held: None)

    def all_reduce(message, async_op):
        sent.append(message.dtype)
        message.mul_(2)

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    by_precision(one, update.adam(0.01), data, precision.bf16())
    assert equal(one, other)
    assert set(sent) == {torch.float32}


def test_copies_and_pickles_go_on():
    data = data_of("mlp")
    learner, _ = twins(nets.mlp, sb.drtp(), data[0][0], dtype=torch.float32)
    by_precision(learner, update.sgd(0.1), data[:2], precision.bf16())
    copies = [copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    by_precision(learner, update.sgd(0.1), data[2:], pickle.loads(pickle.dumps(precision.bf16())))
    for twin in copies:
        by_precision(twin, update.sgd(0.1), data[2:], precision.bf16())
        assert equal(twin, learner)


# ----------------------------------------------------------------------------------------- oneDNN's float32 product

exact = pytest.mark.skipif(not precision.exact(), reason="oneDNN rounds float32 on this processor")


@exact
@pytest.mark.parametrize("name", ["dfa", "drtp", "bp"])
def test_onednn_is_on_during_a_step(name):
    data, seen = data_of("mlp"), []
    one, other = twins(nets.mlp, METHODS[name](), data[0][0], dtype=torch.float32)

    def loss(y, t):
        seen.append(precision.product())
        return cross_entropy(y, t)

    step, before = update.adam(0.01), precision.product()
    for x, t, ids in data:
        one.step(x, t, loss=loss, update=step, ids=ids, precision=precision.onednn())
        assert precision.product() == before
    assert set(seen) == {"bf16" if name == "bp" else "none"}  # a chain of dense blocks takes the kernel itself
    by_precision(other, update.adam(0.01), data, None)
    assert apart(one, other) < 1e-4


def test_a_product_that_rounds_is_found():
    assert precision.error_of(torch.matmul) < precision.EXACT / 10
    assert precision.error_of(lambda a, b: (a.to(BF16) @ b.to(BF16)).float()) > 100 * precision.EXACT
    assert precision.error_of(lambda a, b: a.to(BF16).float() @ b) > 10 * precision.EXACT


def test_the_check_leaves_no_trace_and_autocast_does_not_fool_it():
    before, found, state = precision.product(), precision.error(), torch.get_rng_state()
    precision.error.cache_clear()
    with torch.autocast("cpu", BF16):
        assert precision.error() == found
    assert precision.product() == before
    assert torch.equal(state, torch.get_rng_state())


def test_a_processor_that_rounds_is_told_what_was_measured(monkeypatch):
    data = data_of("mlp")
    learner, _ = twins(nets.mlp, sb.dfa(), data[0][0], dtype=torch.float32)
    before, kept = weights(learner), precision.OneDNN()
    monkeypatch.setattr(precision, "error", lambda: 0.31)
    with pytest.raises(ValueError, match=r"is 0.31, and float32 stays below 0.001.*precision.bf16\(\)"):
        precision.onednn()
    with pytest.raises(ValueError, match="does not multiply float32 exactly"):  # made elsewhere
        by_precision(learner, update.adam(), data, kept)
    assert all(torch.equal(p, q) for p, q in zip(weights(learner), before, strict=True))


def test_without_onednn(monkeypatch):
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    assert precision.error.__wrapped__() == float("inf")


def test_onednn_is_refused_on_another_device():
    on = torch.nn.Parameter(torch.empty(2, device="meta"))
    with pytest.raises(ValueError, match=r"on meta, oneDNN computes on the CPU"), precision.OneDNN().during([on]):
        pass


# ----------------------------------------------------------------------------------------------- edges of all of them

EVERY = pytest.mark.parametrize("how", [precision.BF16(), pytest.param(precision.OneDNN(), marks=exact)])


@EVERY
@pytest.mark.parametrize("name", ["drtp", "dfa", "bp"])
def test_settings_are_put_back_when_a_step_fails(how, name):
    data = data_of("mlp")
    learner, other = twins(nets.mlp, METHODS[name](), data[0][0], dtype=torch.float32)
    before = precision.product()

    def wrong(y, t):
        raise RuntimeError("no loss today")

    learner.step(*data[0][:2], loss=cross_entropy, update=(step := update.sgd(0.1)), precision=how)
    kept = copy.deepcopy(learner.state_dict())
    with pytest.raises(RuntimeError, match="no loss today"):
        learner.step(*data[1][:2], loss=wrong, update=step, precision=how)
    assert precision.product() == before
    assert not torch.is_autocast_enabled("cpu")
    if name != "bp":
        chains = [learner._stepper.chain, *(form for _, form in learner._stepper.chain.forms.values())]
        assert all(getattr(rule, "saved", None) is None for one in chains for _, rule in one.hidden)
    learner.load_state_dict(kept)  # early blocks have learned by then
    by_precision(learner, step, data[1:], how)
    by_precision(other, update.sgd(0.1), data, how)
    assert equal(learner, other)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, BF16])
def test_weights_of_another_type_have_no_float32_master(how, dtype):
    data = batches(dtype=dtype)
    learner, _ = twins(nets.mlp, sb.dfa(), data[0][0], dtype=dtype)
    with pytest.raises(ValueError, match=rf"one of shape \(7, 6\) is {dtype}: call net.float\(\) before attach"):
        by_precision(learner, update.adam(), data, how)
    before = weights(learner)
    by_precision(learner, update.adam(), data, None)  # computes in its own type
    assert moved(learner, before)


def test_a_frozen_part_may_be_of_another_type():
    net = nn.Sequential(nn.Linear(6, 7).to(BF16).requires_grad_(False), nn.Tanh(), nn.Linear(7, 5))
    x, t, _ = data_of("mlp")[0]
    with torch.autocast("cpu", BF16):
        learner = sb.attach(net, sb.dfa(), x, show=None)
    before = weights(learner)
    learner.step(x, t, loss=cross_entropy, update=update.sgd(0.1), precision=precision.bf16())
    assert not torch.equal(before[2], net[2].weight)


@pytest.mark.parametrize("asked", [torch.float16, "float16", "fp16"])
def test_float16_is_refused_in_words(asked):
    x, t, _ = data_of("mlp")[0]
    learner, _ = twins(nets.mlp, sb.dfa(), x, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"GradScaler and loss.backward\(\), or precision.bf16\(\)"):
        learner.step(x, t, loss=cross_entropy, update=update.adam(), precision=asked)


@pytest.mark.parametrize("asked", [BF16, "bf16", True])
def test_only_precisions_are_precisions(asked):
    with pytest.raises(TypeError, match=r"must be skipback.precision.onednn\(\), skipback.precision.bf16\(\) or None"):
        precision.checked(asked)


def test_without_a_precision_the_settings_of_torch_hold():
    """Autocast of the user's, on or off, is left as it is."""
    x, t, _ = data_of("mlp")[0]
    for around, expected in ((torch.autocast("cpu", BF16), BF16), (contextlib.nullcontext(), torch.float32)):
        learner, _ = twins(nets.mlp, sb.dfa(), x, dtype=torch.float32)
        seen = []
        with around:
            learner.step(x, t, loss=lambda y, t: seen.append(y.dtype) or F.cross_entropy(y, t), update=update.adam())  # noqa: B023
        assert seen == [expected]
