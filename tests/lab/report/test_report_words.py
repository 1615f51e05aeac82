"""The sentences: who wins and by how much, who does not beat the floor, and what the seeds leave open."""

from skipback.lab.report import find_runs
from skipback.lab.report.arms import sections
from skipback.lab.report.reading import read_run
from skipback.lab.report.words import summary, title


def said(paths):
    (section,) = sections([read_run(path) for path in paths])
    return " ".join(summary(section))


def test_the_sentences_say_who_wins_and_by_how_much(a_run):
    for seed, shift in ((1, 0.0), (2, 0.2), (3, 0.4)):
        for method, final in (("bp", 97), ("dfa", 96 + shift / 4), ("f3", 93), ("drtp", 90.5), ("shallow", 90)):
            path = a_run(method, seed, final=final + shift)
    assert said(find_runs([path.parent])) == (
        "Without backpropagation, dfa (Direct feedback alignment) does best, with a test accuracy of 96.25 ± 0.62 % "
        "(mean and 95 % interval over 3 seeds). It ends 0.95 ± 0.12 points below backprop and 6.05 ± 0.12 points above "
        "the floor shallow. All methods had one learning rate, 0.001, tuned for none of them: another may rank them "
        "otherwise."
    )


def test_who_does_not_beat_the_floor_is_named(a_run):
    finals = {"bp": (97, 97.1, 96.9), "dfa": (96, 96.2, 95.9), "drtp": (91.0, 89.5, 90.7), "shallow": (90, 90.4, 90.2)}
    paths = [a_run(method, seed, final=x) for method, row in finals.items() for seed, x in enumerate(row)]
    assert "Not better than the floor beyond the interval: drtp." in said(paths)
    paths += [a_run("f3", seed, final=80.0 + seed) for seed in range(3)]
    assert "Not better than the floor beyond the interval: drtp and f3." in said(paths)


def test_an_error_above_the_floor_does_not_beat_it(a_run):
    finals = {"dfa": (0.60, 0.601), "drtp": (0.70, 0.701), "shallow": (0.65, 0.652)}
    paths = [a_run(m, seed, final=x, dataset="wine") for m, row in finals.items() for seed, x in enumerate(row)]
    assert "Not better than the floor beyond the interval: drtp." in said(paths)


def test_what_the_seeds_do_not_tell_apart_is_said(a_run):
    finals = {"bp": (97, 97.5, 96.9), "dfa": (97.2, 97.0, 97.1), "f3": (97.0, 97.2, 96.8)}
    paths = [a_run(method, seed, final=x) for method, row in finals.items() for seed, x in enumerate(row)]
    assert "The seeds do not tell it apart from f3 or backprop." in said(paths)
    assert "no result of the floor" in said(paths)


def test_seeds_that_are_all_equal_have_no_interval(a_run):
    assert "(all 3 seeds equal: no interval)" in said([a_run("dfa", seed, final=90.0) for seed in (1, 2, 3)])


def test_learning_rates_of_their_own_are_no_shared_one(a_run):
    told = "one learning rate"
    paths = [a_run("dfa", seed, final=90.0 + seed) for seed in (1, 2)]
    assert told not in said(paths)  # one method
    assert told not in said([*paths, a_run("bp", 1, final=95.0, lr=0.01)])
    several = [a_run("bp", 1, final=95.0 + lr, lr=lr, folder=str(lr)) for lr in (0.01, 0.001)]
    assert told not in said([*paths, *several])
    assert told not in said([*paths, a_run("bp", 3, finished=False)])  # no result to be unfair to
    assert "one learning rate, 0.001, tuned for none" in said([*paths, several[1]])


def test_an_anchored_method_is_not_without_backpropagation(a_run):
    paths = [a_run("f3", seed, final=90.0 + seed) for seed in (1, 2)]
    share = {"backprop_share": 0.0957}
    paths += [a_run("dfa", seed, final=96.0, anchor=10, summary=share, folder="anchored") for seed in (1, 2)]
    text = said(paths)
    assert text.startswith("Without backpropagation, f3 (Feed-forward with delayed feedback) reaches")
    assert "With plain backprop in 9.57 % of the training passes, dfa anchored every 10 reaches 96.00" in text
    assert "Its measure is shallow with the same anchor" in text
    assert "With plain backprop" not in said(paths[:2])
    assert said(paths[2:]).startswith("No run of a method without backpropagation has finished yet. With plain")


def test_held_out_rows_are_not_the_test_split(a_run):
    paths = [a_run("dfa", seed, validation="last", held_out=0.2) for seed in (1, 2)]
    assert said(paths).startswith("All results are of held-out training rows: the test split was not read. Without")
    (section,) = sections([read_run(path) for path in paths])
    assert title(section) == "digits: mlp (depth 2, width 128, tanh, validation last, held out 0.2)"
