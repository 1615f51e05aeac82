"""Weights to start from: each start sets the weights that it says, for every method, and a run is loaded back."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import skipback as sb
from skipback import init
from skipback.lab import checkpoint, inputs
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.errors import LabError
from skipback.lab.trainer import Trainer

FAST = "--epochs 2 --width 8 --depth 2 --device cpu".split()


def trainer(**settings):
    """On a few random samples, the same for all."""
    random = torch.Generator().manual_seed(5)
    part = Split(x=torch.randn(40, 6, generator=random), t=torch.arange(40) % 4)
    data = Dataset(name="random", task=Task.CLASSIFICATION, outputs=4, train=part, test=part)
    return Trainer(Run(**{"device": "cpu", "batch_size": 20, "width": 8, "depth": 2, **settings}), data)


def weights(one):
    return [p.detach().clone() for p in one.learner.net.parameters()]


def equal(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


# -------------------------------------------------------------------------------------------------------- the library


def test_normal_draws_all_weights_and_biases_of_dense_and_convolution_layers():
    net = nn.Sequential(nn.Conv2d(3, 50, 5), nn.BatchNorm2d(50), nn.Flatten(), nn.Linear(200, 300))
    init.normal(net, 2.0, generator=torch.Generator().manual_seed(1))
    for layer in (net[0], net[3]):
        assert layer.weight.std().item() == pytest.approx(2.0, rel=0.05)
        assert layer.bias.std().item() == pytest.approx(2.0, rel=0.3)
        assert abs(layer.weight.mean().item()) < 0.05
    assert torch.equal(net[1].weight, torch.ones(50))
    first = net[0].weight.clone()
    init.normal(net, 1.0, generator=torch.Generator().manual_seed(1))
    assert torch.equal(2 * net[0].weight, first)


def test_normal_refuses_and_changes_nothing():
    net = nn.Sequential(nn.Linear(3, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    before = net[0].weight.clone()
    with pytest.raises(ValueError, match="normal: layer '1' computes its weight"):
        init.normal(net, 1.0)
    assert torch.equal(net[0].weight, before)
    with pytest.raises(ValueError, match="no dense or convolution layer"):
        init.normal(nn.Tanh(), 1.0)
    with pytest.raises(ValueError, match="std must be above 0, got 0"):
        init.normal(net, 0.0)


# -------------------------------------------------------------------------------------------------------- on a run


def test_normal_is_of_the_runs_seed():
    one, again, other = (trainer(start="normal:2", seed=seed) for seed in (1, 1, 2))
    assert equal(weights(one), weights(again))
    assert not equal(weights(one), weights(other))
    flat = torch.cat([p.flatten() for p in weights(one)])
    assert flat.std().item() == pytest.approx(2.0, rel=0.15)


def test_fa_copies_the_weights_that_it_starts_from():
    learner = trainer(start="normal:1", method="fa", as_published=True).learner
    copied = list(learner.feedback.values())
    assert any(torch.equal(part, layer.weight) for part in copied for layer in learner.net if hasattr(layer, "weight"))


def test_prealigned_weights_carry_the_error_as_the_feedback_does():
    """Against NumPy, at the last port: the gradient of the loss there, e W, points where e B does."""
    one = trainer(start="prealigned")
    batch = one.feed.first(20)
    learner = one.learner.eval()
    x = batch.x.numpy()
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in learner.net if isinstance(m, nn.Linear)]
    h = x
    for W, b in layers[:-1]:
        h = np.tanh(h @ W.T + b)
    y = h @ layers[-1][0].T + layers[-1][1]
    p = np.exp(y - y.max(1, keepdims=True))
    e = p / p.sum(1, keepdims=True) - np.eye(4)[batch.t.numpy()]
    teaching, exact = e @ list(learner.feedback.values())[-1].numpy(), e @ layers[-1][0]
    cosines = (teaching * exact).sum(1) / np.linalg.norm(teaching, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.99
    plain = trainer()
    assert {m["port"]: m["cosine"] for m in plain.measure()} != {m["port"]: m["cosine"] for m in one.measure()}


def test_backprop_starts_where_the_other_method_does():
    assert equal(weights(trainer(method="bp", start="prealigned:dfa")), weights(trainer(start="prealigned")))
    published = {"as_published": True, "method": "principled_dfa"}
    one = trainer(**published, start="prealigned")
    assert equal(weights(trainer(**{**published, "method": "bp"}, start="prealigned:Principled-DFA")), weights(one))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"start": "nowhere"}, "unknown start 'nowhere' .*, or the folder of a finished run"),
        ({"start": "normal"}, "of which standard deviation\\? write normal:1"),
        ({"start": "normal:0"}, "std must be a number above 0, got '0'"),
        ({"start": "prealigned:dfaa"}, "unknown method 'dfaa'; did you mean 'dfa'"),
        ({"start": "normal:1", "zero_init": True}, "--zero-init is another start"),
        ({"start": "prealigned", "method": "bp"}, "write --start prealigned:principled_dfa"),
        ({"start": "prealigned", "method": "fdfa"}, "--start prealigned: .* learns"),
        ({"start": "prealigned:fa", "method": "bp"}, "has no feedback at its ports"),
        ({"start": "normal:1", "net": "rd", "depth": None, "width": None}, "no dense or convolution layer"),
        ({"start": "no/where"}, "no/where: no run here"),
    ],
)
def test_a_start_that_says_nothing_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        trainer(**settings)


def test_zero_is_one_run_under_both_spellings():
    assert Run(start="ZERO") == Run(zero_init=True)
    assert not any(p.any() for p in weights(trainer(start="zero")))


SETTINGS = [
    {"start": "normal:0.5", "feedback": "uniform:1"},
    {"start": "prealigned", "feedback": "discrete:-1,1:scale=0.1"},
    {"method": "bp", "start": "prealigned:dfa"},
    {"dropout": 0.5, "dropout_first": True, "batch_norm": True, "norm_last": True, "activation": "leaky-relu:0.5"},
    {"bias": False, "method": "dkp"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_an_interrupted_run_goes_on_to_the_same_bits(settings, tmp_path):
    whole = trainer(**settings)
    for _ in range(3):
        whole.epoch()
    broken = trainer(**settings)  # which sets torch's own generator, as a new process does
    broken.epoch()
    checkpoint.write(tmp_path / "state", broken.state())
    again = trainer(**settings)
    again.restore(checkpoint.load(tmp_path / "state"))
    for _ in range(2):
        again.epoch()
    assert equal(weights(whole), weights(again))
    assert equal(list(whole.learner.state_dict().values()), list(again.learner.state_dict().values()))


# -------------------------------------------------------------------------------------------------------- of a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert main(["train", "digits", *FAST, "--out", str(out)]) == 0
    return out / "dfa-seed1"


def test_a_run_starts_from_the_weights_of_another(finished):
    ended = checkpoint.load(finished / "checkpoint.safetensors")["learner"]
    settings = {"dataset": "digits", "width": 8, "depth": 2, "device": "cpu", "start": str(finished)}
    run = Run(**settings, method="bp")
    one = Trainer(run, inputs.inputs(run))
    for name, value in one.learner.net.state_dict().items():
        assert torch.equal(value, ended[f"net.{name}"])


def test_the_score_goes_on_where_it_was(finished, tmp_path, capsys):
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    argv = ["train", "digits", *FAST, "--start", str(finished), "--out", str(tmp_path / "next")]
    assert main(argv) == 0
    first = json.loads((tmp_path / "next" / "dfa-seed1" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["test_accuracy_percent"] == last["test_accuracy_percent"]


def test_another_network_is_refused(finished, tmp_path, capsys):
    argv = ["train", "digits", "--width", "9", "--depth", "2", "--start", str(finished), "--out", str(tmp_path / "o")]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "the network there is another one (size mismatch" in said
    assert said.count("\n") == 1


def test_an_unfinished_run_is_no_start(finished, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(LabError, match="this run has not finished"):
        trainer(start=str(folder))


# ------------------------------------------------------------------------------------------------------------ load_run


def test_a_run_is_loaded_with_its_weights_feedback_and_settings(finished):
    net, config, learner = sb.load_run(finished, device="cpu")
    state = checkpoint.load(finished / "checkpoint.safetensors")["learner"]
    assert all(torch.equal(value, state[name]) for name, value in learner.state_dict().items())
    assert learner.net is net
    assert not net.training
    assert (config.dataset, config.method, config.width) == ("digits", "dfa", 8)
    test = inputs.inputs(config).test
    summary = json.loads((finished / "summary.json").read_text())
    learner.detach()
    with torch.no_grad():
        right = (net(test.x).argmax(1) == test.t).double().mean().item()
    assert 100 * right == pytest.approx(summary["test_accuracy_percent"])


def test_a_loaded_run_does_not_need_what_it_started_from(finished, tmp_path, capsys):
    from shutil import copytree, rmtree

    copytree(finished, tmp_path / "first")
    argv = ["train", "digits", *FAST, "--start", str(tmp_path / "first"), "--out", str(tmp_path / "next")]
    assert main(argv) == 0
    rmtree(tmp_path / "first")
    assert sb.load_run(tmp_path / "next" / "dfa-seed1").config.start == str(tmp_path / "first")


def test_a_folder_that_cannot_be_loaded(finished, tmp_path):
    with pytest.raises(ValueError, match="no run here: give the folder of one run"):
        sb.load_run(tmp_path)
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(ValueError, match="has not saved anything yet"):
        sb.load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"metod": "dfa"}')
    with pytest.raises(ValueError, match="metod: no such setting"):
        sb.load_run(tmp_path)


def test_without_the_lab_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skipback.lab.loading", None)
    with pytest.raises(ImportError, match=r"load_run needs the lab, .*pip install 'skipback\[lab\]'"):
        sb.load_run("anywhere")
