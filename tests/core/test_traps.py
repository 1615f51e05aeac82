"""Traps into which other code has fallen: one short test for each row of the reference's table of traps.

Each says the trap and where it was seen. Longer tests of the same stand where the part is tested.
"""

import copy
import importlib
import inspect
import io
import itertools
import time
from pathlib import Path

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, difference, gradients, made, same, teach
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import skipback as sb
from skipback.core.method import HeadOnly

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def attached(method, build=nets.mlp, shape=nets.FLAT, *, seed=0, dtype=torch.float64):
    x, t, ids = batch(shape, dtype=dtype)
    return sb.attach(made(build, seed=seed, dtype=dtype), method, x, show=None), x, t, ids


def test_hidden_weights_move(method):
    """Hidden weights never move, and the loss still falls: BioTorch `constrain_weights`, AiDotNet#1840."""
    if isinstance(method, HeadOnly):
        pytest.skip("the floor: its hidden weights are meant to stay, and it says so")
    learner, x, t, ids = attached(method)
    before = copy.deepcopy(learner.net.state_dict())
    opt = torch.optim.SGD(learner.parameters(), lr=0.1)
    for _ in range(2):
        opt.zero_grad()
        teach(learner, x, t, ids)
        opt.step()
    assert [name for name, p in learner.net.state_dict().items() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("name", ["dfa", "fdfa", "fa", "weight_mirror", "fg_a"])
def test_feedback_is_restored_on_resume_and_the_same_on_every_rank(name):
    """Feedback is drawn anew on resume, or differs across ranks: TinyDFA. (Two real ranks: test_distributed.py.)"""
    torch.manual_seed(1)
    first, x, t, ids = attached(getattr(sb, name)())
    other_rank, *_ = attached(getattr(sb, name)(), seed=7)  # other weights, another global random state
    assert same(first.feedback, other_rank.feedback)
    teach(first, x, t, ids)
    x_again = batch()[0]
    resumed = sb.attach(made(nets.mlp, seed=3), getattr(sb, name)(), x_again, seed=5, show=None)
    resumed.load_state_dict(first.state_dict())
    for one in (first, resumed):
        one.zero_grad()
        teach(one, x, t, ids)
    assert same(gradients(first.net), gradients(resumed.net))
    assert same(first.feedback, resumed.feedback)


def test_no_gradient_is_made_in_the_forward_pass(method):
    """Backward inside a DDP-wrapped forward breaks its reducer: a prototype of updates at forward time.

    The reducer counts on each gradient to be accumulated once, by `loss.backward()`.
    """
    learner, x, t, ids = attached(method)
    count = dict.fromkeys(learner.parameters(), 0)

    def met(p):
        count[p] += 1

    for p in count:
        p.register_post_accumulate_grad_hook(met)
    y = learner(x, target=t, ids=ids)
    assert not any(count.values())
    F.cross_entropy(y, t).backward()
    taught = {p for p in count if p.grad is not None}
    assert taught
    assert all(count[p] == (p in taught) for p in count)


@pytest.mark.parametrize("name", ["dfa", "dkp", "fdfa", "drtp", "fa", "fg_a", "lg_fg_a"])
def test_autocast_and_feedback_of_full_precision(name):
    """Under autocast a bf16 error meets fp32 feedback, and the product fails: BioTorch, TinyDFA."""
    learner, x, t, ids = attached(getattr(sb, name)(), dtype=torch.float32)
    opt = torch.optim.SGD(learner.parameters(), lr=0.1)
    for _ in range(2):  # learned feedback starts at zero
        opt.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = learner(x, target=t, ids=ids)
            loss = F.cross_entropy(y, t)
        assert y.dtype == torch.bfloat16
        loss.backward()
        opt.step()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in learner.net.parameters())
    assert any(p.grad.any() for p in learner.layout.segments[0].parameters)


@pytest.mark.parametrize("name", ["dfa", "fa"])
@pytest.mark.parametrize("build", [nets.Text, nets.conv])
def test_activations_of_three_dimensions_grouped_convolutions_packed_projections(name, build):
    """3-D activations, grouped convolutions and packed q/k/v projections fail: BioTorch."""
    torch.manual_seed(0)
    net, t = build().double(), torch.arange(4) % nets.C
    x = torch.randint(0, 11, (4, 3)) if build is nets.Text else torch.randn(4, *nets.IMAGE, dtype=torch.float64)
    learner = sb.attach(net, getattr(sb, name)(), x, show=None)
    F.cross_entropy(learner(x), t).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["dkp", "fdfa", "kp", "weight_mirror", "lg_fg_a"])
def test_what_learns_is_there_before_the_optimizer(name):
    """Feedback made at the first forward pass is missed by an optimizer that was made before it: the FDFA code."""
    with pytest.raises(ValueError, match=r"pass example=x.* to attach\(\)"):
        sb.attach(nets.mlp(), getattr(sb, name)(), show=None)
    learner, x, t, ids = attached(getattr(sb, name)())
    known = set(learner.parameters())
    assert len(known) > len(list(learner.net.parameters()))
    teach(learner, x, t, ids)
    assert set(learner.parameters()) == known
    assert all(p.grad is not None for p in known)


@pytest.mark.parametrize("name", ["drtp", "f3", "dfa", "dkp", "fdfa", "lg_fg_a"])
def test_a_graph_is_taught_by_its_own_signal(name):
    """An error buffer that is filled after the forward pass is stale under torch.compile, with no error.

    Seen in a minimal autograd function of our own; related: pytorch#193279. Here the step's own graph holds all that
    its backward reads, so a later pass cannot reach into it. (Compiled: test_compile.py.)
    """
    made_method = sb.f3(memory=16) if name == "f3" else getattr(sb, name)()
    learner, x, t, ids = attached(made_method)
    alone = copy.deepcopy(learner)
    teach(alone, x, t, ids)
    loss = F.cross_entropy(learner(x, target=t, ids=ids), t)
    learner(x + 1, target=(t + 1) % nets.C, ids=ids + 8)  # another pass, which is never taught
    loss.backward()
    assert same(gradients(alone.net), gradients(learner.net))


def test_deepcopy_after_a_forward(method):
    """A deepcopy after a forward pass fails on stored tensors that are no leaves: TinyDFA's alignment."""
    learner, x, t, ids = attached(method)
    learner(x, target=t, ids=ids)
    twin = copy.deepcopy(learner)
    for one in (learner, twin):
        teach(one, x, t, ids)
    assert same(gradients(learner.net), gradients(twin.net))


@pytest.mark.parametrize("name", ["bp", "dfa", "sdfa", "dkp", "drtp", "fa", "kp"])
def test_two_forwards_before_one_backward(name):
    """Two forward passes before one backward, or accumulation: the last one's error teaches both in TinyDFA `LAST`."""
    learner, x, t, ids = attached(getattr(sb, name)())
    for part in (slice(0, 4), slice(4, 8)):
        teach(learner, x[part], t[part], ids[part])
    accumulated = gradients(learner)
    learner.zero_grad()
    parts = [(x[:4], t[:4], ids[:4]), (x[4:], t[4:], ids[4:])]
    losses = [F.cross_entropy(learner(a, target=b, ids=c), b) for a, b, c in parts]
    sum(losses).backward()
    assert difference(accumulated, gradients(learner)) < 1e-12


@pytest.mark.parametrize("name", ["dfa", "f3", "fdfa", "brsf", "lg_fg_a"])
def test_a_state_is_loaded_without_unpickling_code(name):
    """A checkpoint that is the whole pickled module needs `weights_only=False`: BioTorch."""
    made_method = sb.f3(memory=8) if name == "f3" else getattr(sb, name)()
    learner, x, t, ids = attached(made_method)
    teach(learner, x, t, ids)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, *_ = attached(made_method, seed=5)
    assert not same(again.state_dict(), learner.state_dict())
    again.load_state_dict(state)
    assert same(again.state_dict(), learner.state_dict())


def test_a_report_says_that_the_learning_rate_was_shared(tmp_path):
    """The same learning rate for all rules can make backprop look worst: the DRTP code, on a synthetic task.

    No rate is fair to all, so the report says what was done. (Other cases: test_report_words.py.)
    """
    from skipback.lab.report.arms import sections
    from skipback.lab.report.reading import Config, RecordedRun, Summary
    from skipback.lab.report.words import summary

    def run(method, lr, accuracy):
        config = Config(dataset="digits", method=method, seed=1, net="mlp", lr=lr)
        done = Summary(test_accuracy_percent=accuracy)
        return RecordedRun(path=tmp_path, config=config, env={}, evaluations=(), summary=done)

    def said(*runs):
        return " ".join(itertools.chain.from_iterable(map(summary, sections(runs))))

    assert "one learning rate, 0.0005, tuned for none of them" in said(run("bp", 5e-4, 70.0), run("dfa", 5e-4, 80.0))
    assert "one learning rate" not in said(run("bp", 1e-2, 90.0), run("dfa", 5e-4, 80.0))


# ------------------------------------------------------------------------------------------------- fair measuring


@pytest.fixture
def timing(monkeypatch):
    """benchmarks/timing.py as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("timing")


class Machine:
    """A shared machine with a fake clock: its load changes by round, and one call of `bp` is hit by a burst.

    Powers of two and small integers: the sums are exact.
    """

    costs, loads, burst = {"bp": 2.0, "dfa": 1.0, "f3": 0.5}, [64.0, 1.0, 2.0, 3.0], ("bp", 1)

    def __init__(self):
        self.now, self.calls = 0.0, []

    def run(self, name):
        done = len(self.calls) // len(self.costs)
        self.now += self.costs[name] * self.loads[done] * (10 if self.burst == (name, done) else 1)
        self.calls.append(name)


def test_timing_is_paired_on_a_shared_machine(timing):
    """Wall time on a shared CPU spread the ratios of one configuration from 0.84 to 1.80: our own early runs.

    Process time, one thread, changing order, repeats, and medians of the ratios within a round.
    """
    machine = Machine()
    assert inspect.signature(timing.interleaved).parameters["now"].default is time.process_time
    variants = {name: lambda name=name: machine.run(name) for name in machine.costs}
    seconds = timing.interleaved(variants, rounds=3, warm_up=1, now=lambda: machine.now)
    assert seconds == {"bp": [20.0, 4.0, 6.0], "dfa": [1.0, 2.0, 3.0], "f3": [0.5, 1.0, 1.5]}
    speeds = timing.speeds(seconds, over="bp")
    assert {name: s["times_as_fast"] for name, s in speeds.items()} == {"bp": 1.0, "dfa": 2.0, "f3": 4.0}
    assert speeds["dfa"]["median_ms"] == 2000.0


def test_timing_changes_the_order_and_has_each_once_in_a_round(timing):
    """The same row: a variant that always follows the same other one finds the caches as that one leaves them."""
    calls = []
    timing.interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=20, warm_up=2)
    rounds = ["".join(calls[k : k + 3]) for k in range(6, len(calls), 3)]
    assert calls[:6] == list("aabbcc")
    assert {"".join(sorted(one)) for one in rounds} == {"abc"}
    assert {one[0] for one in rounds} == set("abc")


def test_timing_refuses_several_threads(timing, monkeypatch):
    """The same row: CPU time of several threads adds up."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match=r"2 threads: call torch\.set_num_threads\(1\)"):
        timing.interleaved({"bp": lambda: None}, rounds=1)


def deep():
    return nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(32, 32), nn.Tanh())), nn.Linear(32, nets.C))


def saved_bytes(method):
    """What one pass keeps for its backward: all entries, and each storage once without those that the learner owns."""
    learner, x, t, ids = attached(method, deep, (32,), dtype=torch.float32)
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(learner(x, target=t, ids=ids), t)
    owned = {p.untyped_storage().data_ptr() for p in (*learner.parameters(), *learner.buffers())}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    assert loss.requires_grad
    return sum(v.nbytes for v in saved), sum(n for pointer, n in storages.items() if pointer not in owned)


def test_the_cut_saves_time_and_no_activation_memory():
    """A meter of saved tensors that counts aliases of parameters made DFA look like 0.67 x the memory: our own first.

    Backprop saves W for the product that a cut does not make, and W costs nothing: it is there anyway.
    """
    (naive_bp, bp), (naive_dfa, dfa), (_, drtp) = map(saved_bytes, (sb.bp(), sb.dfa(), sb.drtp()))
    assert naive_dfa < 0.7 * naive_bp  # the trap is there
    assert dfa == bp
    assert drtp == bp + 2 * 8 * nets.C * 4  # its signal and its target, (8, C) each
