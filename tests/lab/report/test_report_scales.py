"""What a figure shows: no method that failed, no wide interval and no neighbouring name hides the rest."""

import math
import random
from itertools import pairwise

import pytest

from skipback.lab.report.scales import Point, curve, far, spread, view, window


def test_curve_ends_where_a_seed_has_no_finite_value():
    assert curve([{0: 1.0, 1: 3.0, 2: 4.0}, {0: 2.0, 1: math.nan, 2: None}]) == [Point(0, 1.5, 1.0, 2.0)]


def points(start, final, epochs=20):
    values = [start + (final - start) * (1 - math.exp(-epoch)) for epoch in range(epochs + 1)]
    return [Point(epoch, value, value, value) for epoch, value in enumerate(values)]


def test_window_leaves_out_the_steep_start():
    low, high = window([points(10, 97), points(10, 95)], 1)
    assert 85 < low < 95
    assert 97 < high < 98
    assert window([points(10, 97)], 1)[0] > 70


def test_window_of_an_error_is_the_other_way_up():
    low, high = window([points(1.0, 0.58), points(1.0, 0.65)], -1)
    assert 0.57 < low < 0.58
    assert 0.65 < high < 0.8


def test_window_of_a_flat_line_has_some_height():
    low, high = window([[Point(0, 5.0, 5.0, 5.0)]], 1)
    assert low < 5 < high


def test_far_is_who_learned_almost_nothing():
    assert far({"bp": points(10, 97), "shallow": points(10, 90), "fg": points(10, 15)}, 1) == {"fg"}
    assert far({"bp": points(1, 0.58), "drtp": points(1, 0.66), "bad": points(1, 3)}, -1) == {"bad"}
    assert far({"only": points(10, 97)[-1:]}, 1) == set()


def test_where_nothing_was_learned_the_best_is_in_view():
    assert far({"dfa": points(10, 9)}, 1) == set()  # the only arm, and it ends below its start
    assert far({"bp": points(10, 9), "dfa": points(12, 4)}, 1) == set()
    assert far({"bp": points(1, 1.2), "dfa": points(1, 1e30)}, -1) == {"dfa"}
    assert far({"bp": points(1, 1e20), "dfa": points(1, 1e30)}, -1) == {"dfa"}


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_names_apart_and_in_order(seed):
    places = sorted(random.Random(seed).uniform(-0.2, 1.2) for _ in range(9))
    found = spread(places, gap=0.1)
    assert all(b - a > 0.1 - 1e-12 for a, b in pairwise(found))
    assert min(found) >= 0
    assert max(found) <= 1 + 1e-12


def test_spread_leaves_alone_what_is_apart():
    assert spread([0.1, 0.5, 0.9], gap=0.1) == pytest.approx([0.1, 0.5, 0.9])


def test_view_does_not_let_a_huge_interval_take_over():
    low, high = view([[95.9, 96.4], [97.5, 97.6]])  # the half interval of the first is 3.2
    assert 94 < low < 95.9
    assert 97.6 < high < 99.5
