"""A run trains by `step`: to the bit the run of a loop with `backward` and `torch.optim`, whose states it loads."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from skipback.lab import data
from skipback.lab.config import Run
from skipback.lab.data.base import Split
from skipback.lab.trainer import Trainer


class Loop(Trainer):
    """The loop that a person writes."""

    def __init__(self, *args):
        super().__init__(*args)
        parameters, lr = self.learner.parameters(), self.run.lr
        self.optimizer = {
            "adam": lambda: torch.optim.Adam(parameters, lr=lr, fused=True),
            "sgd": lambda: torch.optim.SGD(parameters, lr=lr, fused=True),
            "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=lr),
        }[self.run.optimizer]()

    def epoch(self):
        net, total, samples = self.learner.train(), 0.0, 0
        wrong = 0
        for batch in self.feed.epoch(self.run.batch_size, self.shuffle):
            y = net(batch.x, target=batch.t, ids=batch.ids)
            loss = self.loss.of_output(y, batch.t)
            wrong += int((y.argmax(1) != (batch.t if batch.t.dim() == 1 else batch.t.argmax(1))).sum())
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total, samples = total + loss.detach() * len(batch), samples + len(batch)
        self.counted.take(torch.tensor(samples - wrong), samples)
        self.close_epoch(0.0)
        return total.item() / samples


@pytest.fixture(scope="module")
def digits():
    """300 of them, also as images of 16 x 16."""
    found = data.load("digits")
    few = dataclasses.replace(found, train=Split(x=found.train.x[:300], t=found.train.t[:300]))
    large = [Split(x=F.interpolate(part.x, scale_factor=2), t=part.t) for part in (few.train, found.test)]
    return {"mlp": few, "lenet": dataclasses.replace(few, train=large[0], test=large[1])}


def flat(state):
    """All tensors of a state, by their place in it."""
    if isinstance(state, torch.Tensor):
        return {(): state.clone()}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {(key, *place): t for key, value in items for place, t in flat(value).items()}


def same(a, b):
    a, b = flat(a.state()), flat(b.state())
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


RUNS = {
    **{name: {"method": name} for name in ("bp", "dfa", "f3", "drtp", "dkp", "shallow", "fa")},
    **{f"{o}-{name}": {"method": name, "optimizer": o} for o in ("sgd", "rmsprop") for name in ("dfa", "f3")},
    "dropout": {"method": "drtp", "dropout": 0.2},
    "conv": {"method": "dfa", "net": "lenet"},
    "conv-f3": {"method": "f3", "net": "lenet"},
    "anchored": {"method": "dfa", "anchor": 3},
    "mse": {"method": "dfa", "loss": "mse"},
}


def pair(name, digits):
    options = {"net": "mlp", **RUNS[name]}
    sizes = {"width": 20, "depth": 2} if options["net"] == "mlp" else {}
    run = Run(dataset="digits", seed=3, batch_size=64, lr=0.01, threads=1, precision="float32", **sizes, **options)
    return Trainer(run, digits[options["net"]]), Loop(run, digits[options["net"]])


@pytest.mark.parametrize("name", RUNS)
def test_two_epochs_are_those_of_the_loop(name, digits):
    ours, loop = pair(name, digits)
    before, losses = flat(loop.state()), []
    for trainer in (ours, loop):
        torch.manual_seed(4)  # of the dropout masks
        losses.append([trainer.epoch() for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # the mean adds up in another order
    ours.seconds = loop.seconds = 0.0
    assert same(ours, loop)
    after = flat(loop.state())
    assert any(key[0] == "learner" and not torch.equal(t, before[key]) for key, t in after.items())
    assert ours.row(2, None) == loop.row(2, None)


@pytest.mark.parametrize("name", ["f3", "dkp", "rmsprop-dfa", "sgd-f3"])
def test_the_state_of_an_older_run_goes_on(name, digits):
    ours, loop = pair(name, digits)
    loop.epoch()
    ours.restore(copy.deepcopy(loop.state()))
    loop.epoch()
    ours.epoch()
    ours.seconds = loop.seconds = 0.0
    assert same(ours, loop)
