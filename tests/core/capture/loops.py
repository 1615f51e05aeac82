"""One learner trained by `captured`, its twin by a loop of `learner.step` over the same batches."""

from __future__ import annotations

import nets
import torch
import torch.nn.functional as F

import skipback as sb

M, N = 22, 5
"""Samples, and of a batch: four full ones an epoch, and one of two samples."""
EPOCHS = 3


def data(shape=(6,)):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(M, *shape, generator=generator), torch.randint(nets.C, (M,), generator=generator)


def orders(epochs=EPOCHS):
    return [torch.randperm(M, generator=torch.Generator().manual_seed(k)) for k in range(epochs)]


def twins(method, build=nets.mlp, shape=(6,)):
    return [
        sb.attach(nets.made(build, dtype=torch.float32), method, torch.zeros(2, *shape), show=None) for _ in range(2)
    ]


def loop(learner, update, rows, order, *, loss=F.cross_entropy):
    """The same epoch as a person writes it. Returns the mean loss."""
    x, t = rows
    total = torch.zeros(())
    for ids in order.split(N):
        total += learner.step(x[ids], t[ids], loss=loss, update=update, ids=ids) * len(ids)
    return total / len(order)


def state(learner, update):
    """All that training changes, by name; not the prints, which a captured step does not take."""
    own = {name: value.clone() for name, value in learner.state_dict().items() if not name.endswith("prints")}
    of_optimizer = update.optimizer.state_dict()["state"]
    return own | {f"{k} {name}": torch.as_tensor(v).clone() for k, s in of_optimizer.items() for name, v in s.items()}


def different(one, other):
    """The names of what differs in any bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
