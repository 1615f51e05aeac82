"""A run of any setting that is interrupted after each of its epochs goes on to the bits of the whole one."""

import pytest
from test_resume import bits, same

from skipback.lab import train
from skipback.lab.cli import main

RUN = "train digits --width 12 --depth 2 --batch-size 64 --epochs 4 --lr 1e-2".split()

FOLDERS = ("whole", "broken")

SETTINGS = {
    "step": "--schedule step:2:.5",
    "exponential": "--schedule exponential:.9 --optimizer nadam",
    "inverse": "--schedule inverse:.01 --optimizer sgd --momentum .9 --dampening .9",
    "auto": "--schedule auto --optimizer rprop --lr .3",
    "feedback": "--method fdfa --schedule step:1:.5 --feedback-lr .02 --feedback-optimizer adagrad",
    "decayed feedback": "--method dkp --feedback-decay .1 --weight-decay .01 --schedule inverse:.1",
    "stop at an error": "--stop-train-error .7 --epochs 9",
    "stop where it settles": "--stop-change .05 --epochs 9 --method bp",
    "adversarial": "--adversarial .1 --keep-clean-gradients --loss bce --reduction sum --optimizer sgd --lr 1e-4",
    "dropout in two passes": "--adversarial .1 --dropout .3 --max-out-norm 1 --max-in-norm .5",
    "seeds": "--weight-seed 4 --feedback-seed 5 --order-seed 6 --dropout .2 --method f3",
    "looks": "--align-every 7 --align-on test --align-rows 50 --score-train --limit 300",
    "evaluations": "--eval-every 3 --epochs 7 --schedule auto",
    "nesterov": "--optimizer sgd --momentum .9 --nesterov --weight-decay .01 --method f3",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, capsys, monkeypatch, name):
    argv = [*RUN, *SETTINGS[name].split(), "--out"]
    assert main([*argv, str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(train, "SAVE_EVERY", 0)
    save = train.save

    def interrupted(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", interrupted)
    stops = 0
    while main([*argv, str(tmp_path / "broken")]) == 130:
        stops += 1
    assert stops > 2
    looks = [tmp_path / which / f"{next((tmp_path / which).iterdir()).name}" / "alignment.jsonl" for which in FOLDERS]
    assert looks[0].exists() == looks[1].exists() == ("--align-every" in argv)
    assert not looks[0].exists() or looks[0].read_text() == looks[1].read_text()
    (folder,) = (tmp_path / "whole").glob("*-seed1")
    assert same(bits(folder), bits(tmp_path / "broken" / folder.name))
    summaries = [(tmp_path / which / folder.name / "summary.json").read_text() for which in ("whole", "broken")]
    assert all(text.count('"state"') == 1 for text in summaries)
