"""Two gloo ranks of this machine, half of the batch each: their steps are those of one process on the whole batch."""

import os

import nets
import pytest
import torch
import torch.distributed as dist
from nets import C, batch, difference, made
from spawned import results_of
from torch import nn
from twins import cross_entropy

import skipback as sb
from skipback import update
from skipback.step.ranks import Averaged

RANKS, STEPS = 2, 3


class Added(nn.Module):
    """Two parameters whose gradients are one tensor: averaging one in place must not average the other again."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(4, 7)), nn.Parameter(torch.zeros(4, 7))
        self.layer = nn.Linear(6, 7)

    def forward(self, x):
        return torch.tanh(self.layer(x)) + (self.a + self.b)[: len(x)].repeat(len(x) // 4, 1)


def added():
    return nn.Sequential(Added(), nn.Linear(7, C))


METHODS = {"dfa": sb.dfa, "drtp": sb.drtp, "f3": lambda: sb.f3(memory=8), "dkp": sb.dkp, "shallow": sb.shallow}
BUILDS = {"mlp": nets.mlp, "named": nets.Named, "added": added, "conv": nets.conv}
UPDATES = {"adam": lambda: update.adam(0.01), "sgd": lambda: update.sgd(0.5), "momentum": lambda: update.momentum(0.1)}
CASES = [(m, "mlp", u) for m in METHODS for u in UPDATES] + [
    (m, b, "sgd") for m in METHODS for b in BUILDS if b != "mlp"
]


DIFFERENT = ("weights", "feedback", "frozen")


def data(build):
    return batch(nets.IMAGE if build == "conv" else nets.FLAT)


def trained(case, part):
    """What three steps on a part of the batch leave."""
    name, build, kind = case
    x, t, ids = data(build)
    learner = sb.attach(made(BUILDS[build]), METHODS[name](), x[part], show=None)
    step = UPDATES[kind]()
    losses = [
        learner.step(x[part], t[part], loss=cross_entropy, update=step, ids=ids[part]).item() for _ in range(STEPS)
    ]
    return {
        "state": {k: v for k, v in learner.state_dict().items() if "memory" not in k},
        "memory": None if learner.memory is None else learner.memory.state_dict(),
        "optimizer": step.optimizer.state_dict()["state"],
        "losses": losses,
    }


def refused(name):
    x, t, _ = data("mlp")
    learner = sb.attach(made(nets.mlp), getattr(sb, name)(), x, show=None)
    try:
        learner.step(x, t, loss=cross_entropy, update=update.adam())
    except RuntimeError as error:
        return str(error)


def different(rank, seed):
    """Other weights, other feedback, or another part that is frozen, on each rank."""
    x, t, _ = data("mlp")
    net = made(nets.mlp, seed=rank if seed == "weights" else 0)
    net[0].weight.requires_grad_(seed != "frozen" or rank == 0)
    learner = sb.attach(net, sb.dfa(), x, seed=rank if seed == "feedback" else 0, show=None)
    before = nets.made(nets.mlp, seed=rank if seed == "weights" else 0).state_dict()
    try:
        learner.step(x, t, loss=cross_entropy, update=update.adam())
    except RuntimeError as error:
        assert nets.same(before, learner.net.state_dict())
        return str(error)


def worker(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    results = {case: trained(case, slice(4 * rank, 4 * rank + 4)) for case in CASES}
    results["refused"] = {name: refused(name) for name in ("fa", "bp")}
    results["different"] = {what: different(rank, what) for what in DIFFERENT}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank has left."""
    return results_of(worker, tmp_path_factory.mktemp("step"), RANKS)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_ranks_are_one_process_on_the_whole_batch(ranks, case):
    whole = trained(case, slice(None))
    one, other = (rank[case] for rank in ranks)
    assert nets.same(one["state"], other["state"])
    assert difference(one["state"], whole["state"]) < 1e-9
    for key, state in whole["optimizer"].items():
        assert difference(one["optimizer"][key], state) < 1e-9
    mean = [(a + b) / 2 for a, b in zip(one["losses"], other["losses"], strict=True)]
    assert mean == pytest.approx(whole["losses"], rel=1e-9)
    half = trained(case, slice(4))
    assert difference(half["state"], whole["state"]) > 1e-4  # so the averages are what does it


@pytest.mark.parametrize("build", ["mlp", "named", "added", "conv"])
def test_each_rank_remembers_the_samples_that_it_saw(ranks, build):
    whole = trained(("f3", build, "sgd"), slice(None))["memory"]
    for rank, found in enumerate(ranks):
        memory, mine = found["f3", build, "sgd"]["memory"], torch.arange(8) // 4 == rank
        assert torch.equal(memory["seen"], mine)
        assert torch.allclose(memory["rows"][mine], whole["rows"][mine], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["fa", "bp"])
def test_what_cannot_be_averaged_block_by_block_is_refused(ranks, name):
    for rank in ranks:
        assert "runs in one process: use DDP and loss.backward()" in (rank["refused"][name] or "")


@pytest.mark.parametrize("what", DIFFERENT)
def test_ranks_that_differ_are_refused_before_anything_changes(ranks, what):
    for rank in ranks:
        assert "the ranks hold different networks" in (rank["different"][what] or "")


class Work:
    """A message that arrives when it is waited for."""

    def __init__(self, log, g):
        self.log, self.g = log, g

    def wait(self):
        self.log.append("wait")
        self.g.mul_(3)  # the other two have the same gradient


def test_nothing_is_changed_before_the_averages_are_there(monkeypatch):
    """All are sent before the first is waited for, and changed in the order in which they were sent."""
    log = []
    monkeypatch.setattr(dist, "all_reduce", lambda g, async_op: log.append("send") or Work(log, g))
    monkeypatch.setattr("skipback.step.ranks.world", lambda: 3)
    ps = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    step = update.sgd(1.0)
    step.bind(ps)
    one = Averaged(step)
    g = torch.ones(2)
    one.apply(ps[:2], [g, g])
    one.apply(ps[2:], [None])
    assert log == ["send"] * len(log)
    assert all(bool((p == 0).all()) for p in ps)
    one.flush()
    assert log.index("wait") == log.count("send") == log.count("wait")
    assert [p.tolist() for p in ps] == [[-1, -1], [-1, -1], [0, 0]]
    assert g.tolist() == [1, 1]
    assert one.fusable_rate(ps[0]) is None
    before = len(log)
    one.flush()
    assert len(log) == before
