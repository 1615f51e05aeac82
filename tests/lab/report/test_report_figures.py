"""The figures: who is drawn how, which are drawn at all, and that odd input does not break them."""

import json

import pytest

from skipback.lab.report.alignment import alignment, traces
from skipback.lab.report.arms import sections
from skipback.lab.report.figures import costs, draw, final_results, learning_curves
from skipback.lab.report.looks import looks
from skipback.lab.report.reading import read_run


def section_of(paths):
    (section,) = sections([read_run(path) for path in paths])
    return section


def names(section):
    return [picture.name for picture in draw(section, looks(section.arms))]


def texts(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_every_method_has_a_look_of_its_own(some_runs):
    methods = [f"method{index:02}" for index in range(12)]
    found = looks(section_of(some_runs((*methods, "bp", "shallow"), seeds=(1,))).arms)
    assert len({(look["color"], look["marker"], look["linestyle"]) for look in found.values()}) == 14
    assert found["bp"]["color"] == "#1a1a1a"
    assert found["shallow"]["color"] == "#6b6b6b"
    assert len({found[method]["color"] for method in methods[:6]}) == 6


def test_looks_do_not_depend_on_the_order_of_the_runs(some_runs):
    digits = section_of(some_runs(("bp", "dfa", "f3"), seeds=(1,)))
    wine = section_of(some_runs(("f3", "dfa"), seeds=(1,), dataset="wine"))
    assert looks([*wine.arms, *digits.arms]) == looks(digits.arms)


def test_alignment_is_drawn_only_where_it_was_measured(some_runs):
    assert names(section_of(some_runs(("bp", "shallow"), seeds=(1,)))) == ["curves", "final", "speed", "memory"]
    section = section_of(some_runs(("bp", "dfa", "f3"), seeds=(1,)))
    assert [axes.get_title(loc="left") for axes in alignment(section).axes] == ["dfa", "f3", ""]  # and the degrees


def test_a_method_whose_every_cosine_is_invalid_has_no_panel(a_run):
    path = a_run("dfa")
    lines = (path / "metrics.jsonl").read_text().replace('"valid"', '"invalid"').replace('"suspicious"', '"invalid"')
    (path / "metrics.jsonl").write_text(lines)
    section = section_of([path])
    assert traces(section.arms[0]) == {}
    assert alignment(section) is None


def test_costs_that_were_not_recorded_are_not_drawn(a_run):
    section = section_of([a_run("dfa", summary={"peak_memory_mib": None})])
    assert costs(section, looks(section.arms), key="peak_memory_mib", label="memory") is None


def test_one_seed_is_a_mark_without_interval(a_run):
    section = section_of([a_run("dfa")])
    (axes,) = final_results(section, looks(section.arms)).axes
    assert len(axes.lines) == 1
    assert "(no interval)" in texts(final_results(section, looks(section.arms)))


def test_a_method_that_learned_nothing_is_named_at_the_edge(a_run):
    section = section_of([a_run("bp"), a_run("dfa"), a_run("fg", final=11.0)])
    curves = learning_curves(section, looks(section.arms))
    assert "fg ↓ 11.00" in texts(curves)
    assert curves.axes[0].get_ylim()[0] > 60
    assert final_results(section, looks(section.arms)).axes[0].get_xlim()[0] > 60


def test_methods_of_different_length_share_a_figure(a_run):
    section = section_of([a_run("bp", epochs=3), a_run("dfa", epochs=12)])
    assert {line.get_xdata()[-1] for line in learning_curves(section, looks(section.arms)).axes[0].lines} == {3, 12}


def test_the_lines_are_the_means_of_the_files(a_run):
    paths = [a_run("dfa", 1), a_run("dfa", 2)]
    stored = [
        [json.loads(line)["test_accuracy_percent"] for line in (p / "metrics.jsonl").read_text().splitlines()]
        for p in paths
    ]
    section = section_of(paths)
    (line,) = learning_curves(section, looks(section.arms)).axes[0].lines
    assert list(line.get_ydata()) == pytest.approx([(a + b) / 2 for a, b in zip(*stored, strict=True)])


@pytest.mark.parametrize("method", ["$x_1$", r"$\frac{1}$", "_hidden", "a % b & c"])
def test_odd_names_can_be_drawn(a_run, method, tmp_path):
    path = a_run("dfa")
    config = json.loads((path / "config.json").read_text()) | {"method": method}
    (path / "config.json").write_text(json.dumps(config))
    assert len(names(section_of([path]))) == 5


def test_many_ports_and_one_epoch(a_run):
    assert len(names(section_of([a_run("dfa", depth=30, epochs=1)]))) == 5


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("dataset", ["digits", "wine"])
@pytest.mark.parametrize("finals", [(9.0, 8.0), (0.0, 0.0), (1e30, 3e38), (9.0, 1e30)])
def test_runs_that_did_not_learn_are_drawn(a_run, dataset, finals, epochs):
    """The best arm ends below the lowest start: the window must still hold something."""
    pairs = [(m, seed, x) for m, x in zip(("bp", "dfa"), finals, strict=True) for seed in (1, 2)]
    section = section_of([a_run(m, seed, final=x, epochs=epochs, dataset=dataset) for m, seed, x in pairs])
    assert names(section) == ["curves", "final", "speed", "memory", "alignment"]
    assert len(texts(final_results(section, looks(section.arms)))) < 200  # no number of 39 digits
