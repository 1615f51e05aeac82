"""--precision and --compile: what a run trains in, how it is scored, what is recorded, and what is refused."""

import copy
import dataclasses
import json

import pytest
import torch

from skipback import precision
from skipback.lab import data, machine
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.data.base import Split
from skipback.lab.trainer import Trainer
from skipback.step import onednn

FAST = ["--epochs", "1", "--width", "16", "--depth", "1"]
exact = pytest.mark.skipif(not precision.exact(), reason="oneDNN rounds float32 on this processor")


def code_and_error(capsys, *argv):
    code = main([str(a) for a in argv])
    return code, capsys.readouterr().err


@pytest.fixture(scope="module")
def digits():
    """300 of them."""
    found = data.load("digits")
    return dataclasses.replace(found, train=Split(x=found.train.x[:300], t=found.train.t[:300]))


def trainer(digits, **settings):
    return Trainer(
        Run(dataset="digits", seed=3, batch_size=64, lr=0.01, **{"depth": 2, "width": 20, **settings}), digits
    )


def weights(one):
    return {name: p.detach().clone() for name, p in one.learner.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["bp", "dfa", "f3", "fa"])
def test_bf16_trains_float32_weights_which_are_scored_in_float32(digits, method):
    low, plain = (trainer(digits, method=method, precision=name) for name in ("bf16", "auto"))
    losses = [one.epoch() for one in (low, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    assert not same(weights(low), weights(plain))
    assert all(p.dtype is torch.float32 for p in low.learner.parameters())
    plain.restore(copy.deepcopy(low.state()))
    assert low.evaluate() == plain.evaluate()
    assert low.measure() == plain.measure()


@exact
@pytest.mark.parametrize("method", ["dfa", "f3", "fdfa"])
def test_a_run_is_the_same_but_for_rounding_whoever_multiplies(digits, method, monkeypatch):
    products, kernel = [], onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *args: products.append(args) or kernel(*args))
    # one after the other: the product is set for the whole process
    losses = [trainer(digits, method=method, precision=name, width=300).epoch() for name in ("auto", "float32")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert bool(products) == (method != "fdfa")


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "float32"}])
def test_a_run_goes_on_to_the_same_bits(digits, settings):
    whole, first, second = (trainer(digits, method="f3", **settings) for _ in range(3))
    for _ in range(2):
        whole.epoch()
    first.epoch()
    second.restore(copy.deepcopy(first.state()))
    second.epoch()
    assert same(weights(whole), weights(second))


@exact
def test_the_float32_product_of_each_name(digits):
    for name, expected in (("auto", "bf16"), ("float32", "none"), ("onednn", "bf16"), ("bf16", "bf16")):
        trainer(digits, method="dfa", precision=name)
        assert precision.product() == expected
        assert machine.describe(torch.device("cpu"), "")["float32_matmul"] == ("default", "onednn")[expected == "bf16"]


def test_where_onednn_rounds(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "error", lambda: 0.31)
    code, err = code_and_error(capsys, "train", "digits", *FAST, "--precision", "onednn", "--out", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "--precision onednn" in err
    assert "0.31" in err
    precision.choose_product("none")
    trainer(digits, method="dfa", precision="auto")
    assert precision.product() == "none"


def test_onednn_is_of_the_cpu():
    with pytest.raises(machine.LabError, match="--precision onednn: oneDNN computes on the CPU, and this run on cuda"):
        machine.onednn_float32(torch.device("cuda"))


def test_it_is_recorded_and_one_folder_is_of_one_precision(tmp_path, capsys):
    argv = ["compare", "digits", "--methods", "bp,dfa", "--seeds", "1", *FAST, "--out", tmp_path]
    assert code_and_error(capsys, *argv, "--precision", "bf16")[0] == 0
    for name in ("bp-seed1", "dfa-seed1"):
        assert json.loads((tmp_path / name / "config.json").read_text())["precision"] == "bf16"
    assert "precision 'bf16' not 'auto'" in code_and_error(capsys, *argv)[1]


def test_a_folder_of_an_older_version_is_auto(tmp_path, capsys):
    argv = ["train", "digits", *FAST, "--json", "--out", tmp_path]
    assert code_and_error(capsys, *argv)[0] == 0
    path = tmp_path / "dfa-seed1" / "config.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in held.items() if k not in ("precision", "compile")}))
    assert code_and_error(capsys, *argv, "--precision", "auto")[0] == 0


@pytest.mark.parametrize("method", ["dfa", "bp"])
def test_compile_reaches_the_step(digits, monkeypatch, method):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f) or f)
    one = trainer(digits, method=method, batch_norm=True, compile=True)
    one.epoch()
    assert len(compiled) == (2 if method == "dfa" else 1)  # the head is dense
    plain = trainer(digits, method=method, batch_norm=True)
    plain.epoch()
    assert same(weights(one), weights(plain))
    assert len(compiled) == (2 if method == "dfa" else 1)


def test_a_machine_without_a_compiler_says_so_before_it_trains(tmp_path, capsys, monkeypatch):
    argv = ["train", "digits", *FAST, "--batch-norm", "--compile", "--out", tmp_path]

    def compile(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand a long trace")

    monkeypatch.setattr(torch, "compile", compile)
    code, err = code_and_error(capsys, *argv)
    assert code == 2
    assert "--compile needs torch.compile, and that a C++ compiler" in err
    assert "here it fails: No working C++ compiler found\n" in err
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    assert code_and_error(capsys, *argv)[0] == 0
    monkeypatch.setattr(torch, "compile", compile)
    assert code_and_error(capsys, *argv)[0] == 0  # a finished run needs none


@pytest.mark.parametrize("option", [["--compile"], ["--precision", "bf16"]])
@pytest.mark.parametrize("argv", [["train", "digits", "--together", "--seeds", "2"], ["audit", "--method", "dfa"]])
def test_what_would_be_ignored_is_refused(capsys, argv, option):
    code, err = code_and_error(capsys, *argv, *option)
    assert code == 2
    assert " ".join(option) in err


def test_float16_is_not_offered(capsys):
    code, err = code_and_error(capsys, "train", "digits", "--precision", "float16")
    assert code == 2
    assert "choose from auto, float32, onednn, bf16" in err
