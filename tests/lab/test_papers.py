"""The papers as data: recipes that a run takes, values with their sources, and two steps of every recipe."""

import dataclasses

import numpy as np
import pytest

from skipback.lab import papers
from skipback.lab.errors import LabError
from skipback.lab.papers import launay2019, poli2017
from skipback.lab.papers.base import GPU
from skipback.lab.reproduce.jobs import Changes, Job
from skipback.lab.reproduce.results import command
from skipback.lab.reproduce.smoke import try_out

STUDIES = papers.studies()
TABLES = [(study, table) for study in STUDIES for table in study.tables]
ROWS = [(study, table, row) for study, table in TABLES for row in table.rows]


def ids(value):
    return getattr(value, "key", getattr(value, "name", None))


@pytest.mark.parametrize(("study", "table"), TABLES, ids=ids)
def test_recipes_are_what_their_verb_takes(study, table, tmp_path):
    for row in table.rows:
        job = Job(study, table, row, table.first_seed, tmp_path, Changes())
        kept = job.run.model_dump()
        assert {key: kept[key] for key in row.recipe} == {**row.recipe, **spelt(row)}, row.label
        assert {"seed", "threads", "device"}.isdisjoint(row.recipe), "the person who runs it says so"


def spelt(row):
    """Settings that a run keeps in another spelling."""
    return {key: float(row.recipe[key]) for key in ("dropout",) if isinstance(row.recipe.get(key), int)}


def test_a_recipe_with_a_setting_that_there_is_not_is_refused(tmp_path):
    study, table, row = ROWS[0]
    changed = dataclasses.replace(row, recipe={**row.recipe, "wings": 2})
    with pytest.raises(LabError, match="flugel2024 mnist-1, row 'BP': wings: no such setting"):
        Job(study, table, changed, 1, tmp_path, Changes()).run  # noqa: B018


@pytest.mark.parametrize(("study", "table"), TABLES, ids=ids)
def test_labels_folders_and_what_refers_to_them(study, table):
    labels = [row.label for row in table.rows]
    assert len(set(labels)) == len({row.slug for row in table.rows}) == len(labels)
    for gap in table.gaps:
        assert {gap.of, gap.floor, gap.ceiling} <= set(labels)
    for figure in table.figures:
        assert set(figure.rows) <= set(labels)
        settings = {key for row in table.rows for key in row.recipe}
        assert {figure.x, figure.line} - {None} <= settings


@pytest.mark.parametrize("study", STUDIES, ids=ids)
def test_every_value_says_where_it_stands(study):
    tables = {table.name for table in study.tables}
    assert len(tables) == len(study.tables)
    assert {name for deviation in study.deviations for name in deviation.tables} <= tables
    expected = [e for table in study.tables for row in table.rows for e in row.expected]
    assert all((e.value is None) == (e.source == "not known") or e.unverified for e in expected)
    assert all(e.unverified == ("memory" in e.source) for e in expected)
    keys = [(id(row), e.score.name, e.at) for table in study.tables for row in table.rows for e in row.expected]
    assert len(set(keys)) == len(keys), "one score of one row at one epoch is there twice"


def test_keys_are_those_of_the_papers_and_the_code_bases_have_theirs():
    assert [study.key for study in STUDIES] == list(papers.KEYS)
    assert {papers.study(alias).key for alias in papers.ALIASES} == set(papers.KEYS)
    assert [study.seed.name for study in STUDIES] == list(papers.ALIASES)


def test_what_no_cpu_trains_in_hours_needs_a_gpu():
    needing = {(study.key, table.name) for study, table, row in ROWS if row.needs == GPU}
    assert needing == {("bacho2024", "cifar100-alexnet"), ("nokland2016", "cifar10"), ("nokland2016", "cifar100")}


def test_commands_are_typed_as_a_person_would():
    row = papers.table(papers.study("f3"), "mnist-1").row("F3-Error, ternary")
    assert command(row) == (
        "skipback train mnist --net mlp --activation tanh --optimizer adam --as-published --loss bce --batch-size 50 "
        "--epochs 100 --depth 1 --width 500 --method f3 --lr 0.00015 --signal delayed_error --feedback ternary"
    )


def test_the_trace_of_the_linear_net_is_that_of_the_notebook():
    """The notebook's equations in NumPy, from its own random numbers: M, then the inputs, then B."""
    random = np.random.RandomState(1234)
    M = random.randint(-10, 10, (10, 10)).astype(float)
    x = random.randn(1000, 10).T
    y, B = M @ x, random.randn(1000, 10)
    W1, W2, found = np.zeros((1000, 10)), np.zeros((10, 1000)), {}
    for iteration in range(poli2017.ITERATIONS):
        h = W1 @ x
        e = W2 @ h - y
        cost = 0.5 * (e**2).sum()
        W1, W2 = W1 - 1e-6 * (B @ e) @ x.T, W2 - 1e-6 * e @ h.T
        if iteration % 10 == 1:
            sent, exact = (B @ e).mean(1), (W2.T @ e).mean(1)
            found[iteration] = cost, sent @ exact / np.linalg.norm(sent) / np.linalg.norm(exact)
    assert list(found) == list(poli2017.TRACE)
    for iteration, printed in poli2017.TRACE.items():
        assert found[iteration][0] == pytest.approx(printed[0], rel=1e-8)
        assert found[iteration][1] == pytest.approx(printed[1], abs=6e-5)
    assert np.abs(M - W2 @ W1).sum() == pytest.approx(0.00952818848, rel=1e-9)
    assert cost <= 1e-3
    assert cost == pytest.approx(0.000966203955, rel=1e-8)


def test_the_bottleneck_is_the_published_28_rows():
    table = papers.table(papers.study("launay2019"), "bottleneck")
    assert len(table.rows) == 28
    sizes = [1, 3, 5, 8, 11, 18, 28, 46, 73, 118, 191, 308, 496, 800]
    assert list(launay2019.STANDARD) == list(launay2019.PREALIGNED) == sizes
    values = [e.value for e in table.row("b = 308").expected]
    assert values == [46.8, 81.4, 0.871, 0.641]


@pytest.mark.parametrize(("study", "table"), TABLES, ids=ids)
def test_two_steps_of_every_recipe(study, table, tmp_path):
    """What `skipback reproduce --smoke` does: random rows in the place of data, all else real."""
    for row in table.rows:
        try_out(Job(study, table, row, table.first_seed, tmp_path, Changes()))
    assert not list(tmp_path.iterdir())
