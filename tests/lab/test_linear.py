"""The linear-net notebook: its trace to the printed digits, the criteria of the theorem against NumPy, the figure."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import skipback as sb
from skipback.lab import data, linear, notebook
from skipback.lab.errors import LabError
from skipback.lab.records import Folder, read_jsonl

COSTS = {1: 1637494.94138, 11: 892520.567695, 21: 121899.748981, 101: 168.315018756, 451: 0.00136595841628}
COSINES = {1: 0.892324676656, 11: 0.90507314825, 21: 0.869021030984, 101: 0.512413657815, 451: 0.849679952515}


@pytest.fixture(scope="module")
def found():
    return linear.trace()


def test_the_trace_is_the_one_that_was_printed(found):
    points = {point.iteration: point for point in found.points}
    assert list(points) == list(range(1, 461, 10))
    assert {k: points[k].cost for k in COSTS} == {k: pytest.approx(cost, rel=1e-9) for k, cost in COSTS.items()}
    assert {k: points[k].cosine for k in COSINES} == {k: pytest.approx(c, rel=1e-9) for k, c in COSINES.items()}
    assert found.stop == 460
    assert found.cost <= linear.TOLERANCE < found.points[-1].cost
    assert found.distance == pytest.approx(0.00952818848, abs=1e-11)


def test_the_criteria_are_those_of_the_theorem():
    """L_k and L_{k+1} after 12 updates, from the equations."""
    (_, point) = linear.trace(most=12).points
    M, x, B = (part.numpy() for part in linear.problem())
    W1, W2 = np.zeros((1000, 10)), np.zeros((10, 1000))
    for _ in range(12):
        e = x @ (W2 @ W1).T - x @ M.T
        W1, W2 = W1 - 1e-6 * (B.T @ (e.T @ x)), W2 - 1e-6 * (e.T @ x @ W1.T)
    mean = e.mean(0)
    dh, c = mean @ B, W2.T @ mean
    assert point.iteration == 11
    assert point.criterion == pytest.approx(dh @ c / np.linalg.norm(dh), rel=1e-9)
    assert point.next_criterion == pytest.approx(mean @ (W2 @ dh) / np.linalg.norm(mean), rel=1e-9)
    assert point.criterion == pytest.approx(np.linalg.norm(c) * point.cosine, rel=1e-9)
    assert point.degrees == pytest.approx(np.degrees(np.arccos(point.cosine)), rel=1e-9)


def test_both_criteria_are_positive_throughout(found):
    """What the theorem promises, though the directions are not constant here."""
    assert all(point.criterion > 0 and point.next_criterion > 0 for point in found.points)
    assert max(point.degrees for point in found.points) < 60


def test_the_data_set_of_that_name_has_the_same_samples():
    M, x, _ = linear.problem()
    rows = data.raw("linear-map").train
    assert torch.equal(rows.x, x.float())
    torch.testing.assert_close(rows.t, (x @ M.T).float())


def test_a_measurement_is_that_of_alignment():
    """`batch_cosine`, where error and weights are from one moment."""
    M, x, B = linear.problem()
    net = linear.linear((10,), 10, width=1000).double()
    learner = sb.attach(net, sb.dfa(feedback=linear.Fixed(linear.Given(B))), x, show=None)
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-6)
    for _ in range(5):
        linear._update(learner, optimizer, x, x @ M.T)
    e = (learner(x) - x @ M.T).detach()
    (one,) = sb.alignment(learner, x, x @ M.T, lambda y, t: 0.5 * (y - t).square().sum())
    assert linear._point(5, 0.0, e.mean(0), learner).cosine == pytest.approx(one.batch_cosine, rel=1e-9)


def test_the_figure_and_the_page_show_the_trace(found):
    assert linear.figure(found)[:8] == b"\x89PNG\r\n\x1a\n"
    assert linear.figure(found) == linear.figure(found)
    page = (Path(__file__).parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")
    rows = {int(k): (float(cost), float(c)) for k, cost, c in re.findall(r"\| (\d+) \| ([\d.]+) \| ([\d.]+) \|", page)}
    assert rows == {k: (COSTS[k], COSINES[k]) for k in COSTS}


def test_a_run_of_the_notebook_is_kept_and_not_made_again(tmp_path):
    folder = Folder(tmp_path / "seed1")
    summary = notebook.run(notebook.Notebook(most=12), folder, command="as typed")
    lines = read_jsonl(folder.path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 11, 11]
    assert [line["train_loss"] for line in lines] == [pytest.approx(COSTS[k], rel=1e-9) for k in (1, 11, 11)]
    assert summary["distance"] == lines[-1]["distance"]
    assert (folder.path / "figure.png").read_bytes().startswith(b"\x89PNG")
    written = (folder.path / "summary.json").stat().st_mtime_ns
    assert notebook.run(notebook.Notebook(most=12), folder, command="again") == summary
    assert (folder.path / "summary.json").stat().st_mtime_ns == written
    with pytest.raises(LabError, match="holds another run"):
        notebook.run(notebook.Notebook(most=13), folder, command="another")
