"""The page: what it says, that every number is a file's, and that it opens offline."""

import json
import re
import subprocess
import sys

import pytest

from skipback.lab.report import ReportError, write
from skipback.lab.report.arms import sections
from skipback.lab.report.looks import looks
from skipback.lab.report.page import render
from skipback.lab.report.reading import read_run


def text_of(paths, **more):
    """The page without its figures (quick), and without markup."""
    runs = [read_run(path) for path in paths]
    parts = sections(runs)
    page = render(parts, runs, looks(arm for s in parts for arm in s.arms), [[] for _ in parts], **more)
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))


def test_the_page_loads_nothing(reports):
    page = reports[1].read_text(encoding="utf-8")
    loads = re.findall(r"""(?:src|href|url|action|data)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert loads
    assert all(value.startswith(("data:image/svg+xml;base64,", "#")) for value in loads)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"https?://", page)


def test_the_page_is_complete(reports):
    page = reports[1].read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<img ") == page.count('alt="') == page.count("<figcaption>") == 5
    for words in (
        "digits: mlp (depth 2, width 128, tanh)",
        "5 methods × 3 seeds",
        "How this was made",
        "AMD",
        "2.13.0+cpu",
    ):
        assert (words in page) == (words != "AMD")
    assert "skipback compare digits --seeds 5" in page
    assert "skipback report runs" in page


def test_the_same_runs_give_the_same_bytes(reports):
    one, two = (
        {path.relative_to(page.parent): path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
        for page in reports[1:]
    )
    assert len(one) == 7
    assert one == two


def test_figures_are_png(reports):
    names = sorted(path.name for path in (reports[1].parent / "figures").iterdir())
    assert names == [f"digits-mlp-2-128-{name}.png" for name in ("alignment", "curves", "final", "memory", "speed")]
    assert (reports[1].parent / "figures" / names[0]).read_bytes().startswith(b"\x89PNG")


def test_one_seed_has_no_interval(some_runs):
    page = text_of(some_runs(("bp", "dfa", "shallow"), seeds=(7,)))
    assert "One seed: no interval." in page
    assert "(one seed: no interval)" in page
    assert "3 methods × 1 seed" in page
    assert "± 0" not in page
    assert "nan" not in page.lower()
    assert not re.search(r"\d ± \d", page)


def test_one_method(some_runs):
    page = text_of(some_runs(("dfa",)))
    assert "Without backpropagation, dfa (Direct feedback alignment) reaches a test accuracy of" in page
    assert "There is no result of bp or the floor (hidden blocks frozen at random) to compare with." in page
    assert "1 method × 3 seeds" in page


def test_backprop_alone(some_runs):
    assert "No run of a method without backpropagation has finished yet." in text_of(some_runs(("bp",)))


def test_regression_is_better_when_lower(some_runs):
    page = text_of(some_runs(("shallow", "bp", "dfa"), dataset="wine"))
    assert "Lower is better." in page
    assert re.search(r"dfa \(.*?\) reaches a test MSE of 0\.\d{4} ± 0\.\d{4} \(mean", page)
    assert re.search(r"above backprop \(worse\) and 0\.\d{4} ± 0\.\d{4} below the floor shallow \(better\)", page)
    assert page.index(" bp reference") < page.index(" dfa ", page.index(" bp reference")) < page.index(" shallow floor")
    assert "%" not in page.replace("95 %", "")


def test_each_data_set_and_net_has_its_section(a_run):
    page = text_of([a_run("dfa"), a_run("dfa", dataset="wine"), a_run("dfa", folder="deep", depth=5)])
    assert "3 comparisons" in page
    for title in ("digits: mlp (depth 2,", "wine: mlp (depth 2,", "digits: mlp (depth 5,"):
        assert title in page
    assert "Where the runs differ runs dataset depth dfa digits 2 dfa wine 2 dfa digits 5" in page


def test_unfinished_runs_are_listed_and_not_averaged(a_run):
    paths = [a_run("dfa", 1, final=96.0), a_run("dfa", 2, final=95.0), a_run("dfa", 3, epochs=8, finished=False)]
    page = text_of(paths)
    assert "dfa, seed 3: epoch 3 of 8 (digits-dfa-seed3)" in page
    assert "95.50 ± 6.35" in page
    assert "1 method × 2 seeds" in page


def test_nothing_but_unfinished_runs(a_run, tmp_path):
    path = a_run("dfa", finished=False)
    page = write([path], tmp_path / "out").read_text(encoding="utf-8")
    assert "no finished run yet" in page
    assert "dfa, seed 1: epoch 3 of 8" in page
    assert "<img" not in page


def test_repeated_runs_are_listed(a_run):
    page = text_of([a_run("dfa", final=90.0), a_run("dfa", folder="again", final=95.0)])
    assert "Repeated runs" in page
    assert "90.00" in page
    assert "95.00" not in page


def test_a_diverged_seed_is_said(a_run):
    page = text_of([a_run("dfa", 1), a_run("dfa", 2, summary={"test_accuracy_percent": None}), a_run("bp")])
    assert "1 of 2 diverged" in page


def test_a_reference_that_did_not_move_is_none(a_run):
    """All weights at 0: backprop stays there, and nothing ends 60 points above it."""
    dead = {"state": "nothing moved"}
    paths = [a_run("bp", seed, final=10.0, summary=dead) for seed in (1, 2)]
    page = text_of([*paths, *(a_run("dfa", seed, final=70.0 + seed) for seed in (1, 2))])
    assert "2 of 2 did not move" in page
    assert "There is no result of bp or the floor" in page
    assert "Without a result: bp (2 of 2 did not move)." in page
    assert "backprop ." not in page
    assert "reference" not in page.split("How this was made")[0]
    assert "difference to" not in page


@pytest.mark.parametrize("state", ["diverged", "nothing moved"])
def test_runs_without_any_result_leave_a_report(a_run, tmp_path, state):
    paths = [a_run(method, 1, final=10.0, summary={"state": state}) for method in ("bp", "dfa", "shallow")]
    page = write(paths, tmp_path / "out").read_text(encoding="utf-8")
    assert "No method without backpropagation has a result." in page
    assert "Without a result: bp (1 of 1" in page
    assert (tmp_path / "out" / "table.csv").read_text().count(f",{state},") >= 3


def test_an_older_folder_that_diverged_is_found_out(a_run):
    """It says no state: its last training loss is 10 times that of the start."""
    path = a_run("bp", epochs=2)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["train_loss"] = 31.0 if row["epoch"] else None
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "1 of 1 diverged" in text_of([path, a_run("dfa")])


def test_starts_at_zero_are_told(a_run):
    starts = {"dfa": "zero", "fa": "zero but for the first layer", "bp": "random"}
    page = text_of([a_run(method, summary={"start": start}, zero_init=True) for method, start in starts.items()])
    assert (
        "Start: dfa all weights at 0; fa all but the first layer at 0; bp random weights, as no hidden weight would "
        "leave 0." in page
    )


def test_older_folders_call_held_out_scores_test(a_run):
    page = text_of([a_run("dfa", seed, final=90.0 + seed, validation="last") for seed in (1, 2)])
    assert "reaches a validation accuracy of 91.50" in page
    assert "test accuracy" not in page


def test_methods_of_different_length_show_their_epochs(a_run):
    assert " epochs samples/s" in text_of([a_run("dfa", epochs=4), a_run("bp", epochs=6)])
    assert " epochs samples/s" not in text_of([a_run("dfa", epochs=4), a_run("bp", epochs=4)])


def test_variants_of_a_method_are_compared(a_run):
    page = text_of([a_run("f3", signal="delayed_error"), a_run("f3", folder="more", signal="delayed_loss")])
    assert "1 method in 2 configurations × 1 seed" in page
    assert "f3 (delayed_loss)" in page


@pytest.mark.parametrize("key", ["method", "net", "feedback", "activation"])
def test_hostile_names_are_text(a_run, tmp_path, key):
    evil = "<script>alert('$x_1')</script>\"{{ 1 }}"
    path = a_run("bp", 5)
    config = json.loads((path / "config.json").read_text()) | {key: evil}
    (path / "config.json").write_text(json.dumps(config))
    (path / "env.json").write_text(json.dumps({"command": evil, evil: evil}))
    page = write([path], tmp_path / "out", command=evil).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert all("/" not in file.name and "<" not in file.name for file in (tmp_path / "out" / "figures").iterdir())


def test_a_changed_file_changes_the_page(some_runs):
    paths = some_runs(("bp", "dfa"), seeds=(1, 2))
    before = text_of(paths)
    stored = json.loads((paths[2] / "summary.json").read_text())
    for key, value, shows in (("test_accuracy_percent", 12.34, "12.34"), ("peak_memory_mib", 4321.0, "4,321")):
        (paths[2] / "summary.json").write_text(json.dumps(stored | {key: value}))
        (paths[3] / "summary.json").write_text(json.dumps(stored | {key: value}))
        after = text_of(paths)
        assert shows in after
        assert shows not in before


def test_the_environment_names_every_value_and_the_first_and_last_start(a_run):
    page = text_of(
        [
            a_run("dfa", 1, env={"processor": "one", "started": "2026-11-20T09:00:00Z"}),
            a_run("dfa", 2, env={"processor": "two", "started": "2026-11-20T08:00:00Z"}),
        ]
    )
    assert "processor one, two" in page
    assert "started 2026-11-20T08:00:00Z to 2026-11-20T09:00:00Z" in page


def test_no_runs_is_an_error(tmp_path):
    with pytest.raises(ReportError, match="at least one run folder"):
        write([], tmp_path)


def test_importing_the_report_is_cheap():
    code = "import sys, skipback.lab.report; print(*sorted({'matplotlib', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_training_accuracy_is_drawn_and_stands_in_brackets(a_run, tmp_path):
    """In eval mode where that was scored, else as counted in training; nothing where neither was recorded."""
    for method, keys in (("bp", ("train_accuracy_percent", "train_eval_accuracy_percent")), ("dfa", ()),
                         ("f3", ("train_accuracy_percent",))):  # fmt: skip
        folder = a_run(method)
        path = folder / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        values = dict(zip(keys, (91.25, 93.5), strict=False))
        path.write_text("".join(json.dumps(row | (values if row["epoch"] else {})) + "\n" for row in rows))
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | values))
    page = write(sorted((tmp_path / "runs").iterdir()), tmp_path / "report").read_text()
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    assert "(training)" in text
    assert "(93.50)" in text  # bp
    assert "(91.25)" in text  # f3
    assert text.count("(9") == 2
    assert "Training curves." in text
    assert (tmp_path / "report" / "figures" / "digits-mlp-2-128-training.png").exists()
