"""A run of any setting that is interrupted after each of its epochs goes on to the bits of the whole one."""

import pytest
from test_resume import bits, same

from skipback.lab import train
from skipback.lab.cli import main

RUN = "train digits --width 12 --depth 2 --batch-size 64 --epochs 4 --lr 1e-2".split()

SETTINGS = {
    "step": "--schedule step:2:.5",
    "exponential": "--schedule exponential:.9 --optimizer nadam",
    "inverse": "--schedule inverse:.01 --optimizer sgd --momentum .9 --dampening .9",
    "auto": "--schedule auto --optimizer rprop --lr .3",
    "feedback": "--method fdfa --schedule step:1:.5 --feedback-lr .02 --feedback-optimizer adagrad",
    "decayed feedback": "--method dkp --feedback-decay .1 --weight-decay .01 --schedule inverse:.1",
    "stop at an error": "--stop-train-error .7 --epochs 9",
    "stop where it settles": "--stop-change .05 --epochs 9 --method bp",
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
    (folder,) = (tmp_path / "whole").glob("*-seed1")
    assert same(bits(folder), bits(tmp_path / "broken" / folder.name))
    summaries = [(tmp_path / which / folder.name / "summary.json").read_text() for which in ("whole", "broken")]
    assert all(text.count('"state"') == 1 for text in summaries)
