"""The verb `reproduce`: real short runs of a toy paper, and every way in which a person can get it wrong."""

import csv
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from skipback.lab import papers
from skipback.lab.cli import main
from skipback.lab.papers.base import Expected, Gap, Row, Table
from skipback.lab.papers.scores import ACCURACY
from skipback.lab.reproduce import formats, lines, results
from skipback.lab.reproduce.lines import Agreement, Line, Outcome

TOY = "toy2026"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The toy paper instead of the real ones."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(sys.modules, f"skipback.lab.papers.{TOY}", importlib.import_module("toy_paper"))
    monkeypatch.setattr(papers, "KEYS", (TOY,))
    monkeypatch.setattr(papers, "ALIASES", {"toy": TOY})
    monkeypatch.setenv("SKIPBACK_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    return papers.study(TOY)


def run(capsys, *argv):
    code = main(["reproduce", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, *argv):
    """The message of a command that must end with exit code 2 and one line, without a traceback."""
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


# ------------------------------------------------------------------------------------------------------ whole tables


def test_a_table_is_trained_compared_and_written_in_every_format(toy, tmp_path, capsys):
    code, out, _ = run(capsys, "toy", "small", "--out", tmp_path)
    assert code == 0
    table = {line.split("  ")[1].strip(): line for line in out.splitlines() if line.startswith("  ") and line[2] != " "}
    assert "80.00 ± 20.00 (3)" in table["BP"]
    assert "within 2 std" in table["BP"]
    assert "10.00 ± 0.10 (3)?" in table["DFA, ternary"]
    assert table["DFA, ternary"].rstrip().endswith("off")
    assert "nothing to compare" in table["shallow"]
    assert "gap closed, %" in table["gap"]
    folder = tmp_path / TOY
    seeds = {p.relative_to(folder).as_posix() for p in folder.glob("small/*/*")}
    assert seeds == {f"small/{row}/seed{s}" for row in ("bp", "dfa-ternary", "shallow") for s in (1, 2)}
    accuracies = [json.loads((folder / f"small/bp/seed{s}/summary.json").read_text()) for s in (1, 2)]
    mean = statistics.fmean(a["test_accuracy_percent"] for a in accuracies)
    assert f"{mean:.2f}" in table["BP"]
    rows = list(csv.DictReader((folder / "small.csv").read_text().splitlines()))
    assert [r["epoch"] for r in rows if r["row"] == "BP"] == ["", "1"]
    assert float(rows[0]["mean"]) == mean
    assert float(rows[0]["difference"]) == pytest.approx(mean - 80)
    assert "| BP | test accuracy | 80.00 ± 20.00 (3) |" in (folder / "small.md").read_text()
    assert "1. Of all." in (folder / "small.md").read_text()
    assert "Of other tables" not in (folder / "small.md").read_text()
    assert r"BP & test accuracy & 80.00 $\pm$ 20.00 (3) &" in (folder / "small.tex").read_text()
    assert {path.name for path in folder.glob("*.png")} == {"small-accuracy.png", "small-rate.png"}
    assert all(path.stat().st_size > 5000 for path in folder.glob("*.png"))
    document = results.read(folder / "small.json")
    assert (
        document["rows"][0]["command"] == "skipback train digits --depth 1 --width 8 --epochs 2 --lr 0.01 --method bp"
    )
    assert document["rows"][0]["runs"]["1"]["values"][0] == {
        "score": "test accuracy", "at": None, "value": accuracies[0]["test_accuracy_percent"]
    }  # fmt: skip
    assert document["seconds"] > 0
    assert {"commit", "torch", "started", "threads"} <= document["rows"][0]["runs"]["1"].keys()


def test_a_finished_run_is_never_trained_again_and_seeds_can_be_added(toy, tmp_path, capsys):
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--out", tmp_path)
    kept = tmp_path / TOY / "small/bp/seed1/checkpoint.safetensors"
    written = kept.stat().st_mtime_ns
    _, out, err = run(capsys, "toy", "small", "--rows", "BP", "--seeds", 2, "--out", tmp_path)
    assert kept.stat().st_mtime_ns == written
    assert "(2)" in out
    assert err.splitlines() == [f"{tmp_path / TOY}/small/bp/seed2: done"]


def test_an_interrupted_run_goes_on(toy, tmp_path, capsys):
    folder = tmp_path / TOY / "small/bp/seed1"
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--out", tmp_path)
    before = (folder / "summary.json").read_text()
    (folder / "summary.json").unlink()  # as if stopped after the last checkpoint
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--out", tmp_path)
    assert json.loads((folder / "summary.json").read_text())["test_loss"] == json.loads(before)["test_loss"]


def test_what_another_process_trains_is_skipped_and_looked_at_again_at_the_end(toy, tmp_path, capsys):
    folder = tmp_path / TOY / "small/bp/seed1"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        code, out, _ = run(capsys, "toy", "small", "--seeds", 1, "--out", tmp_path)
    assert code == 0
    assert "not run" in next(line for line in out.splitlines() if line.startswith("  BP"))
    assert "shallow" in out
    assert (tmp_path / TOY / "small/shallow/seed1/summary.json").exists()
    assert not (folder / "summary.json").exists()


def test_several_processes_share_one_list(tmp_path, capsys, data_root):
    """With a real paper, since the processes know no toy: four runs, none of them by the parent."""
    argv = ["f3", "wine-product", "--rows", "BP;shallow", "--epochs", 1, "--seeds", 2, "--out", tmp_path]
    code, out, err = run(capsys, *argv, "--jobs", 2)
    assert (code, err) == (0, ""), "the parent had nothing left to train"
    folders = sorted(tmp_path.glob("flugel2024/wine-product/*/*/env.json"))
    assert len(folders) == 4
    assert all("--jobs 2" in json.loads(path.read_text())["command"] for path in folders)
    assert sum("(2)" in line for line in out.splitlines()) >= 2


def test_fewer_epochs_than_published_are_said_and_not_compared_with_the_end(toy, tmp_path, capsys):
    _, out, _ = run(capsys, "toy", "small", "--epochs", 1, "--seeds", 2, "--out", tmp_path)
    assert (tmp_path / TOY / "small/bp/seed1-1-epochs/summary.json").exists()
    found = [line for line in out.splitlines() if "test accuracy, epoch 1" in line]
    assert any("50.00 ± 40.00 (3)" in line and "within 2 std" in line for line in found)
    assert "80.00" not in out
    assert "gap closed, %, epoch 1" in out
    run(capsys, "toy", "small", "--epochs", 5, "--rows", "BP", "--seeds", 1, "--out", tmp_path)
    assert (tmp_path / TOY / "small/bp/seed1/summary.json").exists(), "more epochs than published are as published"


def test_json_is_one_line_for_each_table(toy, tmp_path, capsys):
    _, out, _ = run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--json", "--out", tmp_path)
    (line,) = out.splitlines()
    assert json.loads(line)["rows"][0]["name"] == "BP"


# ------------------------------------------------------------------------------------------------------------- lists


def test_the_overview_and_the_list_say_where_each_row_stands(toy, tmp_path, capsys):
    run(capsys, "toy", "small", "--rows", "BP", "--out", tmp_path)
    run(capsys, "toy", "small", "--rows", "DFA*", "--seeds", 1, "--out", tmp_path)
    _, out, _ = run(capsys, "--out", tmp_path)
    assert "small       3     1     2" in out
    _, out, _ = run(capsys, "--list", "--json", "--out", tmp_path)
    found = {(row["table"], row["row"]): row for row in map(json.loads, out.splitlines())}
    states = {key: row["state"] for key, row in found.items()}
    assert states["small", "BP"] == "done"
    assert states["small", "DFA, ternary"] == "1 of 2 seeds"
    assert states["small", "shallow"] == "not run"
    assert states["other", "absent"] == "data missing: skipback data fetch susy"
    assert states["other", "large"] in ("needs a GPU", "not run")  # where there is one, it can be
    assert states["other", "never"] == "not given away"
    assert found["small", "DFA, ternary"]["command"].endswith("--method dfa --feedback ternary")
    _, out, _ = run(capsys, "toy", "small", "--list", "--out", tmp_path)
    assert [line.split() for line in out.splitlines()[2:4]] == [
        ["BP", "done"],
        ["DFA,", "ternary", "1", "of", "2", "seeds"],
    ]


# --------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["tay2026"], "unknown paper 'tay2026'; did you mean 'toy2026'?"),
        (["toy", "smal"], "unknown table of toy2026 'smal'; did you mean 'small'?"),
        (["toy", "small", "--rows", "shalow"], "unknown row of small 'shalow'; did you mean 'shallow'?"),
        (["toy", "small", "--rows", "X*"], "unknown row of small 'X*'"),
        (["toy", "--rows", "shalow"], "unknown row 'shalow'; did you mean 'shallow'?"),
        (["toy", "small", "more"], "takes a paper and a table of it, and got 3 names"),
        (["toy", "other", "--rows", "absent"], "row 'absent': data missing: skipback data fetch susy"),
        (["toy", "other", "--rows", "never"], "row 'never': not given away"),
        (["toy", "other", "--rows", "unknown"], "toy2026 other, row 'unknown': wings: no such setting"),
        (["toy", "small", "--device", "gpu"], "unknown device 'gpu'"),
        (["toy", "small", "--seeds", "0"], "--seeds: must be greater than or equal to 1, got 0"),
        (["toy", "unmeasured", "--smoke", "--rows", "cosine"], "a run does not measure cosine, port 9"),
        (["toy", "other", "--smoke", "--rows", "unknown"], "1 of 1 recipes do not train"),
    ],
)
def test_mistakes_are_one_line(toy, tmp_path, capsys, argv, expected):
    code, _, err = run(capsys, *argv, *([] if "--out" in argv else ["--out", tmp_path]))
    assert code == 2
    assert err.count("\n") == 1
    assert expected in err


def test_a_run_that_fails_stops_no_other_one(toy, tmp_path, capsys):
    folder = tmp_path / TOY / "small/bp/seed1"
    folder.mkdir(parents=True)
    (folder / "stray.txt").write_text("not a run")
    code, out, err = run(capsys, "toy", "small", "--seeds", 1, "--out", tmp_path)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: 1 of 3 runs could not be trained: ")
    assert "stray.txt" in err
    assert (tmp_path / TOY / "small/shallow/seed1/summary.json").exists()
    assert "shallow" in out


def test_a_recipe_that_has_changed_is_no_longer_the_run_that_was_kept(toy, tmp_path, capsys):
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--out", tmp_path)
    code, _, err = run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--threads", 2, "--out", tmp_path)
    assert code == 0, "done is done"
    (tmp_path / TOY / "small/bp/seed1/summary.json").unlink()
    code, _, err = run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--threads", 2, "--out", tmp_path)
    assert code == 2
    assert "holds another run (threads 1 not 2)" in err


def test_smoke_trains_without_data_and_keeps_nothing(toy, tmp_path, capsys):
    code, out, _ = run(capsys, "toy", "small", "--smoke", "--out", tmp_path / "runs")
    assert code == 0
    assert out.splitlines()[-1].startswith("3 recipes trained 2 steps each in ")
    assert not (tmp_path / "runs").exists()


# ----------------------------------------------------------------------------------------------------- results files


def test_recorded_tables_keep_what_they_hold(toy, tmp_path, capsys):
    kept = tmp_path / "results"
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--out", tmp_path / "a", "--record", kept)
    run(capsys, "toy", "small", "--rows", "shallow", "--seeds", 1, "--out", tmp_path / "b", "--record", kept)
    run(capsys, "toy", "small", "--rows", "shallow", "--epochs", 1, "--out", tmp_path / "b", "--record", kept)
    found = results.read(kept / "toy2026-small.json")
    assert {row["name"]: (row["epochs"], list(row["runs"])) for row in found["rows"]} == {
        "BP": (2, ["1"]),
        "shallow": (2, ["1"]),
    }
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 2, "--out", tmp_path / "a", "--record", kept)
    found = results.read(kept / "toy2026-small.json")
    assert list(found["rows"][0]["runs"]) == ["1", "2"]
    assert found["rows"][0]["lines"][0]["n"] == 2


def test_runs_of_another_recipe_are_dropped_from_a_results_file(toy, tmp_path, capsys):
    kept = tmp_path / "results"
    run(capsys, "toy", "small", "--rows", "BP", "--seeds", 1, "--out", tmp_path / "a", "--record", kept)
    path = kept / "toy2026-small.json"
    found = json.loads(path.read_text())
    found["rows"][0]["recipe"]["lr"] = 1.0
    path.write_text(json.dumps(found))
    assert results.kept(path, toy.tables[0]) == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"format": 99, "rows": []}', "is of format 99, and this version reads format 1"),
        ('{"rows": []}', "is no results file of `skipback reproduce`"),
        ('{"format": 1, "paper": "toy2026"}', "is damaged: it has no 'table'"),
        (
            '{"format": 1, "paper": "toy2026", "table": "small", "rows": [{"name": "BP"}]}',
            "is damaged (KeyError('recipe'))",
        ),
        ("{", "cannot read"),
    ],
)
def test_a_results_file_of_another_version_is_refused_before_any_training(toy, tmp_path, capsys, content, expected):
    (tmp_path / "toy2026-small.json").write_text(content)
    message = refused(capsys, "toy", "small", "--out", tmp_path / "runs", "--record", tmp_path)
    assert expected in message
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------------- verdicts


def line(ours, value=10.0, std=None, n=1, reached=None, exact=False, **more):
    values = dict(enumerate(ours, start=1))
    expected = Expected(score=ACCURACY, value=value, std=std, n=n, exact=exact)
    return Line(label="x", expected=expected, values=values, reached=len(ours) if reached is None else reached, **more)


T = {1: 13.9677, 2: 4.5266, 4: 2.8693, 6: 2.5165}
"""Student's t at the probability of two standard deviations, 0.97725, from tables; 2 for many runs."""


def test_allowed_is_two_standard_deviations_of_the_difference_of_two_means():
    ours = [9.0, 10.0, 11.0]
    assert line(ours, std=0.5, n=5).allowed == pytest.approx(T[6] * math.sqrt(1 / 3 + 0.25 / 5) + 0.005, rel=1e-4)
    assert line(ours).allowed == pytest.approx(T[2] * math.sqrt(1 / 3 + 1) + 0.005, rel=1e-4), "our spread for theirs"
    assert line([9.0], std=0.5, n=5).allowed == pytest.approx(T[4] * math.sqrt(0.25 + 0.25 / 5) + 0.005, rel=1e-4)
    assert line(ours, std=1e-3, n=2).allowed == pytest.approx(T[2] * math.sqrt(1 / 3 + 1 / 2) + 0.005, rel=1e-4)
    many = [10.0 + (-1) ** k for k in range(10_000)]
    assert line(many, std=1.0, n=10_000).allowed == pytest.approx(2 * math.sqrt(2 / 10_000) + 0.005, rel=1e-3)


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (line([9.9, 10.2]), Agreement.WITHIN),
        (line([10.2549], value=10.25, exact=True), Agreement.DIGITS),
        (line([10.2551], value=10.25, exact=True), Agreement.OFF),
        (line([12.0, 12.1, 12.05]), Agreement.OFF),
        (line([10.0]), Agreement.ONE),
        (line([10.0], std=1.0, n=3), Agreement.WITHIN),
        (line([]), Agreement.NOT_RUN),
        (line([10.0], reached=2), Agreement.NOT_FINITE),
        (line([10.0, 11.0], value=None), Agreement.UNKNOWN),
    ],
)
def test_verdicts(one, verdict):
    assert one.verdict is verdict


def test_the_gap_is_closed_seed_by_seed():
    values = {"of": {1: 0.59, 2: 0.61, 3: 0.5}, "floor": {1: 0.65, 2: 0.65}, "ceiling": {1: 0.58, 2: 0.60}}
    found = [Line(label=k, expected=Expected(score=ACCURACY), values=v, reached=len(v)) for k, v in values.items()]
    gap = Gap(label="gap", of="of", floor="floor", ceiling="ceiling", expected=Expected(score=ACCURACY, value=80.0))
    closed = lines.of_gap(gap, found)
    assert closed.values == pytest.approx({1: 100 * 0.06 / 0.07, 2: 80.0})


def test_a_value_that_is_not_finite_is_no_value_and_says_so():
    row = Row(label="x", recipe={}, expected=(Expected(score=ACCURACY, value=1.0),))
    records = [
        Outcome(seed=1, values={("test accuracy", None): None}, about={}),
        Outcome(seed=2, values={("test accuracy", None): 3.0}, about={}),
    ]
    (found,) = lines.of_row(row, records)
    assert (found.values, found.verdict) == ({2: 3.0}, Agreement.NOT_FINITE)


def test_runs_that_diverged_are_told_beside_their_numbers():
    row = Row(label="x", recipe={}, expected=(Expected(score=ACCURACY, value=1.0, std=1.0, n=5),))
    values = {("test accuracy", None): 1.1}
    records = [
        Outcome(seed=k, values=values, about={"state": state}) for k, state in enumerate(("diverged", "stopped"))
    ]
    (found,) = lines.of_row(row, records)
    assert formats.verdict(found) == "within 2 std; diverged: 1"


def test_the_latest_known_epoch_stands_in_where_the_end_is_not_known():
    early = [Expected(score=ACCURACY, value=float(k), at=k) for k in (1, 3, 2)]
    row = Row(label="x", recipe={}, expected=(Expected(score=ACCURACY), *early))
    table = Table(name="t", title="t", rows=(row,))
    assert [one.expected.at for one in lines.shown(table, lines.of_row(row, []))] == [3, None]
    known = Row(label="x", recipe={}, expected=(Expected(score=ACCURACY, value=1.0), *early))
    assert [one.expected.at for one in lines.shown(table, lines.of_row(known, []))] == [None]


def test_the_verb_is_told_without_torch():
    code = (
        "import sys\nfrom skipback.lab.cli import main\nassert main(['reproduce', 'nobody1999']) == 2\n"
        "sys.exit(str({'torch', 'matplotlib'} & set(sys.modules) or ''))"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables)
    assert "did you mean" in done.stderr or "choose from" in done.stderr
