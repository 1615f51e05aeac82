"""The same mistake gets the same words, whatever the way of training: by step, wavefront, stages, captured or Many."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb

X, T, IDS = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3, torch.arange(10)


def taught(method=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    return sb.attach(net, method or sb.f3(memory=10), example=X[:2], show=None)


def many(learner, loss, update):
    sb.Many([learner]).step(X[None], T[None], loss=loss, update=update, ids=IDS[None])


WAYS = {
    "step": lambda learner, loss, update: learner.step(X, T, loss=loss, update=update, ids=IDS),
    "wavefront": lambda learner, loss, update: sb.wavefront(learner, update=update).epoch([(X, T, IDS)], loss=loss),
    "stages": lambda learner, loss, update: sb.stages(learner, rank=0, world=1).epoch(
        [(X, T, IDS)], loss=loss, update=update
    ),
    "captured": lambda learner, loss, update: sb.captured(learner, X, T, batch=10, loss=loss, update=update).epoch(IDS),
    "many": many,
}


def detached(learner):
    learner.detach()
    return F.cross_entropy, sb.update.adam()


def in_eval_mode(learner):
    learner.eval()
    return F.cross_entropy, sb.update.adam()


MISTAKES = {
    "a vector": (
        lambda learner: (lambda y, t: F.cross_entropy(y, t, reduction="none"), sb.update.adam()),
        ValueError,
        "loss must return one number, not shape (10,): take its mean() or sum()",
    ),
    "a number": (
        lambda learner: (lambda y, t: F.cross_entropy(y, t).item(), sb.update.adam()),
        TypeError,
        "loss must return a tensor of one number, not ",
    ),
    "a constant": (
        lambda learner: (lambda y, t: torch.tensor(1.0), sb.update.adam()),
        ValueError,
        "what loss returns does not depend on the output by operations that have a gradient",
    ),
    "an optimizer": (
        lambda learner: (F.cross_entropy, torch.optim.Adam(learner.parameters())),
        TypeError,
        "update must be one of skipback.update, such as skipback.update.adam(), not a Adam: ",
    ),
    "no update": (
        lambda learner: (F.cross_entropy, None),
        TypeError,
        "update must be one of skipback.update, such as skipback.update.adam(), not a NoneType: ",
    ),
    "detached": (
        detached,
        RuntimeError,
        "the method was taken off by detach(), so nothing would train the network: attach one again",
    ),
    "eval mode": (in_eval_mode, ValueError, "the network is in eval mode: call train() first"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("way", WAYS)
def test_a_mistake_gets_the_same_words_and_changes_no_head(way, mistake):
    make, kind, words = MISTAKES[mistake]
    learner = taught()
    before = [p.clone() for p in learner.net[4].parameters()]
    loss, update = make(learner)
    with pytest.raises(kind) as caught:
        WAYS[way](learner, loss, update)
    assert type(caught.value) is kind
    assert re.sub(r"^member 0: ", "", str(caught.value)).startswith(words)
    assert all(torch.equal(p, q) for p, q in zip(before, learner.net[4].parameters(), strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_inference_mode_is_left_in_the_same_words(way):
    learner = taught()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="^(member 0: )?training does not work in inference"):
        WAYS[way](learner, F.cross_entropy, sb.update.adam())


@pytest.mark.parametrize("way", ["wavefront", "stages", "many"])
def test_unknown_blocks_and_autocast_are_refused_in_the_same_words(way):
    blind = sb.attach(nn.Sequential(nn.Linear(8, 3)), sb.f3(memory=10), show=None)
    with pytest.raises(
        ValueError, match=r"^(member 0: )?the blocks are not known yet: pass example=\.\.\. to attach\(\)$"
    ):
        WAYS[way](blind, F.cross_entropy, sb.update.adam())
    learner = taught()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
        WAYS[way](learner, F.cross_entropy, sb.update.adam())


@pytest.mark.parametrize("way", WAYS)
def test_without_a_mistake_all_ways_train(way):
    """So that a test above cannot pass for another reason."""
    learner = taught()
    before = [p.clone() for p in learner.parameters()]
    WAYS[way](learner, F.cross_entropy, sb.update.adam())
    assert all(not torch.equal(p, q) for p, q in zip(before, learner.parameters(), strict=True))
