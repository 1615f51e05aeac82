"""DDP on two gloo ranks of this machine: averaged gradients are those of the whole batch in one process.

One pair of processes trains everything, and leaves its results in files.
"""

import copy
import os
from unittest import mock

import nets
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from nets import batch, difference, made
from spawned import results_of
from torch.nn.parallel import DistributedDataParallel

import skipback as sb

RANKS, STEPS = 2, 3
METHODS = {
    "dfa": lambda: sb.dfa(),
    "drtp": lambda: sb.drtp(),
    "f3": lambda: sb.f3(memory=8),
    "fa": lambda: sb.fa(),
    "fg_w": lambda: sb.fg_w(),
    "fg_a": lambda: sb.fg_a(),
    "dkp": lambda: sb.dkp(),
    "kp": lambda: sb.kp(),
    "weight_mirror": lambda: sb.weight_mirror(),
    "brsf": lambda: sb.brsf(),
    "fdfa": lambda: sb.fdfa(),
    "lg_fg_a": lambda: sb.lg_fg_a(),
}
LEARNING = {"dkp", "kp", "weight_mirror", "fdfa", "lg_fg_a"}
"""These learn something beside the network, whose gradients DDP averages too: so it must wrap the learner."""
DRAWING = {"fg_w", "fg_a", "fdfa", "lg_fg_a"}
"""These draw directions, each rank its own: they are the two halves of a batch, not the whole."""
WRAPPED = [
    (name, wrapped)
    for name in METHODS
    for wrapped in ("net", "learner")
    if (wrapped, name in LEARNING) != ("net", True)
] + [("f3", "outer"), ("fdfa", "outer")]


class Outer(torch.nn.Module):
    """A user's own module around the learner, as trainers have one."""

    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, x, **given):
        return self.learner(x, **given)


def train(learner, call, x, t, ids):
    """Three SGD steps, and the gradients of each."""
    opt, steps = torch.optim.SGD(learner.parameters(), lr=0.5), []
    for _ in range(STEPS):
        opt.zero_grad()
        F.cross_entropy(call(x, t, ids), t).backward()
        steps.append(nets.gradients(learner.net))
        opt.step()
    return steps


def owned(learner):
    """What the state of a learner has beside its network and its memory."""
    state = learner.state_dict()
    return {name: v for name, v in state.items() if not name.startswith(("net.", "route.memory."))}


def refusal(name, x, t):
    """What is said where DDP wraps the network of a learner that learns more; and that evaluation is free."""
    learner = sb.attach(made(nets.mlp), METHODS[name](), x, show=None)
    ddp = DistributedDataParallel(learner.net)
    with torch.no_grad():
        ddp(x)
    ddp.eval()(x)
    try:
        with learner.given(target=t):
            ddp.train()(x)
    except RuntimeError as error:
        return str(error)


def worker(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    part = slice(4 * rank, 4 * rank + 4)
    x, t, ids = (value[part] for value in batch())
    results = {}
    for name, wrapped in WRAPPED:
        # other weights and another global seed on each rank: DDP hands out the weights of rank 0
        learner = sb.attach(made(nets.mlp, seed=rank), METHODS[name](), x, show=None)
        torch.manual_seed(100 + rank)
        parts = {"net": learner.net, "learner": learner, "outer": Outer(learner)}
        ddp = DistributedDataParallel(parts[wrapped])

        def call(x, t, ids, learner=learner, ddp=ddp, wrapped=wrapped):
            if wrapped != "net":
                return ddp(x, target=t, ids=ids)
            with learner.given(target=t, ids=ids):
                return ddp(x)

        results[name, wrapped] = {
            "gradients": train(learner, call, x, t, ids),
            "owned": owned(learner),
            "memory": None if learner.memory is None else learner.memory.state_dict(),
        }
    results["refused"] = {name: refusal(name, x, t) for name in LEARNING}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank has left."""
    return results_of(worker, tmp_path_factory.mktemp("ddp"), RANKS)


def alone(name):
    """The whole batch in this process."""
    x, t, ids = batch()
    learner = sb.attach(made(nets.mlp, seed=0), METHODS[name](), x, show=None)
    return learner, train(learner, lambda x, t, ids: learner(x, target=t, ids=ids), x, t, ids)


def halves(name, *, own=True):
    """In this process: two learners with half of the batch each, that share the mean of their gradients.

    `own`: each draws directions of its own.
    """
    x, t, ids = batch()
    pair = [sb.attach(made(nets.mlp, seed=0), METHODS[name](), x, show=None) for _ in range(RANKS)]
    opts, steps = [torch.optim.SGD(one.parameters(), lr=0.5) for one in pair], []
    for _ in range(STEPS):
        for part, one in enumerate(pair):
            one.zero_grad()
            mine = slice(4 * part, 4 * part + 4)
            with mock.patch("skipback.streams.rank", return_value=part if own else 0):
                F.cross_entropy(one(x[mine], target=t[mine], ids=ids[mine]), t[mine]).backward()
        for p, q in zip(*(one.parameters() for one in pair), strict=True):
            p.grad = q.grad = (p.grad + q.grad) / RANKS
        steps.append(nets.gradients(pair[0].net))
        for opt in opts:
            opt.step()
    return pair[0], steps


def expected_of(name):
    return halves(name) if name in DRAWING else alone(name)


@pytest.mark.parametrize(("name", "wrapped"), WRAPPED)
def test_gradients_equal_those_of_one_process(ranks, name, wrapped):
    _, expected = expected_of(name)
    for rank in ranks:
        for a, b in zip(expected, rank[name, wrapped]["gradients"], strict=True):
            assert difference(a, b) < 1e-6


@pytest.mark.parametrize(("name", "wrapped"), WRAPPED)
def test_what_the_learner_owns_is_the_same_on_both_ranks(ranks, name, wrapped):
    """Feedback, fixed or learned, local classifiers, and how many directions were drawn."""
    learner, _ = expected_of(name)
    one, other = (rank[name, wrapped]["owned"] for rank in ranks)
    assert nets.same(one, other)
    assert difference(one, owned(learner)) < 1e-6
    assert one


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_each_rank_draws_directions_of_its_own(ranks, name):
    """See the test of the variance for what that is good for."""
    _, alike = halves(name, own=False)
    for rank in ranks:  # the last step: what forward DFA learns from its directions teaches one step later
        assert difference(alike[-1], rank[name, "learner"]["gradients"][-1]) > 1e-3


def feedback_of(own):
    """The mean over two ranks of what forward DFA's feedback learns from one batch, at each of many steps."""
    x, t, _ = batch()
    learner, steps = sb.attach(made(nets.mlp), sb.fdfa(), x, show=None), []
    for _ in range(100):
        found, start = [], copy.deepcopy(learner.direct.stream)
        for rank in range(RANKS):
            learner.direct.stream, part = copy.deepcopy(start), slice(4 * rank, 4 * rank + 4)
            learner.zero_grad()
            with mock.patch("skipback.streams.rank", return_value=rank if own else 0):
                F.cross_entropy(learner(x[part]), t[part]).backward()
            found.append(torch.cat([p.grad.flatten() for p in learner.direct.parameters()]))
        steps.append(sum(found) / RANKS)
    return torch.stack(steps)


def test_directions_of_ones_own_halve_the_variance_of_forward_dfa():
    alike, own = (feedback_of(own).var(0).sum() for own in (False, True))
    assert 0.35 < own / alike < 0.65


@pytest.mark.parametrize("name", sorted(LEARNING))
def test_a_network_wrapped_without_what_learns_beside_it_is_refused(ranks, name):
    """The trap: each rank's feedback would go its own way, and nothing would be said."""
    for rank in ranks:
        assert "would differ across the 2 ranks: wrap and call the learner" in (rank["refused"][name] or "")


@pytest.mark.parametrize("name", sorted(set(METHODS) - DRAWING))
def test_the_two_halves_are_the_whole(name):
    """So the reference of those that draw is the right one."""
    (_, whole), (_, parts) = alone(name), halves(name)
    assert all(difference(a, b) < 1e-6 for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("wrapped", ["net", "learner", "outer"])
def test_each_rank_remembers_the_samples_that_it_saw(ranks, wrapped):
    """Broadcasting buffers from rank 0 would wipe the rows of rank 1."""
    learner, _ = alone("f3")
    for rank, found in enumerate(ranks):
        memory = found["f3", wrapped]["memory"]
        mine = torch.arange(8) // 4 == rank
        assert torch.equal(memory["seen"], mine)
        assert torch.allclose(memory["rows"][mine], learner.memory.rows[mine], rtol=0, atol=1e-6)
        assert not memory["rows"][~mine].any()


def test_the_reference_of_this_file_can_fail():
    """Half a batch has other gradients than the whole."""
    _, expected = alone("dfa")
    x, t, ids = (value[:4] for value in batch())
    learner = sb.attach(made(nets.mlp, seed=0), sb.dfa(), x, show=None)
    half = train(copy.copy(learner), lambda x, t, ids: learner(x), x, t, ids)
    assert difference(expected[0], half[0]) > 0.01
