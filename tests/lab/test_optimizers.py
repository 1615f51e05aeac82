"""Any optimizer of torch, with its options, to its bits; and one of its own for feedback that learns."""

import dataclasses
import inspect
import json

import pytest
import torch

from skipback.lab import choices, data
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.data.base import Split
from skipback.lab.errors import LabError
from skipback.lab.trainer import Trainer

SIZE = {"net": "mlp", "width": 8, "depth": 2, "batch_size": 64, "threads": 1, "precision": "float32", "seed": 3}


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits")
    return dataclasses.replace(found, train=Split(x=found.train.x[:300], t=found.train.t[:300]))


def trained(run, digits, make):
    """Two epochs of a run by `step`, and by the loop that a person writes with these optimizers."""
    ours, loop = Trainer(run, digits), Trainer(run, digits)
    optimizers = make(loop)
    for _ in range(2):
        ours.epoch()
        net = loop.learner.train()
        for batch in loop.feed.epoch(run.batch_size, loop.shuffle):
            loop.loss.of_output(net(batch.x, target=batch.t, ids=batch.ids), batch.t).backward()
            for one in optimizers:
                one.step()
                one.zero_grad()
    pairs = zip(ours.learner.named_parameters(), loop.learner.parameters(), strict=True)
    return {name: torch.equal(p, q) for (name, p), q in pairs}


def kind(name):
    return getattr(torch.optim, choices.OPTIMIZERS[name][0])


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
def test_the_table_says_which_options_torch_has(name):
    known = {"weight_decay", "momentum", "dampening", "nesterov"} & set(inspect.signature(kind(name)).parameters)
    assert set(choices.OPTIMIZERS[name][1]) == known


CASES = {
    **{name: ({}, {}) for name in choices.OPTIMIZERS},
    "sgd-decay": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "sgd-momentum": ({"momentum": 0.9}, {"momentum": 0.9}),
    "sgd-damped": ({"momentum": 0.9, "dampening": 0.9}, {"momentum": 0.9, "dampening": 0.9}),
    "sgd-nesterov": ({"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    "rmsprop-momentum": ({"momentum": 0.5, "weight_decay": 0.1}, {"momentum": 0.5, "weight_decay": 0.1}),
    "adam-decay": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "adamw-decay": ({"weight_decay": 0.3}, {"weight_decay": 0.3}),
    "nadam-decay": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("method", ["dfa", "f3"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_bits_of_torch(case, method, digits):
    name, (said, given) = case.split("-")[0], CASES[case]
    fused = {"fused": True} if name in ("adam", "adamw") or case in ("sgd", "sgd-decay") else {}
    run = Run(method=method, optimizer=name, lr=0.01, **said, **SIZE)
    same = trained(run, digits, lambda t: [kind(name)(t.learner.parameters(), lr=0.01, **given, **fused)])
    assert all(same.values()), same


@pytest.mark.parametrize("method", ["fdfa", "dkp", "kp"])
def test_feedback_has_a_rate_and_a_decay_of_its_own(method, digits):
    """Bacho and Chu: Adam, lr 1e-4 of weights and of feedback; here all numbers differ."""
    run = Run(method=method, lr=0.02, weight_decay=0.1, feedback_lr=0.005, feedback_decay=0.2, **SIZE)

    def two(t):
        weights, feedback = list(t.learner.net.parameters()), t.learner.feedback_parameters()
        return [
            torch.optim.Adam(weights, lr=0.02, weight_decay=0.1, fused=True),
            torch.optim.Adam(feedback, lr=0.005, weight_decay=0.2, fused=True),
        ]

    same = trained(run, digits, two)
    assert all(same.values()), same


def test_decay_of_the_weights_is_none_of_the_feedback(digits):
    run = Run(method="fdfa", lr=0.01, weight_decay=0.1, **SIZE)
    held = {tuple(g["params"][0].shape): g["weight_decay"] for g in Trainer(run, digits).optimizer.param_groups}
    assert sorted(held.values()) == [0.0, 0.1]


def test_feedback_by_another_optimizer(digits):
    """The alternative in the code of FDFA: plain SGD on the feedback, a moving average."""
    run = Run(method="fdfa", lr=0.01, feedback_optimizer="sgd", feedback_lr=0.1, **SIZE)

    def two(t):
        weights, feedback = list(t.learner.net.parameters()), t.learner.feedback_parameters()
        return [torch.optim.Adam(weights, lr=0.01, fused=True), torch.optim.SGD(feedback, lr=0.1, fused=True)]

    same = trained(run, digits, two)
    assert all(same.values()), same


def test_one_optimizer_where_nothing_tells_the_feedback_apart(digits):
    assert len(Trainer(Run(method="fdfa", **SIZE), digits).optimizer.param_groups) == 1
    assert len(Trainer(Run(method="fdfa", optimizer="adamw", **SIZE), digits).optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"momentum": 0.9}, "--momentum: --optimizer adam has no momentum .have it: sgd, rmsprop"),
        ({"optimizer": "rmsprop", "momentum": 0.9, "dampening": 0.1}, "--dampening: --optimizer rmsprop has no"),
        ({"optimizer": "sgd", "dampening": 0.1}, "--dampening says nothing without --momentum"),
        ({"optimizer": "sgd", "nesterov": True}, "--nesterov says nothing without --momentum"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.9, "dampening": 0.9}, "undamped"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "--weight-decay: --optimizer rprop has no weight decay"),
        ({"method": "fdfa", "feedback_optimizer": "rprop", "feedback_decay": 0.1}, "--feedback-decay: --feedback-opt"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"feedback_optimizer": "sdg"}, "did you mean 'sgd'"),
    ],
)
def test_an_option_that_an_optimizer_has_not_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        Run(**said)


@pytest.mark.parametrize("said", [{"feedback_lr": 1e-3}, {"feedback_decay": 1e-3}, {"feedback_optimizer": "sgd"}])
@pytest.mark.parametrize("method", ["dfa", "bp", "fa", "lg_fg_a"])
def test_a_rate_of_feedback_that_does_not_learn_is_refused(said, method, digits):
    with pytest.raises(LabError, match=f"the feedback of method '{method}' does not learn"):
        Trainer(Run(method=method, **said, **SIZE), digits)


def test_a_comparison_gives_a_rate_of_feedback_to_those_that_have_one(tmp_path, capsys):
    size = "--methods bp,dfa,fdfa --seeds 1 --epochs 1 --width 8 --depth 1 --feedback-lr 1e-2".split()
    assert main(["compare", "digits", *size, "--out", str(tmp_path)]) == 0
    held = {p.parent.name: json.loads(p.read_text())["feedback_lr"] for p in tmp_path.glob("*/config.json")}
    assert held == {"bp-seed1": None, "dfa-seed1": None, "fdfa-seed1": 0.01}
