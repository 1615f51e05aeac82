"""Stacked learners: against NumPy, apart in their seeds, and the same bits after an interruption."""

import json

import numpy as np
import pytest
import torch

from skipback.lab import checkpoint, data
from skipback.lab.cli import main
from skipback.lab.records import Folder
from skipback.lab.stacking import layer as layers
from skipback.lab.stacking import run as stacks
from skipback.lab.stacking.layer import Readout
from skipback.lab.stacking.learners import Learners
from skipback.lab.stacking.settings import Stack

SMALL = {"dataset": "digits", "learners": 3, "width": 8, "batch_size": 100, "layer_epochs": 4, "device": "cpu"}
FLAGS = "digits --learners 3 --width 8 --batch-size 100 --layer-epochs 4 --device cpu".split()


def run(folder, **settings):
    return stacks.run(Stack(**{**SMALL, **settings}), Folder(folder), command="test", progress=lambda line: None)


def rows():
    return stacks._rows(Stack(**SMALL), torch.device("cpu"))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_the_learners_are_those_of_the_scripts(tmp_path):
    """One epoch against NumPy: e = sigmoid(y) - t summed over a batch, dW1 = ((e B) (1 - h^2))^T x, rate 1e-3."""
    found = rows()
    options = Stack(**SMALL, start="same", std=0.3)
    learners = Learners(options, found.train, found.outputs)
    starts = [[p.detach().double().numpy().copy() for p in one.net.parameters()] for one in learners.learners]
    B = [next(iter(one.feedback.values())).double().numpy() for one in learners.learners]
    orders = [torch.Generator().manual_seed(1 + k) for k in range(3)]
    learners.fit(tmp_path / "learners.safetensors", lambda line: None)
    x, t = found.train.x.flatten(1).double().numpy(), np.eye(10)[found.train.t.numpy()]
    for k, (W1, b1, W2, b2) in enumerate(starts):
        for ids in torch.randperm(len(x), generator=orders[k]).split(100):
            h = np.tanh(x[ids] @ W1.T + b1)
            e = sigmoid(h @ W2.T + b2) - t[ids]
            a = (e @ B[k]) * (1 - h**2)
            W1, b1 = W1 - 1e-3 * a.T @ x[ids], b1 - 1e-3 * a.sum(0)
            W2, b2 = W2 - 1e-3 * e.T @ h, b2 - 1e-3 * e.sum(0)
        for p, wanted in zip(learners.learners[k].net.parameters(), (W1, b1, W2, b2), strict=True):
            np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=2e-4, atol=2e-5)


def starts_of(**settings):
    found = rows()
    learners = Learners(Stack(**{**SMALL, **settings}), found.train, found.outputs).learners
    return [one.net[1].weight.detach() for one in learners], [next(iter(one.feedback.values())) for one in learners]


def test_same_start_other_feedback_and_the_other_way():
    weights, B = starts_of(start="same")
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(B[0], B[1])
    assert weights[0].std().item() == pytest.approx(1.0, abs=0.1)
    weights, _ = starts_of(start="different")
    assert not torch.equal(weights[0], weights[1])


def test_seeds_of_weights_feedback_and_order_stand_apart():
    weights, B = starts_of(start="same")
    other_weights, same_B = starts_of(start="same", weight_seed=7)
    assert not torch.equal(weights[0], other_weights[0])
    assert torch.equal(B[2], same_B[2])
    same_weights, other_B = starts_of(start="same", feedback_seed=7, order_seed=9)
    assert torch.equal(weights[0], same_weights[0])
    assert not torch.equal(B[0], other_B[0])


def test_the_files_and_what_they_hold(tmp_path):
    summary = run(tmp_path / "a", layer="dense", start="different")
    with np.load(tmp_path / "a" / "features.npz") as kept:
        train, test = kept["train"], kept["test"]
    digits = data.raw("digits")
    assert train.shape == (len(digits.train), 30)
    t = digits.test.t.numpy()
    lines = [json.loads(line) for line in (tmp_path / "a" / "learners.jsonl").read_text().splitlines()]
    for k, line in enumerate(lines):
        own = 100 * (test[:, 10 * k : 10 * k + 10].argmax(1) != t).mean()
        assert line["learner"] == k
        assert line["test_error_percent"] == pytest.approx(own)
    assert summary["learner_test_error_percent"] == [line["test_error_percent"] for line in lines]
    state = checkpoint.load(tmp_path / "a" / "checkpoint.safetensors")["layer"]
    y = test @ state["weight"].numpy().T + state["bias"].numpy()
    assert summary["test_error_percent"] == pytest.approx(100 * (y.argmax(1) != t).mean())
    seen = [
        json.loads(line)["test_error_percent"] for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    ]
    assert summary["test_error_percent_last_ten"]["mean"] == pytest.approx(sum(seen) / 4)
    assert summary["test_error_percent_last_ten"]["largest"] == max(seen)
    assert (summary["state"], summary["epochs"], summary["layer_parameters"]) == ("finished", 4, 310)


def small_layer(name):
    random = torch.Generator().manual_seed(3)
    x, t = torch.randn(40, 6, generator=random), torch.arange(40) % 3
    options = Stack(**{**SMALL, "batch_size": 8}, layer=name, layer_lr=0.05)
    return Readout(options, (x, x), (t, t), 3), x.double().numpy(), np.eye(3)[t.numpy()]


def test_the_dense_layer_against_numpy():
    one, x, t = small_layer("dense")
    W, b = (p.detach().double().numpy().copy() for p in one.net.parameters())
    order = torch.Generator().manual_seed(1)
    for _ in range(2):
        one.epoch()
        for ids in torch.randperm(40, generator=order).split(8):
            e = sigmoid(x[ids] @ W.T + b) - t[ids]
            W, b = W - 0.05 * e.T @ x[ids], b - 0.05 * e.sum(0)
    np.testing.assert_allclose(one.net.weight.detach().numpy(), W, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.net.bias.detach().numpy(), b, rtol=1e-4, atol=1e-5)


def test_the_random_diagonals_against_numpy():
    """dd2 = mean_n (R d1 x) e, dd1 = mean_n x R^T (d2 e); R is not trained."""
    one, x, t = small_layer("rd")
    d1, d2 = (p.detach().double().numpy().copy() for p in one.net.parameters())
    R = next(one.net.buffers()).double().numpy()
    order = torch.Generator().manual_seed(1)
    for _ in range(2):
        one.epoch()
        for ids in torch.randperm(40, generator=order).split(8):
            a = (x[ids] * d1) @ R.T
            e = sigmoid(a * d2) - t[ids]
            step1, step2 = (x[ids] * ((e * d2) @ R)).mean(0), (a * e).mean(0)
            d1, d2 = d1 - 0.05 * step1, d2 - 0.05 * step2
    found = [p.detach().numpy() for p in one.net.parameters()]
    np.testing.assert_allclose(found[0], d1, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], d2, rtol=1e-4, atol=1e-5)
    assert np.array_equal(next(one.net.buffers()).numpy(), R.astype(np.float32))


def test_it_stops_where_the_training_error_changes_no_more():
    one, _, _ = small_layer("rd")
    one.rows = [{"train_error_percent": 30.0, "train_loss": 1.0}, {"train_error_percent": 30.0, "train_loss": 0.9}]
    assert one.over == "the training error changed by no more than 1e-07 in epoch 2"
    one.rows[1]["train_error_percent"] = 29.9
    assert one.over is None
    one.rows[1]["train_loss"] = float("nan")
    assert one.over == "diverged"


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list) else a == b


class StopError(Exception):
    """Stands for an interruption."""


@pytest.mark.parametrize("after", ["learners: epoch 1", "learners: epoch 2", "layer: epoch 2"])
@pytest.mark.parametrize("kind", ["dense", "rd"])
def test_an_interrupted_stack_goes_on_to_the_same_bits(tmp_path, monkeypatch, kind, after):
    monkeypatch.setattr(stacks, "SAVE_EVERY", 0.0)
    settings = {"layer": kind, "epochs": 2}
    whole = run(tmp_path / "whole", **settings)

    def stop(line):
        if line.startswith(after):
            raise StopError

    options = Stack(**{**SMALL, **settings})
    with pytest.raises(StopError):
        stacks.run(options, Folder(tmp_path / "broken"), command="test", progress=stop)
    again = run(tmp_path / "broken", **settings)
    clock = {"train_seconds"}
    assert {k: v for k, v in again.items() if k not in clock} == {k: v for k, v in whole.items() if k not in clock}
    for name in ("learners", "checkpoint"):
        a, b = (checkpoint.load(tmp_path / place / f"{name}.safetensors") for place in ("whole", "broken"))
        for part in ("learners", "layer", "orders", "order"):
            assert same(a.get(part), b.get(part))


def test_damaged_features_are_computed_again(tmp_path):
    whole = run(tmp_path / "a")
    (tmp_path / "a" / "summary.json").unlink()
    (tmp_path / "a" / "features.npz").write_bytes(b"PK broken")
    assert run(tmp_path / "a")["test_error_percent"] == whole["test_error_percent"]
    assert np.load(tmp_path / "a" / "features.npz")["test"].shape == (360, 30)


def test_the_command_line(tmp_path, capsys):
    argv = ["stack", *FLAGS, "--out", str(tmp_path)]
    assert main([*argv, "--layer", "RD", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["layer"], summary["learners"], len(summary["learner_test_error_percent"])) == ("rd", 3, 3)
    assert summary["run"].endswith("dfa-different-rd-3-seed1")
    assert main([*argv, "--layer", "rd"]) == 0
    assert "stacked" in capsys.readouterr().out
    assert main([*argv, "--layer", "rd", "--width", "9"]) == 2
    assert "holds another run (width 8 not 9)" in capsys.readouterr().err
    held = json.loads((tmp_path / "dfa-different-rd-3-seed1" / "config.json").read_text())
    assert (held["layer_lr"], held["layer_stop"], held["weight_seed"]) == (1e-3, 1e-7, 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layer", "dens"], "--layer: unknown layer 'dens'; did you mean 'dense'?"),
        (["--start", "some"], "--start: unknown start 'some'"),
        (["--method", "fdfa"], "method 'fdfa': member 0"),
        (["--method", "bp", "--feedback", "ternary"], "--feedback ternary: method 'bp' has no choice of feedback"),
        (["--prepare", "mnist"], "--prepare mnist: stored constants are for pixels 0..255"),
        (["--learners", "0"], "--learners: must be greater than or equal to 1, got 0"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, capsys, flags, said):
    assert main(["stack", *FLAGS, *flags, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_values_cannot_be_stacked(capsys):
    assert main(["stack", "linear-map"]) == 2
    assert "'linear-map' has no classes: stacked learners are classifiers" in capsys.readouterr().err


def test_the_layer_modules_agree():
    assert layers.error_percent(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])) == 50.0
