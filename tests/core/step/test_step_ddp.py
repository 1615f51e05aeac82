"""A step on two gloo ranks is DDP and backward: weights, buffers, uneven batches. And each rank has noise of its own.

One pair of processes trains everything, and leaves its results in files.
"""

import copy
import os
import time
from datetime import timedelta
from functools import partial
from unittest import mock

import nets
import pytest
import torch
import torch.distributed as dist
from nets import batch, difference, made
from spawned import results_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from twins import cross_entropy

import skipback as sb
from skipback import update
from skipback.streams import Stream

RANKS, STEPS = 2, 3
WAIT = 1.5
"""Seconds that a rank waits for one that has failed."""


class Counting(nn.Module):
    """Buffers of types that batch-norm has not, and one of no numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("odd", torch.tensor([True, False]))
        self.register_buffer("most", torch.zeros(2, 1, dtype=torch.float32))
        self.register_buffer("nothing", torch.zeros(0))

    def forward(self, x):
        if self.training:
            self.odd.copy_(~self.odd if len(x) % 2 else self.odd)
            self.most.copy_(torch.maximum(self.most, x.detach().abs().max().float()))
        return x


def counted():
    return nn.Sequential(Counting(), *nets.batchnorm())


METHODS = {"dfa": sb.dfa, "drtp": sb.drtp, "f3": lambda: sb.f3(memory=8), "dkp": sb.dkp, "fdfa": sb.fdfa}
BUILDS = {"norm": nets.batchnorm, "counted": counted, "mlp": nets.mlp}
SPLITS = {"even": [slice(0, 4), slice(4, 8)], "uneven": [slice(0, 5), slice(5, 8)]}
CASES = [(m, "norm", "even") for m in METHODS] + [
    ("drtp", "counted", "uneven"),
    ("f3", "mlp", "uneven"),
    ("fdfa", "mlp", "even"),  # values and tangents in closed form, from the same noise
    ("dfa", "mlp", "uneven", "once"),
]
PUBLISHED = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Once(torch.optim.SGD):
    """Its rate falls with the steps that it counts itself."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            group["lr"] = 0.5 / group["count"]
        super().step(closure)


OPTIMIZERS = {"once": Once}


def attached(case, rank):
    """A learner, and this rank's part of the batch."""
    name, build, split, *_ = case
    part = tuple(value[SPLITS[split][rank]] for value in batch())
    return sb.attach(made(BUILDS[build]), METHODS[name](), part[0], show=None), part


def left(learner):
    """The state but for the rows that each rank remembers."""
    return {k: v.double() for k, v in copy.deepcopy(learner.state_dict()).items() if "memory" not in k and v.numel()}


def stepped(case, rank):
    """By `learner.step`: the state after each step."""
    learner, (x, t, ids) = attached(case, rank)
    states, change = [], update.Update(OPTIMIZERS.get(case[-1], PUBLISHED))
    for _ in range(STEPS):
        learner.step(x, t, loss=cross_entropy, update=change, ids=ids)
        states.append(left(learner))
    return states


def wrapped(case, rank):
    """By DDP and backward: the same."""
    learner, (x, t, ids) = attached(case, rank)
    ddp, states, opt = DistributedDataParallel(learner), [], OPTIMIZERS.get(case[-1], PUBLISHED)(learner.parameters())
    for _ in range(STEPS):
        opt.zero_grad()
        cross_entropy(ddp(x, target=t, ids=ids), t).backward()
        opt.step()
        states.append(left(learner))
    return states


def resumed(rank, folder):
    """Forward mode, with a stop after two steps: all go on from the state that rank 0 has written."""
    case = ("fdfa", "mlp", "even")
    learner, (x, t, _) = attached(case, rank)
    change = update.momentum(0.1)
    for k in range(4):
        if k == 2:
            if rank == 0:
                torch.save([learner.state_dict(), change.optimizer.state_dict()], f"{folder}/kept.pt")
            dist.barrier()
            learner, change = attached(case, rank)[0], update.momentum(0.1)
            state, momenta = torch.load(f"{folder}/kept.pt")
            learner.load_state_dict(state)
            change.bind(learner.parameters()).load_state_dict(momenta)
        learner.step(x, t, loss=cross_entropy, update=change)
    return left(learner)


def through(rank):
    """The same without a stop."""
    learner, (x, t, _) = attached(("fdfa", "mlp", "even"), rank)
    change = update.momentum(0.1)
    for _ in range(4):
        learner.step(x, t, loss=cross_entropy, update=change)
    return left(learner)


def drawn(**options):
    """Two steps' directions."""
    stream = Stream(3, **options)
    return [torch.randn(1000, generator=stream.next(torch.device("cpu"))) for _ in range(2)]


def failing(rank, trouble):
    """One step, one in whose loss rank 1 has trouble, and one more: by each, what is said and after how many seconds.

    No buffers travel before a forward pass here, so the others wait for gradients.
    """
    learner, (x, t, _) = attached(("dfa", "mlp", "even"), rank)
    change, found = update.sgd(0.1), []

    def broken(y, t):
        trouble()
        return cross_entropy(y, t)

    for loss in (cross_entropy, broken if rank == 1 else cross_entropy, cross_entropy):
        start = time.perf_counter()
        try:
            learner.step(x, t, loss=loss, update=change)
            found.append(("", 0))
        except (RuntimeError, ValueError) as error:
            found.append((str(error), time.perf_counter() - start))
    return found


def complain():
    raise ValueError("this loss is out of order")


def meet(rank, folder, **options):
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"file://{folder}", rank=rank, world_size=RANKS, **options)


def worker(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meet(rank, f"{folder}/meet")
    results = {case: (stepped(case, rank), wrapped(case, rank)) for case in CASES}
    with mock.patch("skipback.step.ranks.spread"):
        results["unspread"] = stepped(CASES[0], rank)
    results["noise"], results["alike"] = drawn(), drawn(alike=True)
    results["resumed"], results["through"] = resumed(rank, folder), through(rank)
    meet(rank, f"{folder}/raises", timeout=timedelta(seconds=WAIT))
    results["raises"] = failing(rank, complain)
    time.sleep(2 * WAIT * rank)  # a group that is taken apart would be noticed at once
    torch.save(results, f"{folder}/rank{rank}.pt")
    meet(rank, f"{folder}/dies", timeout=timedelta(seconds=600))
    results["dies"] = failing(rank, partial(os._exit, 0))
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank has left."""
    return results_of(worker, tmp_path_factory.mktemp("ddp"), RANKS)


def buffers(build, state):
    """Those that a forward pass changes."""
    return {k: state[f"net.{k}"] for k, _ in BUILDS[build]().named_buffers()}


def trained(build, state):
    return {k: state[f"net.{k}"] for k, _ in BUILDS[build]().named_parameters()}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_step_leaves_the_weights_and_buffers_of_ddp_and_backward(ranks, case):
    for rank in ranks:
        for one, other in zip(*rank[case], strict=True):
            assert difference(one, other) < 1e-12


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_ranks_keep_the_same_weights(ranks, case):
    one, other = (rank[case][0][-1] for rank in ranks)
    assert nets.same(trained(case[1], one), trained(case[1], other))


def test_each_rank_adds_its_own_batch_to_the_statistics_of_rank_0(ranks):
    """As DDP leaves them: rank 0's are those to save. Without the messages each rank has its own."""
    with_, without = ([rank[what] for rank in ranks] for what in (CASES[0], "unspread"))
    first = [buffers("norm", rank[0][0]) for rank in with_]
    assert difference(*first) > 1e-3
    assert difference(buffers("norm", with_[1][0][-1]), buffers("norm", without[1][-1])) > 1e-3
    assert nets.same(buffers("norm", with_[0][0][-1]), buffers("norm", without[0][-1]))


def test_uneven_batches_weigh_as_ranks_not_as_samples(ranks):
    """The mean of means, as in DDP. It is not the mean over all samples."""
    x, t, ids = batch()
    whole, change = sb.attach(made(nets.mlp), sb.f3(memory=8), x, show=None), update.Update(PUBLISHED)
    for _ in range(STEPS):
        whole.step(x, t, loss=cross_entropy, update=change, ids=ids)
    found = ranks[0]["f3", "mlp", "uneven"][0][-1]
    assert difference(trained("mlp", found), trained("mlp", left(whole))) > 1e-4


def test_each_rank_draws_directions_of_its_own(ranks):
    """Rank 0 those of one process; independent, so that their mean varies less; and what must agree does."""
    one, other = (rank["noise"] for rank in ranks)
    assert nets.same(dict(enumerate(one)), dict(enumerate(drawn())))
    every = torch.stack([*one, *other])
    assert (torch.corrcoef(every) - torch.eye(4)).abs().max() < 0.15  # 1000 numbers: 0.03 is one sigma
    assert nets.same(*(dict(enumerate(rank["alike"])) for rank in ranks))
    assert nets.same(dict(enumerate(ranks[1]["alike"])), dict(enumerate(drawn())))


def test_one_process_draws_what_it_always_drew():
    """Pinned: a checkpoint of an older run goes on to the same bits."""
    stream = Stream(3)
    assert [stream.next(torch.device("cpu")).initial_seed() for _ in range(2)] == [39940641680238514, 24321481370512250]


def test_one_checkpoint_continues_the_noise_of_every_rank(ranks):
    for rank in ranks:
        assert nets.same(rank["resumed"], rank["through"])
    assert nets.same(ranks[0]["through"], ranks[1]["through"])


def test_a_rank_that_raises_does_not_leave_the_others_without_a_word(ranks):
    waiting, failed = (rank["raises"] for rank in ranks)
    assert waiting[0] == failed[0] == ("", 0)
    assert failed[1][0] == "this loss is out of order"
    message, seconds = waiting[1]
    assert "rank 0 waited in vain" in message
    assert WAIT * 0.9 < seconds < 4 * WAIT


def test_no_step_follows_one_that_was_broken_off(ranks):
    """Its gradients would be added to those of another step, in silence."""
    for rank in ranks:
        message, seconds = rank["raises"][2]
        assert "an earlier step was broken off" in message
        assert seconds < WAIT / 2


def test_a_rank_whose_process_dies_is_noticed_at_once(ranks):
    """Long before the 600 s that the group would wait."""
    message, seconds = ranks[0]["dies"][1]
    assert "rank 0 waited in vain" in message
    assert seconds < 30
    assert "dies" not in ranks[1]
