"""`skipback audit`: what it prints, what it refuses, and the answers that the tables show."""

import json

import pytest

from skipback.lab.audit import of_hidden, of_run
from skipback.lab.cli import main
from skipback.lab.config import Run

SMALL = ("--width", "8", "--device", "cpu")


def run(capsys, *argv):
    code = main(["audit", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_one_method_as_a_table(capsys):
    code, out, err = run(capsys, "digits", "--method", "dfa", "--depth", "2", *SMALL)
    assert (code, err) == (0, "")
    title, header, *lines = out.splitlines()
    assert title == "dfa: Direct feedback alignment"
    assert header.split()[:3] == ["block", "update", "norm"]
    assert [line.split()[0] for line in lines[:3]] == ["head", "3", "1"]
    assert "waits for the output" in out
    assert max(map(len, out.splitlines())) <= 110


def test_several_methods_as_json(capsys):
    """A choice that only one method has goes to that one, as in compare."""
    code, out, _ = run(capsys, "--methods", "bp, f3", "--signal", "delayed_loss", "--json", *SMALL)
    assert code == 0
    bp, f3 = map(json.loads, out.splitlines())
    assert (bp["method"], f3["method"]) == ("bp", "f3")
    assert [block["block"] for block in bp["blocks"]] == ["head", "1"]
    assert bp["blocks"][1]["weight_transport"] is True
    assert f3["blocks"][1]["forward_lock"] is False
    assert f3["blocks"][1]["earlier_visits"] is True


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--methods", "bp,dff"], "did you mean 'dfa'"),
        (["--method", "dff"], "did you mean 'dfa'"),
        (["digitz"], "did you mean 'digits'"),
        (["--signal", "zeros"], "method 'dfa' has no choice of signal"),
        (["--net", "lenet"], "lenet needs images"),
        (["--width", "-1"], "--width"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, argv, expected):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_help_has_the_headings_of_a_run(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["audit", "--help"])
    out = capsys.readouterr().out
    assert not stop.value.code
    assert all(f"{heading} options" in out for heading in ("network", "teaching", "training", "data", "machine"))
    assert out.count("\n") < 130
    assert "A,B,..." in out


def test_learned_feedback_is_audited_after_it_has_learned():
    dkp = Run(method="dkp", width=8, device="cpu")
    assert of_run(dkp)[1].moves
    assert not of_run(dkp, steps=0)[1].moves


def test_one_answer_for_all_hidden_blocks():
    answers = {name: list(of_hidden(name, width=8).values()) for name in ("bp", "shallow", "dfa", "f3")}
    assert answers == {
        "bp": [True, True, True, True, True, False, False],
        "shallow": [False, False, *5 * [None]],
        "dfa": [True, False, False, False, True, False, False],
        "f3": [True, False, False, False, False, True, True],
    }
