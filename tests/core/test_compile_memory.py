"""Delayed signals under torch.compile's default backend: what a pass has read is not read again after the write.

Wide enough that the backward pass does a part of the work: for a few units torch moves all of it to the forward pass,
and nothing can go wrong.
"""

import copy
import functools

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import made
from torch import nn
from torch.utils.checkpoint import checkpoint

import skipback as sb
from skipback import memory
from skipback.memory import Memory
from skipback.methods.f3 import signals
from skipback.signals import softmax

SAMPLES, N, STEPS = 40, 16, 4


def cross_entropy(p, t):
    return -(t * p.log()).sum(1).mean()


NINE = signals(memory=SAMPLES, link=softmax, loss=cross_entropy)
DELAYED = ["delayed_error", "delayed_error_one_hot", "delayed_error_softmax", "delayed_loss"]


class Own(nn.Module):
    """The usual tutorial network: no nn.Sequential, so `step` goes by hooks or, compiled, by `backward`."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 48), nn.Linear(48, 48), nn.Linear(48, nets.C)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def data():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SAMPLES, 6, generator=generator)
    return x, torch.randint(nets.C, (SAMPLES,), generator=generator)


def pair(signal="delayed_error"):
    x, _ = data()
    learner = sb.attach(made(Own, dtype=torch.float32), sb.f3(memory=SAMPLES, signal=NINE[signal]), x[:4], show=None)
    return copy.deepcopy(learner), learner


def batches(sizes):
    """Overlapping batches: some of their samples were seen and some were not."""
    return [torch.arange(10 * k, 10 * k + size) % SAMPLES for k, size in enumerate(sizes)]


def train(one, call, sizes):
    """SGD. Returns the gradients of each step."""
    (x, t), optimizer, found = data(), torch.optim.SGD(one.parameters(), lr=0.5), []
    for ids in batches(sizes):
        optimizer.zero_grad()
        F.cross_entropy(call(x[ids], target=t[ids], ids=ids), t[ids]).backward()
        found.append(nets.gradients(one.net))
        optimizer.step()
    return found


def apart(signal="delayed_error", sizes=(N,) * STEPS, **options):
    """How far the gradients of a compiled learner are from those of eager mode; and the two learners."""
    eager, learner = pair(signal)
    expected = train(eager, eager, sizes)
    found = train(learner, torch.compile(learner, fullgraph=True, **options), sizes)
    return max(nets.difference(a, b) for a, b in zip(expected, found, strict=True)), eager, learner


def check(eager, learner):
    assert torch.equal(eager.memory.seen, learner.memory.seen)
    torch.testing.assert_close(eager.memory.rows, learner.memory.rows, rtol=0, atol=1e-6)
    assert nets.difference(eager.net.state_dict(), learner.net.state_dict()) < 1e-5


@pytest.mark.parametrize(
    "signal", [DELAYED[0], *(pytest.param(name, marks=pytest.mark.compile) for name in DELAYED[1:])]
)
def test_gradients_and_memory_are_those_of_eager_mode(signal):
    worst, eager, learner = apart(signal)
    assert worst < 1e-5
    check(eager, learner)


@pytest.mark.compile
def test_batches_of_several_sizes_in_one_graph():
    worst, eager, learner = apart(sizes=(16, 12, 20, 9), dynamic=True)
    assert worst < 1e-5
    check(eager, learner)


@pytest.mark.compile
def test_a_backward_pass_that_reads_again_would_be_noticed(monkeypatch):
    """The trap: without an order between reading and writing, compiled F3 is DFA."""
    monkeypatch.setattr(memory, "_after_reading", lambda rows, *read: rows)
    worst, *_ = apart()
    assert worst > 0.1


@pytest.mark.compile
@pytest.mark.parametrize("compiler", [True, functools.partial(torch.compile, dynamic=True)], ids=["static", "dynamic"])
def test_a_compiled_step(compiler):
    one, other = pair()
    x, t = data()
    for learner, compiled in ((one, False), (other, compiler)):
        update = sb.update.sgd(lr=0.5)
        for ids in batches((N,) * STEPS):
            learner.step(x[ids], t[ids], loss=F.cross_entropy, update=update, ids=ids, compile=compiled)
    check(one, other)
    dfa = sb.attach(made(Own, dtype=torch.float32), sb.dfa(feedback=one.method.feedback), x[:4], show=None)
    update = sb.update.sgd(lr=0.5)
    for ids in batches((N,) * STEPS):
        dfa.step(x[ids], t[ids], loss=F.cross_entropy, update=update)
    assert nets.difference(dfa.net.state_dict(), other.net.state_dict()) > 1e-3


def test_evaluation_in_a_graph_writes_nothing():
    eager, learner = pair()
    x, t = data()
    ids = torch.arange(N)
    compiled = torch.compile(learner, fullgraph=True, backend="aot_eager")
    train(learner, compiled, (N,))
    before = {key: value.clone() for key, value in learner.memory.state_dict().items()}
    learner.eval()
    with torch.no_grad():
        compiled(x[ids], target=t[ids], ids=ids)
    assert nets.same(before, learner.memory.state_dict())
    learner.train()
    train(eager, eager, (N,))
    expected = train(eager, eager, (N,))
    for one in (learner, copy.deepcopy(learner)):
        found = train(one, torch.compile(one, fullgraph=True, backend="aot_eager"), (N,))
        assert nets.difference(expected[0], found[0]) < 1e-5


def test_an_id_that_is_not_there_is_refused_in_our_words():
    _, learner = pair()
    x, t = data()
    with pytest.raises(IndexError, match="ids reach from 0 to 40, but the memory was made for samples 0 to 39"):
        torch.compile(learner, fullgraph=True, backend="aot_eager")(x[:2], target=t[:2], ids=torch.tensor([0, 40]))
    assert not learner.memory.seen.any()


def test_masked_rows_in_a_graph():
    eager, compiled = (Memory(6, 2, record=lambda y, t: y, initial=lambda record, t: t - 1) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    step = torch.compile(visit, fullgraph=True, backend="aot_eager")
    for mask in ([True, False, True], [False, False, False], [False, True, True]):
        ids, y = torch.tensor([4, 0, 2]), torch.randn(3, 2, generator=generator)
        expected = visit(eager, ids, y, torch.tensor(mask))
        assert torch.equal(expected, step(compiled, ids, y, torch.tensor(mask)))
    assert nets.same(eager.state_dict(), compiled.state_dict())


def visit(memory, ids, y, mask):
    read = memory.read(ids, torch.zeros_like(y))
    memory.write(ids, y, y, mask)
    return read


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("activation_memory_budget", 0.5),
        ("activation_memory_budget", 0.0),
        ("aggressive_recomputation", True),
        ("ban_recompute_not_in_allowlist", False),
    ],
)
def test_a_compiler_that_may_compute_anything_again_is_refused(setting, value):
    """With a budget of 0 F3 was DFA in silence."""
    _, learner = pair()
    x, t = data()
    call = torch.compile(learner)
    with torch._functorch.config.patch({setting: value}), pytest.raises(Exception, match="leave these settings at"):
        call(x[:4], target=t[:4], ids=torch.arange(4))
    assert not learner.memory.seen.any()


def test_a_checkpoint_around_the_learner_is_refused():
    _, learner = pair()
    x, t = data()

    def call(x, t, ids):
        return checkpoint(lambda x: learner(x, target=t, ids=ids), x, use_reentrant=False)

    y = torch.compile(call, backend="aot_eager")(x[:4], t[:4], torch.arange(4))
    with pytest.raises(RuntimeError, match="runs again in backward"):
        F.cross_entropy(y, t[:4]).backward()
