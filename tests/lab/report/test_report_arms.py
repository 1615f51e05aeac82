"""Grouping runs: what is averaged, what is told apart, and what is only listed."""

import pytest

from skipback.lab.report.arms import sections
from skipback.lab.report.metric import ACCURACY, MSE
from skipback.lab.report.reading import read_run


def grouped(paths):
    return sections([read_run(path) for path in paths])


def test_runs_that_differ_in_the_seed_only_form_an_arm(some_runs):
    (section,) = grouped(some_runs(("bp", "dfa"), seeds=(3, 1)))
    assert [(arm.label, [run.config.seed for run in arm.runs]) for arm in section.arms] == [
        ("bp", [1, 3]),
        ("dfa", [1, 3]),
    ]
    assert section.arms[0].title == "Backpropagation"


def test_arms_of_one_method_are_told_apart_by_what_differs(a_run):
    paths = [a_run("dfa", lr=0.001), a_run("dfa", folder="more", lr=0.01), a_run("bp")]
    (section,) = grouped(paths)
    assert [arm.label for arm in section.arms] == ["dfa (lr 0.001)", "dfa (lr 0.01)", "bp"]


def test_what_older_folders_lack_is_told_by_its_usual_value(a_run):
    low = a_run("dfa", folder="low", precision="bf16", compile=True)
    paths = [a_run("dfa"), a_run("dfa", folder="new", precision="auto", compile=True), low]
    (section,) = grouped(paths)
    assert [arm.label for arm in section.arms] == [
        "dfa (compile false, precision auto)",
        "dfa (compile, precision auto)",
        "dfa (compile, bf16)",
    ]


def test_an_absent_key_equals_one_that_is_null(a_run):
    first, second = a_run("dfa", 1, new=None), a_run("dfa", 2)
    (section,) = grouped([first, second])
    assert len(section.arms) == 1


def test_data_sets_and_nets_are_kept_apart(a_run):
    found = grouped([a_run("dfa"), a_run("dfa", dataset="wine"), a_run("f3", depth=5), a_run("bp")])
    assert [(s.net["dataset"], s.net["depth"], len(s.arms), s.metric.key) for s in found] == [
        ("digits", 2, 2, ACCURACY.key),
        ("wine", 2, 1, MSE.key),
        ("digits", 5, 1, ACCURACY.key),
    ]


def test_unfinished_runs_are_kept_apart_with_their_metric(a_run):
    bare = a_run("f3", dataset="wine", finished=False)
    (bare / "metrics.jsonl").unlink()
    (section,) = grouped([bare, a_run("dfa", dataset="wine")])
    assert [run.config.method for run in section.unfinished] == ["f3"]
    assert [arm.method for arm in section.arms] == ["dfa"]


def test_a_repeated_run_is_not_a_second_seed(a_run):
    (section,) = grouped([a_run("dfa", final=90.0), a_run("dfa", folder="again", final=95.0)])
    assert section.arms[0].finals(ACCURACY) == {1: 90.0}
    assert [run.path.parent.name for run in section.repeated] == ["again"]


def test_one_diverged_seed_leaves_no_mean_over_the_others(a_run):
    paths = [a_run("dfa", 1), a_run("dfa", 2, summary={"test_accuracy_percent": None}), a_run("bp")]
    (section,) = grouped(paths)
    assert section.arms[0].finals(ACCURACY) == {}
    assert [arm.label for arm in section.ranked] == ["bp", "dfa"]


def test_ranked_backprop_and_floor(some_runs):
    (section,) = grouped(some_runs(("shallow", "dfa", "bp"), seeds=(1,), dataset="wine"))
    assert [arm.label for arm in section.ranked] == ["bp", "dfa", "shallow"]
    assert (section.backprop.label, section.floor.label) == ("bp", "shallow")


def test_an_anchored_method_is_always_told_apart(a_run):
    paths = [a_run("dfa", anchor=10), a_run("dfa", folder="b"), a_run("shallow", anchor=10), a_run("kp", anchor=3)]
    (section,) = grouped(paths)
    assert [arm.label for arm in section.arms] == [
        *("dfa anchored every 10", "dfa", "shallow anchored every 10", "kp anchored every 3"),
    ]
    assert [arm.anchored for arm in section.arms] == [True, False, True, True]
    assert section.floor is None  # its hidden blocks were not frozen


@pytest.mark.parametrize(
    "other",
    [
        *({"prepare": "scale"}, {"augment": "flip"}, {"validation": "last"}, {"batch_norm": True}, {"dropout": 0.5}),
        *({"input_dropout": 0.1}, {"zero_init": True}, {"held_out": 0.2}, {"split_seed": 2}, {"distinct": True}),
        {"zca_epsilon": 0.01},
    ],
)
def test_what_changes_the_task_or_the_net_is_not_compared(a_run, other):
    assert len(grouped([a_run("dfa"), a_run("bp", **other)])) == 2


def test_a_folder_of_an_older_version_joins_a_new_one_with_the_usual_values(a_run):
    plain = {"batch_norm": False, "dropout": 0.0, "input_dropout": 0.0, "zero_init": False, "anchor": None}
    rows = {"prepare": None, "zca_epsilon": 0.1, "augment": None, "validation": None}
    split = {"held_out": 0.1, "split_seed": 1, "distinct": False}
    (section,) = grouped([a_run("dfa", 1), a_run("dfa", 2, folder="new", **plain, **rows, **split)])
    assert [(arm.label, len(arm.runs)) for arm in section.arms] == [("dfa", 2)]
