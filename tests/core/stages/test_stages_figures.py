"""The figures of benchmarks/stages.py mean what they say, on times that are known."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    before = sys.path[:]
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("stages")
    sys.path[:] = before


def played(turns, count):
    """Seconds until the last rank has done its last turn: a turn waits for the rank before, and for one's own last."""
    free = [0.0] * len(turns)
    for _ in range(count):
        ready = 0.0
        for rank, turn in enumerate(turns):
            free[rank] = ready = max(free[rank], ready) + turn
    return free[-1]


@pytest.mark.parametrize("turns", [[1, 1], [1, 2, 3], [3, 1, 2], [2, 5, 1, 5]])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_schedule_is_as_long_as_when_it_is_played(bench, turns, count):
    assert bench.scheduled([turn * count for turn in turns], count) == pytest.approx(played(turns, count))


def test_equal_ranks_reach_the_formula_times_the_work(bench):
    one = bench.Spent(6.0, [6.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    copies, spread = bench.Spent(7.0, [6.0] * 3, [0.9, 0.8, 0.9]), bench.Spent(9.0, [2.5] * 3, [0.5] * 3)
    found = bench.by_cpu(4, 3, [(one, copies, spread)])
    assert found["work"] == pytest.approx(6 / 7.5)
    assert found["balance"] == pytest.approx(1)
    assert found["core_share"] == 0.8
    assert found["efficiency_busy"] == pytest.approx(4 / 6 * 6 / 7.5)
    assert found["efficiency_over_copies"] == pytest.approx(7 / 27)
    assert bench.by_wall(4, 3, [(one, copies, spread)])["efficiency"] == pytest.approx(6 / 27)
