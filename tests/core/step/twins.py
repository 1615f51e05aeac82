"""Twins: the same learner twice, one trained by `step`, the other by `backward` and `torch.optim`."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from nets import batch, logits, made

import skipback as sb

STEPS = 5


def twins(build, method, example, *, seed=0, dtype=torch.float64):
    """Two learners with the same weights, feedback and memory."""
    return [sb.attach(made(build, dtype=dtype), method, example, seed=seed, show=None) for _ in range(2)]


def cross_entropy(y, t):
    """Of classes, or of a class at each position; of the logits of a network that returns more than that."""
    y = logits(y)
    return F.cross_entropy(y.flatten(0, -2), t.flatten())


def by_step(learner, update, batches, *, loss=cross_entropy, scale=1.0):
    """Train by `step`. Returns the losses."""
    return [learner.step(x, t, loss=loss, update=update, ids=ids, scale=scale).item() for x, t, ids in batches]


def by_backward(learner, optimizer, batches, *, loss=cross_entropy, scale=1.0):
    """Train by the loop that a user writes. Returns the losses."""
    losses = []
    for x, t, ids in batches:
        args = x if isinstance(x, tuple) else (x,)
        value = loss(logits(learner(*args, target=t, ids=ids, scale=scale)), t)
        (value * scale).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


def batches(shape=(6,), n=8, *, steps=STEPS, dtype=torch.float64):
    """Other inputs for each step; the ids overlap, so a memory is written and read. Views of it stay the same."""
    x, t, _ = batch(shape, 2 * n, dtype=dtype)
    picks = [torch.randperm(2 * n, generator=torch.Generator().manual_seed(s))[:n] for s in range(steps)]
    return [(x[ids], t[ids], ids) for ids in picks]


def apart(one, other):
    """The largest difference of two learners' states, in units of each tensor's largest entry."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    worst = 0.0
    for key in a:
        x, y = a[key].double(), b[key].double()
        if y.numel():
            worst = max(worst, (x - y).abs().max().item() / max(y.abs().max().item(), 1e-300))
    return worst


def equal(one, other):
    """Whether two learners' states have the same bits."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def moved(learner, before):
    """Whether training changed the first and the last parameter, so that equality says something."""
    now = list(learner.net.parameters())
    return not torch.equal(now[-1], before[-1]) and any(not torch.equal(p, q) for p, q in zip(now, before, strict=True))


def weights(learner):
    """A copy of all parameters of the network."""
    return copy.deepcopy([p.detach() for p in learner.net.parameters()])
