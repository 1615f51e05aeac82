"""Seeds trained as one batched net leave the folders of single runs."""

import itertools
import json
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from skipback.lab import checkpoint, together, train
from skipback.lab.cli import main

FAST = ["--epochs", "2", "--width", "8", "--depth", "1", "--batch-size", "64", "--lr", "1e-2", "--seeds", "3"]
FILES = {"config.json", "env.json", "metrics.jsonl", "checkpoint.safetensors", "summary.json", "history.csv", ".lock"}


def run(*argv):
    return main(["train", "digits", *FAST, *map(str, argv)])


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one, other, path=""):
    """Equal trees, but for the rounding of batched products; times and memory are those of the machine."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            if key not in ("train_seconds", "samples_per_second", "seconds", "peak_memory_mib"):
                same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for k, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{path}/{k}")
    elif isinstance(one, torch.Tensor | float):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=lambda text: f"{path}: {text}")
    else:
        assert one == other, path


def same_runs(folder, single):
    for seed in (1, 2, 3):
        name = next(single.glob(f"*-seed{seed}")).name
        mine, other = folder / name, single / name
        assert {p.name for p in mine.iterdir()} == {p.name for p in other.iterdir()} == FILES
        assert (mine / "config.json").read_text() == (other / "config.json").read_text()
        same(rows(mine), rows(other))
        same(json.loads((mine / "summary.json").read_text()), json.loads((other / "summary.json").read_text()))
        same(checkpoint.load(mine / "checkpoint.safetensors"), checkpoint.load(other / "checkpoint.safetensors"))


@pytest.mark.parametrize(
    "choice",
    [
        "--method f3 --loss bce",
        "--method bp --optimizer sgd",
        "--method shallow --optimizer rmsprop",
        "--method dfa --optimizer nadam --schedule step:1:.5 --weight-decay .1",
        "--method drtp --optimizer sgd --momentum .9 --nesterov --schedule inverse:.1",
        "--method dfa --reduction sum --loss bce --score-train --eval-every 2",
        "--method f3 --reduction sum --as-published --loss bce --lr 1e-3 --order-seed 5 --weight-seed 4",
    ],
)
def test_the_folders_are_those_of_single_runs(tmp_path, capsys, choice):
    assert run(*choice.split(), "--together", "--out", tmp_path / "together") == 0
    assert run(*choice.split(), "--out", tmp_path / "single") == 0
    same_runs(tmp_path / "together", tmp_path / "single")
    said = capsys.readouterr().out
    assert all(said.count(f"-seed{seed}: loss") == 2 for seed in (1, 2, 3))


def test_an_interrupted_run_goes_on_and_the_one_that_fell_behind_catches_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(together, "SAVE_EVERY", 0)
    monkeypatch.setattr(train, "SAVE_EVERY", 0)
    argv = ["--method", "f3", "--out"]
    run(*argv, tmp_path / "single")
    first = together.Member.save
    saved = []

    def interrupted(member):
        if len(saved) == 7:  # the last epoch of the first member is written, that of the others is not
            raise KeyboardInterrupt
        saved.append(member.epoch)
        first(member)

    monkeypatch.setattr(together.Member, "save", interrupted)
    assert run(*argv, tmp_path / "together", "--together") == 130
    assert [len(rows(tmp_path / "together" / f"f3-seed{seed}")) for seed in (1, 2, 3)] == [3, 2, 2]
    monkeypatch.setattr(together.Member, "save", first)
    score, scored = together.Member.score, []
    monkeypatch.setattr(
        together.Member, "score", lambda member, loss: (scored.append(member.epoch), score(member, loss))
    )
    assert run(*argv, tmp_path / "together", "--together") == 0
    assert scored == [2, 2]  # the two that fell behind, and nothing twice
    same_runs(tmp_path / "together", tmp_path / "single")


def test_a_finished_member_is_not_trained_again(tmp_path, capsys):
    argv = ["--method", "dfa", "--together", "--json", "--out", tmp_path]
    run(*argv)
    first = capsys.readouterr().out
    kept = tmp_path / "dfa-seed2" / "checkpoint.safetensors"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "dfa-seed1")
    run(*argv)
    again = capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before
    assert again.splitlines()[1:] == first.splitlines()[1:]
    mine, other = (json.loads(text.splitlines()[0]) for text in (first, again))
    same(mine, other)


def test_members_share_the_time_that_all_took(tmp_path, capsys, monkeypatch):
    ticks = itertools.count(0, 3)  # an epoch takes three seconds, one for each member
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=time.monotonic)
    monkeypatch.setattr(together, "time", clock)
    run("--method", "dfa", "--together", "--json", "--out", tmp_path)
    summaries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(summary["seed"], summary["train_seconds"]) for summary in summaries] == [(1, 2.0), (2, 2.0), (3, 2.0)]
    assert len({summary["test_loss"] for summary in summaries}) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "dkp"], "learned feedback"),
        (["--method", "dfa", "--batch-norm"], "nn.Sequential of Linear"),
        (["--method", "fa"], "Layerwise method"),
        (["--method", "dfa", "--anchor", "5"], "without its anchor"),
    ],
)
def test_what_cannot_be_batched_is_refused_in_one_line(tmp_path, capsys, argv, message):
    assert run(*argv, "--together", "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --together: member 0: ")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["--adversarial", ".1"], ["--max-in-norm", "1"], ["--max-out-norm", "1"], ["--align-every", "3"]]
)
def test_what_each_run_does_for_itself_is_refused(tmp_path, capsys, argv):
    assert run(*argv, "--together", "--out", tmp_path) == 2
    assert capsys.readouterr().err == f"error: {argv[0]}: not with --together, whose seeds take every step together\n"


def test_a_sum_that_must_be_told_is_refused(tmp_path, capsys):
    assert run("--method", "f3", "--reduction", "sum", "--together", "--out", tmp_path) == 2
    assert "--reduction sum: not with --together for a signal that is known before the loss" in capsys.readouterr().err


def test_together_needs_seeds(capsys):
    assert main(["train", "digits", "--together"]) == 2
    assert capsys.readouterr().err == "error: --together says nothing without --seeds\n"
