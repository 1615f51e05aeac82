"""How a run ended: what is no result never looks like one, in files, terminal and report."""

import json
import math

import pytest
import torch

import skipback as sb
from skipback.lab import moving
from skipback.lab.cli import main
from skipback.lab.session import _describe
from skipback.lab.states import DIVERGED, FINISHED, STOPPED, UNMOVED, state_of

FAST = ["--epochs", "2", "--width", "16", "--depth", "1"]


def rows(*losses, start=2.3, **more):
    first = {"epoch": 0, "train_loss": None, "test_loss": start}
    return [first, *({"epoch": k, "train_loss": x, "test_loss": 2.0, **more} for k, x in enumerate(losses, 1))]


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (rows(2.0, 1.0), FINISHED),
        (rows(2.0, 22.9), FINISHED),
        (rows(2.0, 23.1), DIVERGED),
        (rows(2.0, math.nan), DIVERGED),
        (rows(2.0, math.inf), DIVERGED),
        (rows(2.0, None), DIVERGED),  # what is not finite is null in files
        (rows(math.nan, 2.0), FINISHED),  # it has come back
        (rows(2.0, test_loss=math.nan), DIVERGED),  # the last step did it
        (rows(2.0, test_loss=50.0), FINISHED),  # overfitted, not lost
        (rows(30.0, start=math.nan), FINISHED),  # nothing to compare with
        (rows(2.0, moved=True), FINISHED),
        (rows(2.0, 2.0, moved=False), UNMOVED),
        ([*rows(2.0, moved=False), {"epoch": 2, "train_loss": 1.0, "test_loss": 1.0, "moved": True}], FINISHED),
        (rows(40.0, moved=False), DIVERGED),
        (rows(), FINISHED),
    ],
)
def test_the_state_of_a_run(given, state):
    assert state_of(given) == state


def test_a_stop_rule_ends_a_run_that_is_neither_lost_nor_dead():
    assert state_of(rows(2.0), stopped=True) == STOPPED
    assert state_of(rows(40.0), stopped=True) == DIVERGED
    assert state_of(rows(2.0, moved=False), stopped=True) == UNMOVED


def train(capsys, folder, *argv):
    """Train one run. Returns its summary, what was said, and the warnings."""
    assert main(["train", "digits", *FAST, *argv, "--out", str(folder)]) == 0
    said = capsys.readouterr()
    (summary,) = folder.glob("*/summary.json")
    return json.loads(summary.read_text()), said.out, said.err


def test_a_run_that_diverges_says_so_and_again_from_its_folder(tmp_path, capsys):
    for _ in range(2):  # the second time its losses are read, where infinity is null
        summary, out, _ = train(capsys, tmp_path, "--method", "bp", "--optimizer", "sgd", "--lr", "1e38")
        assert summary["state"] == DIVERGED
        assert "loss not finite" in out
        assert "diverged" in out


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--method", "dfa", "--feedback", "zeros"], "its feedback is all 0"),
        (["--method", "bp", "--lr", "1e-30", "--optimizer", "sgd"], "the steps too small"),
    ],
)
def test_a_run_in_which_nothing_moves_says_so_with_the_cause(tmp_path, capsys, argv, why):
    summary, out, err = train(capsys, tmp_path, *argv)
    assert summary["state"] == UNMOVED
    assert "nothing moved" in out
    assert f"no weight of a hidden block has changed in epoch 1, as {why}" in " ".join(err.split()).replace(
        "as its gradients there are 0, or ", "as "
    )


@pytest.mark.parametrize("argv", [["--method", "shallow"], ["--method", "f3", "--signal", "zeros"]])
def test_a_floor_need_not_move(tmp_path, capsys, argv):
    summary, out, err = train(capsys, tmp_path, *argv)
    assert summary["state"] == FINISHED
    assert "nothing moved" not in out + err


@pytest.mark.parametrize("method", ["bp", "dfa", "fa", "fdfa", "dkp", "f3", "drtp"])
def test_what_learns_moves(tmp_path, capsys, method):
    assert train(capsys, tmp_path, "--method", method)[0]["state"] == FINISHED


def test_learned_feedback_of_one_step_an_epoch_is_given_a_second(tmp_path, capsys):
    """FDFA starts from feedback of 0, so that its first step moves no hidden block."""
    summary, _, err = train(capsys, tmp_path, "--method", "fdfa", "--batch-size", "5000")
    assert summary["state"] == FINISHED
    assert "nothing moved" not in err


def test_runs_trained_together_have_states(tmp_path, capsys):
    assert (
        main(["train", "digits", *FAST, "--feedback", "zeros", "--seeds", "2", "--together", "--out", str(tmp_path)])
        == 0
    )
    assert [json.loads(p.read_text())["state"] for p in tmp_path.glob("*/summary.json")] == [UNMOVED] * 2
    assert capsys.readouterr().err.count("nothing moved") == 1  # not once a seed


def saturated():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    with torch.no_grad():
        net[0].bias.fill_(40.0)
    return net


def test_the_cause_of_saturated_units():
    x, t = torch.rand(5, 3), torch.zeros(5, dtype=torch.int64)
    learner = sb.attach(saturated(), sb.dfa(), example=x, show=None)
    assert moving.cause(learner, (x,), t, torch.nn.functional.cross_entropy, None) == "every unit is saturated"


def test_movement_sees_a_change_of_one_bit():
    x = torch.rand(5, 3)
    learner = sb.attach(saturated(), sb.dfa(), example=x, show=None)
    watch = moving.Movement(learner, (x,))
    assert watch.moved() is False
    with torch.no_grad():
        learner.net[2].weight.add_(1.0)  # the head
    assert watch.moved() is False
    with torch.no_grad():
        learner.net[0].weight[0, 0] = torch.nextafter(learner.net[0].weight[0, 0], torch.tensor(9.0))
    assert watch.moved() is True
    assert watch.moved() is False


def test_a_summary_of_null_is_told_in_words():
    text = _describe({"train_loss": None, "test_loss": None, "test_mse": None, "state": DIVERGED})
    assert text == "loss not finite  test MSE not finite    diverged"
