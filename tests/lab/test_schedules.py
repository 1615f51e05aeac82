"""Schedules: torch's own rules, torch7's `learningRateDecay`, and dfa-torch's halving; all to the last digit."""

import numpy as np
import pytest
import torch

from skipback.lab import data
from skipback.lab.config import Run
from skipback.lab.errors import LabError
from skipback.lab.schedules import follow, parse
from skipback.lab.trainer import Trainer

SIZE = {"net": "mlp", "width": 8, "depth": 1, "batch_size": 300, "threads": 1, "precision": "float32"}
UPDATES = 5  # of 1437 training images


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def rates(trainer):
    return [group["lr"] for group in trainer.optimizer.param_groups]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, [0.01] * 6),
        ("step:2:0.5", [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]),
        ("exponential:0.95", 0.01 * 0.95 ** np.arange(6)),
        ("inverse:0.1", 0.01 / (1 + 0.1 * UPDATES * np.arange(6))),
    ],
)
def test_rates_by_epoch(digits, schedule, expected):
    trainer, found = Trainer(Run(schedule=schedule, lr=0.01, **SIZE), digits), []
    for _ in range(6):
        found += rates(trainer)
        trainer.epoch()
    assert found == pytest.approx(list(expected), rel=1e-12)


def test_inverse_counts_updates_and_begins_undivided(digits):
    """torch7: lr_t = lr / (1 + t D), t the updates before this one. Plain SGD, written out."""
    run = Run(method="bp", schedule="inverse:0.5", optimizer="sgd", lr=0.1, **SIZE)
    trainer = Trainer(run, digits)
    seen = []
    apply = trainer.update.apply

    def watched(parameters, gradients):
        seen.append(trainer.optimizer.param_groups[0]["lr"])
        apply(parameters, gradients)

    trainer.update.apply = watched
    trainer.epoch()
    assert list(dict.fromkeys(seen)) == pytest.approx([0.1 / (1 + 0.5 * t) for t in range(UPDATES)], rel=1e-12)


def by_hand(errors):
    """dfa-torch's `epoch_step 0` as its loop: average, halvings, and the epoch that is the last one."""
    m, decays = 1.0, 0
    for k, error in enumerate(errors):
        m = 0.75 * m + 0.25 * error
        if decays >= 8 or m <= 1e-4:
            return m, decays, k
        if error >= m:
            decays += 1
    return m, decays, None


@pytest.mark.parametrize("seed", range(20))
def test_auto_is_the_loop_of_dfa_torch(seed):
    drawn = np.random.default_rng(seed)
    errors = (drawn.random(60) * drawn.choice([0.01, 0.5, 1.0]) * 0.9 ** (np.arange(60) * (seed % 3))).tolist()
    m, decays, last = by_hand(errors)
    assert last is not None or not follow(errors).ended
    now = follow(errors[: None if last is None else last + 1])
    assert (now.average, now.halvings, now.ended) == (m, decays, last is not None)


def test_auto_halves_the_rate_where_the_error_does_not_fall(digits):
    trainer = Trainer(Run(schedule="auto", lr=0.25, **SIZE), digits)
    for errors, rate in (([0.5], 0.25), ([0.5, 0.9], 0.125), ([0.5, 0.9, 0.2], 0.125), ([0.5, 0.9, 0.2, 0.8], 0.0625)):
        trainer.schedule.ended(errors)
        assert rates(trainer) == [rate]


def test_a_schedule_leaves_feedback_alone_that_has_a_rate_of_its_own(digits):
    own = Trainer(Run(method="fdfa", schedule="step:1:0.5", lr=0.01, feedback_lr=0.01, **SIZE), digits)
    one = Trainer(Run(method="fdfa", schedule="step:1:0.5", lr=0.01, **SIZE), digits)
    for trainer in (own, one):
        trainer.epoch()
    assert rates(own) == [0.005, 0.01]
    assert rates(one) == [0.005]
    assert [p for g in own.optimizer.param_groups[1:] for p in g["params"]] == own.learner.feedback_parameters()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cosine", "unknown schedule 'cosine'"),
        ("stp:1:.5", "did you mean 'step'"),
        ("step", "write it as step:S:G"),
        ("step:2", "write it as step:S:G"),
        ("step:2:.5:3", "write it as step:S:G"),
        ("step:two:.5", "write it as step:S:G"),
        ("step:1.5:.5", "S must be a whole number"),
        ("step:0:.5", "S must be a whole number"),
        ("step:inf:.5", "S must be a whole number"),
        ("exponential:0", "G must be a factor"),
        ("exponential:nan", "G must be a factor"),
        ("inverse:-1", "D must be a number"),
        ("inverse:inf", "D must be a number"),
        ("auto:1", "write it as auto"),
    ],
)
def test_what_is_no_schedule_is_refused(text, said):
    with pytest.raises(LabError, match=said):
        parse(text)
    with pytest.raises(ValueError, match=said):  # pydantic's, as in every field
        Run(schedule=text)


def test_torchs_schedulers_are_asked(digits):
    """No rule of our own where torch has one."""
    for schedule, name in (("step:1:.5", "StepLR"), ("exponential:.5", "ExponentialLR"), ("inverse:1", "LambdaLR")):
        trainer = Trainer(Run(schedule=schedule, **SIZE), digits)
        assert type(trainer.schedule.scheduler) is getattr(torch.optim.lr_scheduler, name)
