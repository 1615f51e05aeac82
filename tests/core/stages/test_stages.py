"""Stages on two and three gloo processes of this machine: the weights, memory and losses of one process, bit for bit.

Each world of processes trains everything once, and leaves its results in files.
"""

import dataclasses
import os
import time
import warnings

import nets
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from nets import made
from torch import nn

import skipback as sb
from skipback.engine.stages import stages
from skipback.engine.stages.rank_pipeline import RankPipeline
from skipback.engine.stages.sizes import balanced

IMAGES = ((1, 4, 4), ())
SAMPLES, SIZE, EPOCHS = 22, 8, 3
"""Batches of 8, 8 and 6: the last one is incomplete."""


def deep():
    """Blocks of uneven size, with and without a closed form."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 9),
        nn.Tanh(),
        nn.Linear(9, 7, bias=False),
        nn.ReLU(),
        nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Tanh()),
        nn.Linear(8, 4),
        nn.GELU(),
        nn.Linear(4, nets.C),
    )


def images():
    """What travels has four dimensions."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, nets.C)
    )


def channels_last():
    """Weights whose memory is in another order, and so is that of their moments."""
    return images().to(memory_format=torch.channels_last)


def sequence():
    """Positions are samples of their own, and the memory has a row for all of a sequence."""
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, nets.C))


def loss(y, t):
    return F.cross_entropy(y.flatten(0, -2), t.flatten())


METHODS = {
    "drtp": lambda: sb.drtp(),
    "f3": lambda: sb.f3(memory=SAMPLES),
    "f3 of one class": lambda: sb.f3(memory=SAMPLES, signal=sb.signals.Masked(sb.signals.Delayed(SAMPLES))),
}


class Counting(torch.optim.SGD):
    """Its state has numbers that are no tensors, as that of many optimizers elsewhere."""

    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                self.state[p]["count"] = self.state[p].get("count", 0) + 1


UPDATES = {
    "sgd": lambda: sb.update.sgd(lr=0.1),
    "adam": lambda: sb.update.adam(lr=0.01),
    "counting": lambda: sb.update.Update(lambda ps: Counting(ps, lr=0.1), by_parameter=True),
    "momentum": lambda: sb.update.momentum(lr=0.05),
}
CASES = {
    # name: method, update, network, blocks of each rank (by number of ranks)
    **{f"{m}-{u}": (m, u, deep, {}) for m in ("drtp", "f3") for u in ("sgd", "adam")},
    "uneven, head alone": ("f3", "adam", deep, {2: [4, 1], 3: [1, 3, 1]}),
    "uneven, first block alone": ("f3 of one class", "momentum", deep, {2: [1, 4], 3: [1, 1, 3]}),
    "images": ("f3", "adam", images, {2: [1, 2], 3: [1, 1, 1]}),
    "channels last": ("drtp", "adam", channels_last, {}),
    "sequence": ("f3", "counting", sequence, {}),
}


def data(net):
    shape, labels = {images: IMAGES, channels_last: IMAGES, sequence: ((3, 6), (3,))}.get(net, ((6,), ()))
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(SAMPLES, *shape, generator=generator)
    return x, torch.randint(0, nets.C, (SAMPLES, *labels), generator=generator)


def epochs(net):
    """Batches of each epoch, in an order that all ranks know from the seed."""
    x, t = data(net)
    generator = torch.Generator().manual_seed(6)
    for _ in range(EPOCHS):
        yield [(x[ids], t[ids], ids) for ids in torch.randperm(SAMPLES, generator=generator).split(SIZE)]


def attached(name):
    method, update, build, _ = CASES[name]
    net = made(build, seed=3, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sb.SkipbackWarning)
        learner = sb.attach(net, METHODS[method](), data(build)[0][:4], show=None)
    return learner, UPDATES[update](), build


def left(learner, update, losses):
    """All that training leaves."""
    return {
        "state": {name: v.clone() for name, v in learner.state_dict().items()},
        "optimizer": update.optimizer.state_dict(),
        "losses": torch.stack(losses),
    }


def alone(name):
    """By `learner.step` in this process."""
    learner, update, build = attached(name)
    losses = [
        torch.stack([learner.step(x, t, loss=loss, update=update, ids=ids) for x, t, ids in batches])
        for batches in epochs(build)
    ]
    return left(learner, update, losses)


def spread(name, rank, world):
    """By a stage in this process, and others."""
    learner, update, build = attached(name)
    stage, losses = stages(learner, sizes=CASES[name][3].get(world), timeout=60), []
    for batches in epochs(build):
        given = batches if rank == 0 else [(None, t, ids) for _, t, ids in batches]  # only rank 0 has the inputs
        losses.append(stage.epoch(given, loss=loss, update=update))
    before = {name: v.clone() for name, v in learner.net.state_dict().items()}
    stage.gather()
    return {
        **left(learner, update, losses),
        "sizes": stage.sizes,
        "travelling": len(stage.pipeline.sent),
        "before": before,
    }


def caught(call):
    start = time.monotonic()
    try:
        call()
    except (RuntimeError, ValueError, IndexError) as error:
        return str(error), time.monotonic() - start
    return "nothing", time.monotonic() - start


def one_epoch(case, given, *, timeout):
    """An epoch that fails, and another one after it: what is said, and after how many seconds."""
    learner, update, build = attached(case)
    stage = stages(learner, timeout=timeout)

    def train():
        return stage.epoch(given(*data(build)), loss=loss, update=update)

    return [caught(train), caught(train)]


def picked(*ids):
    return lambda x, t: [(x[i], t[i], i) for i in ids]


def failing(rank):
    """The middle or last rank fails at its second batch, but its process lives on: the others must not hang."""

    def given(x, t):
        for m, batch in enumerate(picked(*torch.arange(20).split(5))(x, t)):
            if (m, rank) == (1, 1):
                raise ValueError("the loader of rank 1 broke")
            yield batch

    return given


IDS = torch.arange(8)
TROUBLE = {
    "twice in a batch": lambda rank: one_epoch("f3-sgd", picked(torch.tensor([1, 2, 3, 1])), timeout=20),
    "twice in an epoch": lambda rank: one_epoch("f3-sgd", picked(torch.arange(4), torch.arange(3, 6)), timeout=20),
    "unknown sample": lambda rank: one_epoch("f3-sgd", lambda x, t: [(x[:1], t[:1], torch.tensor([-1]))], timeout=20),
    "other batches": lambda rank: one_epoch("f3-sgd", picked(torch.arange(8) + rank), timeout=0.5),
    "other ids": lambda rank: one_epoch("f3-sgd", lambda x, t: [(x[:8], t[:8], torch.arange(8) + rank)], timeout=0.5),
    "other targets": lambda rank: one_epoch("f3-sgd", lambda x, t: [(x[:8], (t[:8] + rank) % 5, IDS)], timeout=0.5),
    "other sizes": lambda rank: one_epoch("f3-sgd", picked(torch.arange(8 - rank)), timeout=0.5),
    "other batches, no tags": lambda rank: untagged(rank),
    "fewer batches": lambda rank: one_epoch("f3-sgd", picked(*torch.arange(12).split(4)[rank:]), timeout=0.5),
    "failure": lambda rank: one_epoch("drtp-sgd", failing(rank), timeout=0.5),
}


def untagged(rank):
    """On a backend that ignores tags (NCCL)."""
    send, expect = RankPipeline.send, RankPipeline.expect
    try:
        RankPipeline.send = lambda line, y, tag: send(line, y, 0)
        RankPipeline.expect = lambda line, room, tag: expect(line, room, 0)
        return one_epoch("f3-sgd", picked(torch.arange(8) + rank), timeout=20)
    finally:
        RankPipeline.send, RankPipeline.expect = send, expect


def meet(rank, world, folder, name):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/{name.replace(' ', '-')}", rank=rank, world_size=world
    )


def worker(rank, world, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meet(rank, world, folder, "work")
    results = {name: spread(name, rank, world) for name in CASES}
    learner, update, _ = attached("f3-sgd")
    results["no batch"] = stages(learner).epoch([], loss=loss, update=update)
    done = dist.FileStore(f"{folder}/done", world)
    for name, make in TROUBLE.items():
        dist.destroy_process_group()  # a broken line cannot be used again
        meet(rank, world, folder, name)
        results[name] = make(rank)
        done.set(f"{name} {rank}", "")
        done.wait(
            [f"{name} {other}" for other in range(world)]
        )  # else the first to leave closes the door on the others
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    """What each rank has left."""
    folder = tmp_path_factory.mktemp("stages")
    mp.set_forkserver_preload(["torch", "skipback.engine.stages"])  # imported once, not by each process
    mp.start_processes(worker, (request.param, folder), nprocs=request.param, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(request.param)]


def equal(a, b):
    """Whether two trees of tensors and values have the same bits."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_end_as_one_process_does(ranks, name):
    """Weights, buffers, feedback, memory and its fingerprints; the optimizer's state; every loss."""
    expected = alone(name)
    for rank in ranks:
        for what in ("losses", "state", "optimizer"):
            assert equal(expected[what], rank[name][what]), what


@pytest.mark.parametrize("name", CASES)
def test_each_rank_trains_its_own_blocks_alone(ranks, name):
    """Before `gather` the weights of the others are those of the start: the work is really shared."""
    learner, _, _ = attached(name)
    start, changed = learner.net.state_dict(), []
    for rank in ranks:
        changed.append({key for key, value in rank[name]["before"].items() if not torch.equal(value, start[key])})
    assert set.union(*changed) == start.keys()
    assert sum(map(len, changed)) == len(start)
    assert all(changed)


def test_nothing_is_left_on_its_way(ranks):
    assert all(rank[name]["travelling"] == 0 for rank in ranks for name in CASES)


def test_the_blocks_are_spread_as_wished_or_by_parameters(ranks):
    """deep() has 63, 63, 80, 36 and 25 parameters."""
    world = len(ranks)
    for rank in ranks:
        assert rank["images"]["sizes"] == tuple(CASES["images"][3][world])
        assert rank["f3-adam"]["sizes"] == {2: (2, 3), 3: (2, 1, 2)}[world]


def test_a_sample_that_comes_twice_is_refused_on_all_ranks(ranks):
    for rank in ranks:
        assert "sample 1 came twice" in rank["twice in a batch"][0][0]
        assert "sample 3 came twice" in rank["twice in an epoch"][0][0]
        assert "ids reach from -1" in rank["unknown sample"][0][0]


@pytest.mark.parametrize("what", ["other batches", "other ids", "other targets", "other sizes", "fewer batches"])
def test_ranks_with_other_batches_are_found_out(ranks, what):
    """At once, by tags; nobody waits for longer than was said."""
    for number, rank in enumerate(ranks):
        message, seconds = rank[what][0]
        assert f"rank {number} could not" in message
        assert "or has other batches" in message
        assert seconds < 10


def test_ranks_with_other_batches_are_found_out_without_tags(ranks):
    """At the end of the epoch."""
    for rank in ranks:
        assert "rank 1 had other targets or ids than rank 0" in rank["other batches, no tags"][0][0]


def test_an_epoch_may_be_empty(ranks):
    assert all(len(rank["no batch"]) == 0 for rank in ranks)


def test_a_rank_that_fails_does_not_hang_the_others(ranks):
    for number, rank in enumerate(ranks):
        message, seconds = rank["failure"][0]
        assert ("the loader of rank 1 broke" if number == 1 else f"rank {number} could not") in message
        assert seconds < 10


@pytest.mark.parametrize("what", TROUBLE)
def test_after_a_failure_no_epoch_is_begun(ranks, what):
    for rank in ranks:
        assert "an epoch was broken off" in rank[what][1][0]


# ------------------------------------------------------------------------------------------ in this process


@pytest.mark.parametrize("name", ["drtp-adam", "f3-sgd"])
def test_one_rank_is_a_plain_loop_of_steps(name):
    expected, (learner, update, build) = alone(name), attached(name)
    stage = stages(learner)
    losses = [stage.epoch(batches, loss=loss, update=update) for batches in epochs(build)]
    stage.gather()
    assert equal(expected, left(learner, update, losses))


def test_no_more_than_two_activations_are_on_their_way(monkeypatch):
    """A rank that is faster than the one behind it waits, instead of piling up what it sends."""
    sent, waited = [], []

    class Work:
        def __init__(self, y):
            self.y = y

        def wait(self, timeout):
            waited.append(self.y)

    monkeypatch.setattr(dist, "isend", lambda y, to, tag: sent.append((float(y), to, tag)) or Work(float(y)))
    line = RankPipeline(0, 2, seconds=1)
    for k in range(4):
        line.send(torch.tensor(float(k)), tag=k)
        assert len(sent) - len(waited) <= 2
    assert sent == [(float(k), 1, k) for k in range(4)]
    assert waited == [0.0, 1.0]
    line.flush()
    assert waited == [0.0, 1.0, 2.0, 3.0]


class ToDouble(nn.Module):
    def forward(self, h):
        return h.double()


class FromDouble(nn.Linear):
    def forward(self, h):
        return super().forward(h.float())


def test_what_travels_has_the_dtype_of_the_weights():
    """The receiver could not know another one."""
    net = nn.Sequential(nn.Linear(6, 7), ToDouble(), FromDouble(7, nets.C))
    stage = stages(sb.attach(net, sb.drtp(), torch.randn(8, 6), show=None), rank=0, world=2)
    x, t, _ = nets.batch(dtype=torch.float32)
    with pytest.raises(RuntimeError, match=r"a block returned torch.float64, but .* torch.float32"):
        stage.epoch([(x, t)], loss=loss, update=sb.update.sgd())


def refusal(build, method, *, world=2, example=True, **options):
    x = torch.randn(8, 6)
    learner = sb.attach(made(build, dtype=torch.float32), method, x if example else None, show=None)
    with pytest.raises(ValueError, match=r"\w") as error:
        stages(learner, rank=0, world=world, **options)
    return str(error.value)


@pytest.mark.parametrize("method", [sb.dfa(), sb.bp(), sb.shallow(), sb.anchored(sb.drtp(), every=2)])
def test_late_signals_are_refused(method):
    assert "the signal is late" in refusal(nets.mlp, method)


def test_feedback_that_learns_is_refused():
    learned = dataclasses.replace(sb.drtp(), feedback=sb.dkp().feedback)
    assert "the feedback learns" in refusal(nets.mlp, learned)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nets.mlp()

    def forward(self, x):
        return self.body(x)


def tied():
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, nets.C))
    net[2].weight = net[0].weight
    return net


def test_networks_that_cannot_be_spread_are_refused():
    assert "no plain nn.Sequential" in refusal(Own, sb.drtp())
    assert "own the same parameter" in refusal(tied, sb.drtp())
    assert "'2' draws random numbers" in refusal(nets.dropout, sb.drtp())
    assert "pass example=" in refusal(nets.mlp, sb.drtp(), example=False)


def test_more_ranks_than_blocks_are_refused():
    assert "4 ranks, but the network has 3 blocks" in refusal(nets.mlp, sb.drtp(), world=4)
    assert stages(sb.attach(nets.mlp(), sb.drtp(), torch.randn(8, 6), show=None), rank=2, world=3).sizes == (1, 1, 1)


@pytest.mark.parametrize("sizes", [[1, 1], [3, 0], [1, 1, 1], [4, -1]])
def test_sizes_that_do_not_fit_are_refused(sizes):
    assert "does not give each of 2 ranks a block" in refusal(nets.mlp, sb.drtp(), sizes=sizes)


def test_the_largest_share_is_as_small_as_it_can_be():
    assert balanced([1, 1, 1, 1], 2) == (2, 2)
    assert balanced([9, 1, 1, 1, 1], 3) == (1, 1, 3)
    assert balanced([1, 1, 1, 1, 9], 2) == (4, 1)
    assert balanced([3, 3, 3], 3) == (1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        counts = torch.randint(1, 20, (6,), generator=generator).tolist()
        every = [(a, b - a, 6 - b) for a in range(1, 5) for b in range(a + 1, 6)]
        largest = [max(sum(counts[:a]), sum(counts[a : a + b]), sum(counts[a + b :])) for a, b, _ in every]
        assert largest[every.index(balanced(counts, 3))] == min(largest)


def test_evaluation_mode_and_autocast_are_refused():
    learner, update, build = attached("drtp-sgd")
    stage, batches = stages(learner), next(iter(epochs(build)))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="without autocast"):
        stage.epoch(batches, loss=loss, update=update)
    learner.eval()
    with pytest.raises(ValueError, match="call train"):
        stage.epoch(batches, loss=loss, update=update)


def test_the_reference_of_this_file_can_fail():
    """Another order of the same batches has other weights."""
    learner, update, build = attached("f3-sgd")
    stage = stages(learner)
    losses = [stage.epoch(batches[::-1], loss=loss, update=update) for batches in epochs(build)]
    assert not equal(alone("f3-sgd")["state"], left(learner, update, losses)["state"])
