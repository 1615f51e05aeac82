"""What a run records, and when: evaluations apart, a pass over the training rows, alignment on other rows."""

import csv
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback.lab import checkpoint, data
from skipback.lab.cli import main
from skipback.lab.config import Run, usual
from skipback.lab.trainer import Trainer

SIZE = {"net": "mlp", "width": 8, "depth": 2, "batch_size": 300, "threads": 1, "precision": "float32", "seed": 3}
FAST = "--width 8 --depth 1 --batch-size 300 --lr 1e-2".split()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def trained(out, *argv):
    assert main(["train", "digits", *FAST, *map(str, argv), "--out", str(out)]) == 0
    return next(out.glob("*-seed1"))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_of_every_third_epoch_and_of_the_last(tmp_path, capsys):
    every = rows(trained(tmp_path / "every", "--epochs", 7))
    third = rows(trained(tmp_path / "third", "--epochs", 7, "--eval-every", 3))
    assert [row["epoch"] for row in third] == [0, 3, 6, 7]
    clock = ("train_seconds", "samples_per_second")
    assert [{k: v for k, v in row.items() if k not in clock} for row in third] == [
        {k: v for k, v in every[row["epoch"]].items() if k not in clock} for row in third
    ]


def test_a_pass_over_the_training_rows_in_eval_mode(digits):
    trainer = Trainer(Run(method="dfa", dropout=0.3, score_train=True, **SIZE), digits)
    trainer.advance(), trainer.advance()
    x, t = trainer.train
    with torch.no_grad():
        y = trainer.learner.eval()(x)
    start, row = trainer.rows
    assert row["train_eval_loss"] == pytest.approx(F.cross_entropy(y, t).item(), rel=1e-5)
    assert row["train_eval_accuracy_percent"] == pytest.approx(100 * (y.argmax(1) == t).float().mean().item())
    assert row["train_eval_accuracy_percent"] != row["train_accuracy_percent"]  # online, and with dropout
    assert start["train_accuracy_percent"] is None
    assert start["train_eval_loss"] > row["train_eval_loss"]


def test_the_online_accuracy_is_of_the_outputs_before_each_update(digits):
    run = Run(method="bp", optimizer="sgd", lr=0.1, **SIZE)
    ours, loop = Trainer(run, digits), Trainer(run, digits)
    ours.advance(), ours.advance()
    right, net = 0, loop.learner.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in loop.feed.epoch(300, loop.shuffle):
        y = net(batch.x)
        right += int((y.argmax(1) == batch.t).sum())
        F.cross_entropy(y, batch.t).backward()
        optimizer.step(), optimizer.zero_grad()
    assert ours.rows[1]["train_accuracy_percent"] == pytest.approx(100 * right / len(digits.train), rel=1e-12)


@pytest.mark.parametrize("which", ["train", "test"])
def test_alignment_is_measured_on_the_rows_that_were_asked_for(digits, which):
    trainer = Trainer(Run(method="dfa", align_on=which, align_rows=70, **SIZE), digits)
    split = getattr(digits, which)
    expected = sb.alignment(trainer.learner.eval(), split.x[:70], split.t[:70], F.cross_entropy)
    assert [row["cosine"] for row in trainer.measure()] == [one.cosine for one in expected]


def test_looking_at_every_other_step_changes_nothing_but_the_records(digits):
    plain = Trainer(Run(method="f3", dropout=0.2, **SIZE), digits)
    looked = Trainer(Run(method="f3", dropout=0.2, align_every=2, **SIZE), digits)
    for trainer in (plain, looked):
        torch.manual_seed(4)  # of the dropout masks
        trainer.advance(), trainer.advance(), trainer.advance()
    pairs = zip(plain.learner.state_dict().values(), looked.learner.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [look["step"] for look in looked.looks.records] == [0, 2, 4, 6, 8]
    assert looked.looks.records[0]["alignment"] == plain.rows[0]["alignment"]
    assert len({look["alignment"][0]["cosine"] for look in looked.looks.records}) == 5


def test_history_is_the_rows_and_the_settings(tmp_path, capsys):
    folder = trained(tmp_path, "--epochs", 2, "--limit", 600, "--schedule", "step:1:.5")
    with (folder / "history.csv").open() as file:
        found = list(csv.DictReader(file))
    recorded, settings = rows(folder), json.loads((folder / "config.json").read_text())
    assert [int(line["epoch"]) for line in found] == [0, 1, 2]
    for line, row in zip(found, recorded, strict=True):
        assert float(line["test_accuracy_percent"]) == row["test_accuracy_percent"]
        assert float(line["cosine_1"]) == row["alignment"][0]["cosine"]
        assert {key: line[key] for key in settings} == {k: "" if v is None else str(v) for k, v in settings.items()}
    assert found[0]["train_loss"] == ""


# ------------------------------------------------------------------------------------------------ seeds, rows


def test_weights_feedback_and_order_have_seeds_of_their_own(digits):
    def parts(**seeds):
        trainer = Trainer(Run(method="dfa", **{**SIZE, **seeds}), digits)
        (first, *_) = trainer.feed.epoch(300, trainer.shuffle)
        (weight, *_), (B, *_) = trainer.learner.net.parameters(), trainer.learner.feedback.values()
        return [v.detach().flatten()[:50].tolist() for v in (weight, B, first.ids)]

    usual_parts, other = parts(), parts(seed=9)
    assert not any(a == b for a, b in zip(usual_parts, other, strict=True))
    for place, name in enumerate(("weight_seed", "feedback_seed", "order_seed")):
        changed = parts(**{name: 9})
        assert [a == b for a, b in zip(changed, usual_parts, strict=True)] == [k != place for k in range(3)]
        assert changed[place] == other[place]
        assert parts(**{name: 3}) == usual_parts


def test_a_limit_takes_the_first_rows_and_standardises_by_them(tmp_path, capsys):
    folder = trained(tmp_path, "--epochs", 1, "--limit", 100)
    assert json.loads((folder / "config.json").read_text())["limit"] == 100
    state = checkpoint.load(folder / "checkpoint.safetensors")
    assert len(state["errors"]) == 1
    assert state["errors"][0] * 100 == pytest.approx(round(state["errors"][0] * 100))
    from skipback.lab import inputs

    few = inputs.inputs(Run(limit=100, loss="ce"))
    raw = data.raw("digits").train.x[:100].double().numpy()
    std = raw.std()
    expected = (raw - raw.mean()) / std
    assert np.corrcoef(few.train.x.double().numpy().ravel(), expected.ravel())[0, 1] > 0.999
    assert len(few.train.x) == 100
    assert len(few.test.x) == len(data.raw("digits").test.x)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--limit", "1438"], "--limit 1438: 'digits' trains on 1437 rows here"),
        (["--limit", "0"], "--limit: must be greater than or equal to 1, got 0"),
        (["--align-on", "valid"], "--align-on valid: this run has only train and test rows (see --validation)"),
        (["--align-on", "dev"], "unknown align_on 'dev'"),
        (["--align-on", "test", "--method", "f3"], "--align-on test: method 'f3' stores one error per training row"),
        (["--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["--eval-every", "0"], "--eval-every: must be greater than or equal to 1"),
        (["--order-seed", "-1"], "--order-seed: must be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, argv, said):
    assert main(["train", "digits", *FAST, *argv, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_by_its_number_must_be_there(tmp_path, capsys):
    assert main(["train", "digits", *FAST, "--device", "cuda:1", "--out", str(tmp_path)]) == 2
    assert "error: --device cuda:1: torch" in capsys.readouterr().err


def test_a_run_goes_on_on_another_gpu(tmp_path):
    from skipback.lab.errors import LabError
    from skipback.lab.records import Folder

    folder, config = Folder(tmp_path / "run"), {**usual(), "device": "cuda:0"}
    with folder.claimed(config, usual()):
        pass
    with folder.claimed({**config, "device": "cuda:1"}, usual()):
        pass
    with (
        pytest.raises(LabError, match="device 'cuda:0' not 'cpu'"),
        folder.claimed({**config, "device": "cpu"}, usual()),
    ):
        pass


def test_a_dry_run_makes_one_step_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *FAST, "--dry-run", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["dfa-seed1", "dfa-seed2"]
    assert "dry run: one step on 300 of 1,437 rows, loss 2." in lines[0]
    assert lines[0].endswith("1 taught ports, on cpu; nothing was written")
    assert main(["compare", "digits", "--methods", "bp,fdfa", "--seeds", "1", "--dry-run", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]
    assert [one["method"] for one in found] == ["bp", "fdfa"]
    assert not list(tmp_path.iterdir())
    assert main(["train", "digits", *FAST, "--dry-run", "--lr", "-1"]) == 2
