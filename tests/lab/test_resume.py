"""An interrupted run goes on to the same bits, and what is damaged is refused."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from skipback.lab import checkpoint, train
from skipback.lab.cli import main
from skipback.lab.errors import LabError
from skipback.lab.records import atomic_write
from skipback.learner import Learner

RUN = "train digits --width 32 --depth 2 --epochs 6 --lr 1e-3".split()
EPOCH = 29
"""Steps of an epoch of digits."""
STOPS = """
import os, sys
from skipback.lab import train
from skipback.lab.cli import main
from skipback.learner import Learner

train.SAVE_EVERY = 0  # a checkpoint after every epoch
left, plain = iter(range({steps}, -1, -1)), Learner.step

def step(*args, **options):
    if next(left, None) == 0:
        os.kill(os.getpid(), {stop})
    return plain(*args, **options)

Learner.step = step
sys.exit(main({argv}))
"""


def start(*argv, steps, stop):
    """Another process that trains and, after some steps, sends a signal to itself."""
    code = STOPS.format(steps=steps, stop=int(stop), argv=[*map(str, argv)])
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def interrupted(argv, steps, monkeypatch):
    """The same in this process, by what SIGINT raises in it: no second start of an interpreter."""
    left, plain = iter(range(steps, -1, -1)), Learner.step

    def step(*args, **options):
        if next(left, None) == 0:
            raise KeyboardInterrupt
        return plain(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "SAVE_EVERY", 0)
        patch.setattr(Learner, "step", step)
        assert main(argv) == 130


def bits(folder):
    """Everything that decides the result: the final state, and the metrics without the clock."""
    state = checkpoint.load(folder / "checkpoint.safetensors")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in [*rows, *state["rows"]]:
        del row["train_seconds"], row["samples_per_second"]
    del state["seconds"]
    return rows, state


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


STOPPED = (EPOCH + 7, EPOCH // 2, 2 * EPOCH - 1)
"""In the second epoch, in the second again, in the third."""
AGAIN = pytest.param("f3", signal.SIGINT, STOPPED, marks=pytest.mark.slow)  # each is in one of the others


@pytest.mark.parametrize(
    ("method", "stop", "stopped"), [("f3", signal.SIGKILL, STOPPED), ("dfa", signal.SIGINT, STOPPED[:1]), AGAIN]
)
def test_interrupted_runs_resume_to_the_same_bits(tmp_path, capsys, method, stop, stopped):
    argv = [*RUN, "--method", method]
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    folder = tmp_path / "broken" / f"{method}-seed1"
    for steps in stopped:
        process = start(*argv, "--out", tmp_path / "broken", steps=steps, stop=stop)
        _, err = process.communicate(timeout=120)
        assert process.returncode == (130 if stop == signal.SIGINT else -stop)
        assert b"Traceback" not in err
        assert (b"interrupted" in err) == (stop == signal.SIGINT)
    assert not (folder / "summary.json").exists()
    assert main([*argv, "--out", str(tmp_path / "broken")]) == 0
    assert same(bits(tmp_path / "whole" / folder.name), bits(folder))


def test_a_comparison_goes_on_where_it_was_interrupted(tmp_path, capsys, monkeypatch):
    argv = ["compare", "digits", *"--methods f3,dfa --epochs 3 --width 32 --depth 1 --out".split(), str(tmp_path)]
    interrupted(argv, 4 * EPOCH, monkeypatch)  # in the second run
    assert not (tmp_path / "dfa-seed1" / "summary.json").exists()
    done = (tmp_path / "f3-seed1" / "summary.json").stat().st_mtime_ns
    assert main(argv) == 0
    assert (tmp_path / "f3-seed1" / "summary.json").stat().st_mtime_ns == done
    assert (tmp_path / "dfa-seed1" / "summary.json").exists()
    assert (tmp_path / "report.html").exists()


def test_two_processes_cannot_train_one_run(tmp_path, capsys):
    first = start(*RUN, "--out", tmp_path, steps=EPOCH, stop=signal.SIGSTOP)
    try:
        assert os.WIFSTOPPED(os.waitpid(first.pid, os.WUNTRACED)[1])
        assert main([*RUN, "--out", str(tmp_path)]) == 2
        assert "another process" in capsys.readouterr().err
    finally:
        first.kill()
        first.communicate()


def test_a_flipped_bit_in_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"w": torch.randn(50), "n": [1, 2.5, None, "x"], "state": {0: {"step": torch.tensor(3.0)}}})
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(len(whole), (300,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(LabError, match="damaged"):
            checkpoint.load(path)
    path.write_bytes(whole[:-7])
    with pytest.raises(LabError, match="damaged"):
        checkpoint.load(path)


def test_checkpoints_keep_every_type_and_bit(tmp_path):
    state = {
        "a": torch.randn(3, dtype=torch.float64),
        "b": [torch.arange(4), torch.tensor(True), torch.empty(0, 3)],
        "c": {"x": None, "y": 1e-300, 3: "tensor-like: no", "nested": {"z": [1, [2, {}]]}},
        "h": torch.randn(5).bfloat16(),
        "t": torch.randn(3, 4).T,
    }
    checkpoint.write(tmp_path / "c", state)
    assert same(checkpoint.load(tmp_path / "c"), state)


def test_a_damaged_checkpoint_ends_with_one_line(tmp_path, capsys, monkeypatch):
    interrupted([*RUN, "--out", str(tmp_path)], EPOCH, monkeypatch)
    folder = tmp_path / "dfa-seed1"
    (folder / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    assert main([*RUN, "--out", str(tmp_path)]) == 2
    assert "checkpoint.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_file_that_is_no_object_ends_with_one_line(tmp_path, capsys, name):
    argv = ["train", "--epochs", "1", "--width", "8", "--out", str(tmp_path)]
    assert main(argv) == 0
    (tmp_path / "dfa-seed1" / name).write_text("[]")
    assert main(argv) == 2
    assert f"{name}: expected a JSON object, found list" in capsys.readouterr().err


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "f"
    atomic_write(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
