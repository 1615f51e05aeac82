"""Compiled steps: the numbers of plain ones. By AOT autograd without code generation, which would take a minute."""

import copy
import functools
import itertools
import pickle
from dataclasses import replace

import nets
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from twins import apart, batches, cross_entropy, equal, moved, twins, weights

import skipback as sb
from skipback import draws, precision, update
from skipback.step.autocast_dense import AutocastDense
from skipback.step.compiled import Compiled
from skipback.step.rules import Dense

METHODS = {
    "dfa": sb.dfa,
    "drtp": sb.drtp,
    "f3": lambda: sb.f3(memory=16),
    "dkp": lambda: replace(sb.dkp(), feedback=replace(sb.dkp().feedback, draw=draws.Gaussian())),
    "bp": sb.bp,
}
AOT = functools.partial(torch.compile, backend="aot_eager")
AUTOGRAD = {"conv": (nets.conv, 2), "norm": (nets.batchnorm, 2)}
"""Chains, and how many of their blocks go by autograd."""


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _pickled(learner):
    return pickle.loads(pickle.dumps(learner))


def counting():
    counter = CompileCounterWithBackend("aot_eager")
    return counter, functools.partial(torch.compile, backend=counter)


def data_of(name, **kw):
    return batches(nets.IMAGE if name == "conv" else nets.FLAT, **kw)


def by(learner, step, data, compile=False, **kw):
    """Train by `step`. Returns the losses."""
    kw = {"loss": cross_entropy, "update": step, "compile": compile, **kw}
    return [learner.step(x, t, ids=ids, **kw).item() for x, t, ids in data]


@pytest.mark.parametrize(("name", "build"), [("dfa", "conv"), ("drtp", "norm"), ("f3", "conv"), ("dkp", "norm")])
def test_fifty_steps_are_those_of_the_plain_step(name, build):
    data, (net, blocks) = data_of(build) * 10, AUTOGRAD[build]
    one, other = twins(net, METHODS[name](), data[0][0])
    before, (counter, compiler) = weights(one), counting()
    losses = by(one, update.adam(0.01), data, compiler)
    assert losses == pytest.approx(by(other, update.adam(0.01), data), rel=1e-9)
    assert apart(one, other) < 1e-6
    assert moved(one, before)
    assert counter.frame_count == blocks
    ((_, form),) = one._stepper.chain.forms.values()
    kinds = [type(rule) for rule in [*(rule for _, rule in form.hidden), form.head]]
    assert kinds.count(Compiled) == blocks
    assert kinds.count(Dense) == len(kinds) - blocks


def test_backward_is_compiled_too():
    data = data_of("conv")
    learner, _ = twins(nets.conv, sb.drtp(), data[0][0])
    by(learner, update.adam(), data, AOT)
    ((_, form),) = learner._stepper.chain.forms.values()
    (_, rule), *_ = form.hidden
    y = rule.run(data[0][0])
    assert not y.requires_grad
    assert "CompiledFunction" in type(rule.y.grad_fn).__name__


def test_dense_blocks_stay_in_closed_form():
    data, (counter, compiler) = data_of("mlp"), counting()
    one, other = twins(nets.mlp, sb.fdfa(), data[0][0])
    by(one, update.adam(), data, compiler)
    by(other, update.adam(), data)
    assert counter.frame_count == 0
    assert equal(one, other)


def test_many_blocks_are_all_compiled():
    """Each has code of its own: for one code, torch stops compiling after 8 graphs, in silence."""

    def build():
        sizes = [6, *range(7, 16), 5]
        layers = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.ELU())]
        return nn.Sequential(*layers[:-1])

    data, (counter, compiler) = data_of("mlp", steps=2), counting()
    one, other = twins(build, sb.drtp(), data[0][0])
    by(one, update.sgd(0.1), data, compiler)
    by(other, update.sgd(0.1), data)
    assert counter.frame_count == 9
    assert apart(one, other) < 1e-12


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch hides it, unless it is an error
@pytest.mark.parametrize(("build", "method"), [("named", "f3"), ("named", "dkp"), ("conv", "bp")])
def test_what_has_no_chain_is_compiled_as_a_whole(build, method):
    net = {"named": nets.Named, "conv": nets.conv}[build]
    data, (counter, compiler) = data_of(build), counting()
    one, other = twins(net, METHODS[method](), data[0][0])
    by(one, update.adam(0.01), data, compiler)
    by(other, update.adam(0.01), data)
    a, b = ({k: v for k, v in m.state_dict().items() if "prints" not in k} for m in (one, other))
    assert nets.same(a, b)  # but for the prints of the inputs, which a compiled pass does not take
    found = counter.frame_count
    assert found >= 1
    by(one, update.adam(0.01), data, compiler)
    assert counter.frame_count == found


def test_a_batch_of_another_size_and_plain_steps_between():
    data = data_of("conv")
    mixed = [*data, *[(x[:5], t[:5], i[:5]) for x, t, i in data], *data]
    one, other = twins(nets.conv, sb.f3(memory=16), data[0][0])
    step = update.adam(0.01)
    for k, one_batch in enumerate(mixed):
        by(one, step, [one_batch], AOT if k % 3 else False)
    by(other, update.adam(0.01), mixed)
    assert apart(one, other) < 1e-9


def test_compiled_once_for_each_compiler_and_again_when_the_network_changes():
    data, (counter, compiler), (second, another) = data_of("norm"), counting(), counting()
    one, other = twins(nets.batchnorm, sb.dfa(), data[0][0])
    step, plain = update.adam(0.01), update.adam(0.01)
    by(one, step, data, compiler)
    assert (counter.frame_count, second.frame_count) == (2, 0)
    by(one, step, data, another)
    assert (counter.frame_count, second.frame_count) == (2, 2)
    by(other, plain, data * 2)
    for learner in (one, other):
        learner.net[2] = nn.ELU()
    by(one, step, data, compiler)
    by(other, plain, data)
    assert counter.frame_count == 4
    assert apart(one, other) < 1e-9


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(("build", "twice"), [(nets.batchnorm, copy.deepcopy), (nets.Named, _pickled)])
def test_copies_and_pickles_compile_for_themselves(build, twice):
    data = data_of("mlp", steps=2)
    learner, _ = twins(build, sb.dfa(), data[0][0])
    by(learner, update.sgd(0.1), data, AOT)
    twin = twice(learner)
    by(learner, update.sgd(0.1), data, AOT)
    assert not equal(twin, learner)
    by(twin, update.sgd(0.1), data, AOT)
    assert apart(twin, learner) < 1e-12


def test_in_bfloat16():
    data, (counter, compiler) = data_of("conv", dtype=torch.float32), counting()
    one, other = twins(nets.conv, sb.drtp(), data[0][0], dtype=torch.float32)
    step, low = update.sgd(0.1), precision.bf16()
    by(one, step, data, compiler, precision=low)
    by(other, update.sgd(0.1), data, precision=low)
    assert apart(one, other) < 1e-6
    assert not equal(one, twins(nets.conv, sb.drtp(), data[0][0], dtype=torch.float32)[0])
    assert counter.frame_count == 2
    by(one, step, data, compiler)  # in float32 again
    heads = [type(form.head) for _, form in one._stepper.chain.forms.values()]
    assert heads == [AutocastDense, Dense]


def test_a_step_that_fails_lets_go():
    data = data_of("conv")
    learner, _ = twins(nets.conv, sb.dfa(), data[0][0])
    by(learner, update.sgd(0.1), data[:1], AOT)
    with pytest.raises(ValueError, match="nothing"):
        learner.step(*data[0][:2], loss=lambda y, t: _nothing(), update=update.sgd(0.1), compile=AOT)
    ((_, form),) = learner._stepper.chain.forms.values()
    assert all(rule.y is None for _, rule in form.hidden if isinstance(rule, Compiled))


def _nothing():
    raise ValueError("nothing")


@pytest.mark.parametrize("asked", ["inductor", 1, {"backend": "inductor"}])
def test_a_name_does_not_compile(asked):
    x, t, _ = data_of("mlp")[0]
    learner, _ = twins(nets.mlp, sb.dfa(), x)
    with pytest.raises(TypeError, match=r"True, False, or a function that compiles one"):
        learner.step(x, t, loss=cross_entropy, update=update.adam(), compile=asked)
