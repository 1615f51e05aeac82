"""Stop rules: dfa-torch's smoothed training error, Poli's change of it, and dfa-torch's halving of the rate."""

import json

import numpy as np
import pytest

from skipback.lab import stopping
from skipback.lab.cli import main
from skipback.lab.config import Run

FAST = "--width 16 --depth 1 --batch-size 64 --method bp --lr 1e-2 --epochs 12".split()


def train(out, *argv):
    assert main(["train", "digits", *FAST, *map(str, argv), "--out", str(out)]) == 0
    folder = next(out.glob("*-seed1"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "summary.json").read_text())


def errors(rows):
    return [1 - row["train_accuracy_percent"] / 100 for row in rows[1:]]


def test_a_run_stops_at_the_smoothed_training_error(tmp_path, capsys):
    whole, summary = train(tmp_path / "whole")
    m, limit = np.cumprod(np.full(12, 0.75)), 0.3
    smoothed = [0.75 ** (k + 1) + sum(0.25 * 0.75 ** (k - j) * e for j, e in enumerate(errors(whole)[: k + 1]))
                for k in range(12)]  # fmt: skip
    last = next(k for k, value in enumerate(smoothed) if value <= limit) + 1
    assert 2 < last < 11
    assert m[-1] < limit
    rows, stopped = train(tmp_path / "stopped", "--stop-train-error", limit)
    assert [row["epoch"] for row in rows] == list(range(last + 1))
    assert errors(rows) == errors(whole)[:last]
    assert (summary["state"], stopped["state"]) == ("finished", "stopped")
    assert stopped["epochs_reached"] == last
    assert stopped["stopped_by"].startswith("--stop-train-error 0.3: smoothed training error 0.2")
    assert "stopped_by" not in summary


def test_a_run_stops_where_the_training_error_settles(tmp_path, capsys):
    whole, _ = train(tmp_path / "whole")
    changes = np.abs(np.diff(errors(whole)))
    limit = 0.02
    last = int(np.argmax(changes <= limit)) + 2
    assert 2 < last < 12
    rows, stopped = train(tmp_path / "stopped", "--stop-change", limit)
    assert rows[-1]["epoch"] == stopped["epochs_reached"] == last
    assert stopped["stopped_by"].startswith("--stop-change 0.02: the training error changed by 0.0")


def test_auto_ends_a_run():
    """After 8 halvings, in the epoch after the last of them."""
    run = Run(schedule="auto")
    assert stopping.why(run, [1.0] * 8) is None
    assert stopping.why(run, [1.0] * 9) == "--schedule auto: 8 halvings, smoothed training error 1"
    assert stopping.why(run, [0.0] * 32) is None
    assert stopping.why(run, [0.0] * 33) == f"--schedule auto: 0 halvings, smoothed training error {0.75**33:.3g}"
    assert stopping.why(Run(), [0.0] * 99) is None
    assert stopping.why(Run(stop_change=0.0), [0.5]) is None
    assert stopping.why(Run(stop_change=0.0), [0.5, 0.5]) is not None


@pytest.mark.parametrize("argv", [["--stop-train-error", "0.1"], ["--stop-change", "0.1"], ["--schedule", "auto"]])
def test_there_must_be_classes_and_one_run_at_a_time(tmp_path, capsys, argv):
    size = ["--epochs", "1", "--width", "8", "--depth", "1", "--out", str(tmp_path)]
    assert main(["train", "linear-map", "--method", "bp", *argv, *size, "--net", "mlp"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {argv[0]} {argv[1]} follows the share of wrong classes, and 'linear-map' has values here\n"
    assert main(["train", "digits", "--together", "--seeds", "2", *argv, *size]) == 2
    assert "not with --together, whose seeds take every step together" in capsys.readouterr().err
