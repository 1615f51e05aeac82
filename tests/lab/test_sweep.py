"""Comparisons over settings: lists of values, settings of one method, names that say what differs, shared lists."""

import csv
import json

import pytest

from skipback.lab import session, sweep
from skipback.lab.cli import main
from skipback.lab.config import Run

FAST = ["--epochs", "1", "--width", "8", "--depth", "1", "--seeds", "1"]


def run(capsys, *argv):
    code = main(["compare", "digits", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def planned(monkeypatch, *argv):
    """The runs of a comparison and their folders, without training them."""
    found = []
    monkeypatch.setattr(
        session.Session, "train", lambda self, runs, folders: found.extend(zip(runs, folders, strict=True))
    )
    monkeypatch.setattr(session.Session, "report", lambda *_, **__: None)
    code = main(["compare", "digits", *map(str, argv)])
    assert code == 0
    return {folder.path.name: run for run, folder in found}


def test_lists_are_axes_and_names_say_the_place_on_them(tmp_path, monkeypatch):
    argv = ["--methods", "bp,dfa", "--depth", "1,2", "--feedback", "ternary,kaiming", "--seeds", 1, "--out", tmp_path]
    found = planned(monkeypatch, *argv)
    assert list(found) == [
        "bp-depth1-seed1",
        "bp-depth2-seed1",
        "dfa-ternary-depth1-seed1",
        "dfa-kaiming-depth1-seed1",
        "dfa-ternary-depth2-seed1",
        "dfa-kaiming-depth2-seed1",
    ], "bp has no feedback, so it is trained once for each depth"
    assert {run.depth for run in found.values()} == {1, 2}
    assert found["dfa-kaiming-depth2-seed1"].feedback == "kaiming"


def test_signals_are_an_axis_of_f3_alone(tmp_path, monkeypatch):
    argv = ["--methods", "f3,dfa", "--signal=delayed_error,one_hot_target", "--seeds", 1, "--out", tmp_path]
    assert list(planned(monkeypatch, *argv)) == ["f3-delayed_error-seed1", "f3-one_hot_target-seed1", "dfa-seed1"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("ternary, kaiming", ["ternary", "kaiming"]),
        ("discrete:0,1:scale=.1,ternary", ["discrete:0,1:scale=.1", "ternary"]),
        ("gaussian:1,uniform:1", ["gaussian:1", "uniform:1"]),
        ("1e-3,-2", ["1e-3", "-2"]),
    ],
)
def test_a_name_takes_along_the_numbers_behind_it(text, values):
    assert sweep._values(text) == values


def test_settings_with_commas_of_their_own_and_the_last_of_a_repeated_flag():
    words, axes = sweep.of_flags(["--dropout", "0.1,0.2", "--lr", "1,2", "--lr", "3", "--methods", "a,b"])
    assert axes == {}
    assert words == ["--dropout", "0.1,0.2", "--lr", "1", "--lr", "3", "--methods", "a,b"]


def test_a_file_has_axes_and_settings_of_one_method(tmp_path, monkeypatch):
    recipe = tmp_path / "grid.toml"
    recipe.write_text(
        'lr = [1e-3, 1e-2]\nepochs = 1\nmethods = "bp,shallow,f3"\nseeds = 1\n'
        '[method.shallow]\nlr = 1.5e-2\n[method.f3]\nsignal = ["delayed_error", "delayed_loss"]\nwidth = 16\n'
    )
    found = planned(monkeypatch, "--config", recipe, "--out", tmp_path / "runs")
    assert {name: (run.lr, run.width) for name, run in found.items()} == {
        "bp-lr0.001-seed1": (1e-3, 128),
        "bp-lr0.01-seed1": (1e-2, 128),
        "shallow-seed1": (1.5e-2, 128),
        "f3-delayed_error-lr0.001-seed1": (1e-3, 16),
        "f3-delayed_loss-lr0.001-seed1": (1e-3, 16),
        "f3-delayed_error-lr0.01-seed1": (1e-2, 16),
        "f3-delayed_loss-lr0.01-seed1": (1e-2, 16),
    }
    found = planned(monkeypatch, "--config", recipe, "--lr", "0.5", "--out", tmp_path / "runs")
    assert {name: run.lr for name, run in found.items()} == {
        "bp-seed1": 0.5,
        "shallow-seed1": 1.5e-2,
        "f3-delayed_error-seed1": 0.5,
        "f3-delayed_loss-seed1": 0.5,
    }, "flags win over the axes of a file, and what is said of one method over both"


def test_two_comparisons_in_one_folder_do_not_collide(tmp_path, capsys):
    argv = ["--methods", "dfa", *FAST, "--out", tmp_path]
    assert run(capsys, *argv)[0] == 0
    before = (tmp_path / "dfa-seed1" / "checkpoint.safetensors").read_bytes()
    for _ in range(2):  # the second time it is known again
        assert run(capsys, *argv, "--depth", 2)[0] == 0
        assert {p.name for p in tmp_path.glob("dfa*")} == {"dfa-seed1", "dfa-depth2-seed1"}
    assert (tmp_path / "dfa-seed1" / "checkpoint.safetensors").read_bytes() == before
    code, _, err = run(capsys, *argv, "--threads", 2)
    assert code == 2
    assert "holds another run (threads 1 not 2)" in err, "the same run on another machine is no other run"


def test_the_axes_of_one_command_share_a_report_that_descends(tmp_path, capsys):
    argv = ["--methods", "bp,dfa", "--epochs", 1, "--width", 8, "--depth", "1,2", "--seeds", 1]
    assert run(capsys, *argv, "--out", tmp_path / "deep" / "er")[0] == 0
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    rows = list(csv.DictReader((tmp_path / "page" / "table.csv").read_text().splitlines()))
    assert sorted((row["method"], row["depth"]) for row in rows) == [
        ("bp", "1"), ("bp", "2"), ("dfa", "1"), ("dfa", "2")
    ]  # fmt: skip


def test_processes_share_the_runs_and_one_report_comes_out(tmp_path, capsys):
    argv = ["--methods", "bp,dfa", "--epochs", 1, "--width", 8, "--depth", 1, "--seeds", 2, "--json", "--out", tmp_path]
    code, out, _ = run(capsys, *argv, "--jobs", 2)
    assert code == 0
    assert len(out.splitlines()) == 4
    assert (tmp_path / "report.html").exists()
    trained = [json.loads(path.read_text())["command"] for path in tmp_path.glob("*/env.json")]
    assert len(trained) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[method.shalow]\nlr = 1.0\n", "[method.shalow]: unknown method 'shalow'; did you mean 'shallow'?"),
        ("[method.bp]\nfeedback = 'ternary'\n", "method 'bp' has no choice of feedback"),
        ("[method.bp]\nwings = 2\n", "[method.bp]: wings: no such setting"),
        ("[method.bp]\nlr = -1.0\n", "[method.bp]: --lr: must be greater than 0, got -1.0"),
        ("lr = []\n", "lr: an empty list has no run"),
        ("lr = [1e-3, -1]\n", "--lr: must be greater than 0, got -1"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, capsys, text, expected):
    recipe = tmp_path / "grid.toml"
    recipe.write_text(text)
    code, out, err = run(capsys, "--methods", "bp", *FAST, "--config", recipe, "--out", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err


def test_mistakes_on_an_axis_are_one_line(tmp_path, capsys):
    code, out, err = run(capsys, "--depth", "1,many", "--out", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--depth: must be a valid integer" in err
    code, out, err = run(capsys, "--feedback", "ternary,terniary", "--out", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "did you mean 'ternary'?" in err


def test_names_have_no_character_that_a_file_system_forbids():
    runs = [Run(schedule=text) for text in ("step:5:0.5", "exponential:0.95")]
    assert sweep.names(runs) == ["dfa-schedulestep-5-0.5-seed1", "dfa-scheduleexponential-0.95-seed1"]
