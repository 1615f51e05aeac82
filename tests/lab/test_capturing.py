"""A run on a GPU trains by captured epochs: what its loop over batches does, to the bit. Here a tape is the GPU."""

import dataclasses

import pytest
import torch
from tape import Tape

from skipback.lab import capturing, data
from skipback.lab.config import Run
from skipback.lab.data.augment import Flip
from skipback.lab.data.pipeline import feeds
from skipback.lab.losses import LOSSES
from skipback.lab.session import _describe
from skipback.lab.trainer import Trainer


@pytest.fixture
def digits():
    return feeds(data.load("digits"))


def pair(method, inputs, *, batch=64, **more):
    """A trainer as it is on the CPU, and one with a recorder."""
    run = Run(
        dataset="digits",
        method=method,
        net="mlp",
        width=8,
        depth=2,
        batch_size=batch,
        seed=3,
        threads=1,
        precision="float32",
        **more,
    )
    plain, other = Trainer(run, inputs), Trainer(run, inputs)
    tape = Tape()
    other.steps = capturing.capturing(
        other.feed, other.learner, other.update, other.loss.of_output, batch, watch=other.counted, recorder=tape
    )
    return plain, other, tape


def weights(trainer):
    return [p.detach().clone() for p in trainer.learner.parameters()]


@pytest.mark.parametrize("method", ["f3", "dfa", "bp", "fdfa"])
def test_two_epochs_are_those_of_the_loop(method, digits):
    plain, other, tape = pair(method, digits)
    assert plain.steps is None
    for _ in range(2):
        assert other.epoch() == pytest.approx(plain.epoch(), rel=1e-6)  # a mean is divided in another precision
    assert plain.errors == other.errors
    assert len(set(plain.errors)) == 2
    assert all(torch.equal(p, q) for p, q in zip(weights(plain), weights(other), strict=True))
    assert torch.equal(plain.shuffle.get_state(), other.shuffle.get_state())
    assert ("replay" in tape.log) == (method != "fdfa")
    assert other.seconds > 0


def test_the_row_and_the_line_say_what_was_used(digits):
    plain, other, _ = pair("dfa", digits)
    loss = [plain.epoch(), other.epoch()]
    rows = [plain.row(1, loss[0]), other.row(1, loss[1])]
    assert "steps" not in rows[0]
    assert rows[1]["steps"] == "captured"
    assert [_describe(row).endswith("samples/s  captured") for row in rows] == [False, True]
    _, alone, _ = pair("fdfa", digits)
    assert "the host seeds" in alone.row(0, None)["steps"]


def test_rows_that_change_on_the_way_are_left_to_the_loop(digits):
    trainer = pair("dfa", digits)[0]
    assert trainer.steps is None
    moved = feeds(data.load("digits"), augment=Flip()).train
    kinds = (trainer.learner, trainer.update, trainer.loss.of_output, 64)
    assert capturing.capturing(moved, *kinds, recorder=Tape()) is None
    assert capturing.capturing(digits.train, *kinds) is None  # no GPU


def test_rows_are_mapped_as_they_are_taken(digits):
    rows = dataclasses.replace(digits.train, transform=lambda x: 2 * x - 1)
    plain, other, tape = pair("f3", dataclasses.replace(digits, train=rows))
    plain.epoch(), other.epoch()
    assert all(torch.equal(p, q) for p, q in zip(weights(plain), weights(other), strict=True))
    assert "replay" in tape.log


def test_a_last_batch_that_is_dropped_is_dropped():
    inputs = feeds(data.load("digits"), drop_last=True)
    plain, other, _ = pair("drtp", inputs, batch=100)
    assert len(inputs.train) % 100
    plain.epoch(), other.epoch()
    assert all(torch.equal(p, q) for p, q in zip(weights(plain), weights(other), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_of_the_lab_asks_the_host(name):
    run = Run(dataset="digits", method="dfa", net="mlp", width=8, batch_size=300, loss=name, threads=1)
    trainer, tape = Trainer(run, data.load("digits")), Tape()
    steps = capturing.capturing(
        trainer.feed, trainer.learner.train(), trainer.update, trainer.loss.of_output, 300, recorder=tape
    )
    steps.epoch(torch.arange(len(trainer.feed)))
    assert (steps.why, "replay" in tape.log) == (None, True)


@pytest.mark.parametrize(
    ("more", "captured"),
    [
        ({}, True),
        ({"precision": "bf16"}, False),
        ({"compile": True}, False),
        ({"schedule": "inverse:1"}, False),
        ({"schedule": "step:1:.5"}, True),
    ],
)
def test_what_is_captured_computes_as_it_is(digits, monkeypatch, more, captured):
    """A recording knows neither bfloat16 nor compiled blocks, and must not be taken for them in silence."""
    monkeypatch.setattr("skipback.lab.trainer.capturing", lambda *args, **more: "recorded")
    run = Run(dataset="digits", method="dfa", net="mlp", width=8, depth=1, threads=1, **more)
    assert (Trainer(run, digits).steps == "recorded") == captured
