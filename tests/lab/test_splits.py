"""Splits: to the row those of scikit-learn and of the code bases, and no duplicate on both sides."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from skipback.lab import data
from skipback.lab.data import DataError, wine_quality
from skipback.lab.data.base import Dataset, Split, Task
from skipback.lab.data.splits import First, Last, Shuffled, Stratified, WithoutDuplicates, groups, hold_out

LABELS = torch.tensor(np.random.default_rng(0).choice([0, 1, 2, 5, 7], 103, p=[0.5, 0.2, 0.15, 0.1, 0.05]))
ROWS = torch.arange(103.0)[:, None]


def theirs(held, seed, labels=None):
    return train_test_split(np.arange(103), test_size=held, random_state=seed, stratify=labels)


@pytest.mark.parametrize("held", [0.2, 0.15, 30])
@pytest.mark.parametrize("seed", range(4))
def test_random_rows_are_scikit_learn_s(held, seed):
    parts = Shuffled(held=held, seed=seed)(ROWS, LABELS)
    for ours, other in zip((parts.kept, parts.held), theirs(held, seed), strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("held", [0.2, 0.33, 30])
@pytest.mark.parametrize("seed", range(10))
def test_stratified_rows_are_scikit_learn_s(held, seed):
    for labels in (LABELS, torch.arange(103) % 4, torch.arange(103) % 7):  # with ties among the remainders
        parts = Stratified(held=held, seed=seed)(ROWS, labels)
        for ours, other in zip((parts.kept, parts.held), theirs(held, seed, labels), strict=True):
            np.testing.assert_array_equal(ours, other)


def test_dfa_torch_validates_on_the_last_rows():
    x = torch.zeros(60_000, 1)
    parts = Last(held=10_000)(x, x)
    assert (parts.kept[0], parts.kept[-1], parts.held[0], parts.held[-1]) == (0, 49_999, 50_000, 59_999)
    parts = First(held=10_000)(x, x)
    assert (parts.held[0], parts.held[-1], parts.kept[0], parts.kept[-1]) == (0, 9_999, 10_000, 59_999)


@settings(max_examples=40, deadline=None)
@given(st.integers(15, 60), st.integers(2, 5), st.integers(0, 99), st.floats(0.3, 0.6))
def test_every_row_is_in_one_part(rows, classes, seed, held):
    assume(math.ceil(held * rows) >= classes)  # what a stratified split needs
    x, t = torch.arange(rows)[:, None] // 2, torch.arange(rows) % classes
    random = Shuffled(held=held, seed=seed)
    splitters = First(held=held), Last(held=held), random, Stratified(held=held, seed=seed), WithoutDuplicates(random)
    for splitter in splitters:
        parts = splitter(x, t)
        assert sorted([*parts.kept.tolist(), *parts.held.tolist()]) == list(range(rows))
        assert abs(len(parts.held) - held * rows) < 3  # less than one pair too many, and one row without its pair


def test_equal_inputs_stay_together_whatever_their_targets():
    x = torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, 2.0], [-0.0, 3.0], [4.0, 4.0], [2.0, 1.0]])
    group, first = groups(x)
    assert group.tolist() == [0, 1, 0, 1, 2, 3]
    assert first.tolist() == [0, 1, 4, 5]
    parts = WithoutDuplicates(Last(held=3))(x, torch.arange(6))
    assert (parts.kept.tolist(), parts.held.tolist()) == ([0, 2], [1, 3, 4, 5])


def test_wine_leaks_319_rows_at_random_and_none_without_duplicates(data_root):
    """Facts of reference/f3-and-fdfa.md 3.1: F3's split, and 1,177 rows that repeat another, grade included."""
    arrays = [wine_quality.parse((data_root / "wine-quality" / f.name).read_bytes(), data_root) for f in FILES]
    train, test = wine_quality.raw_splits(*arrays)
    rows = np.concatenate([np.insert(a, 11, k, axis=1) for k, a in enumerate(arrays)])
    parts = Shuffled(held=0.2, seed=1)(torch.from_numpy(rows), torch.zeros(len(rows)))
    np.testing.assert_array_equal(rows[parts.kept], train)
    np.testing.assert_array_equal(rows[parts.held], test)

    def leaked(parts):
        kept = {row.tobytes() for row in rows[parts.kept]}
        return sum(row.tobytes() in kept for row in rows[parts.held])

    assert len(rows) - len(groups(torch.from_numpy(rows))[1]) == 1177
    assert leaked(parts) == 319
    assert leaked(WithoutDuplicates(Shuffled(held=0.2, seed=1))(torch.from_numpy(rows), torch.zeros(len(rows)))) == 0


FILES = wine_quality.CARD.files


def test_held_out_rows_take_the_place_of_the_test_rows():
    whole = data.load("digits")
    ours = hold_out(whole, Last(held=0.2))
    assert (len(ours.train), len(ours.test), ours.outputs) == (1149, 288, 10)
    assert torch.equal(torch.cat([ours.train.x, ours.test.x]), whole.train.x)
    assert torch.equal(torch.cat([ours.train.t, ours.test.t]), whole.train.t)


def test_no_part_is_ever_empty():
    for held in (0, 0.0, 103, 1.0, 200, -3):
        with pytest.raises(DataError, match=r"cannot hold out .* of 103 rows"):
            Shuffled(held=held, seed=1)(ROWS, LABELS)


def test_what_cannot_be_stratified_is_refused():
    with pytest.raises(DataError, match="needs class labels"):
        Stratified(held=0.2, seed=1)(ROWS, ROWS)
    with pytest.raises(DataError, match=r"two rows of each \(the rarest has 1\)"):
        Stratified(held=0.2, seed=1)(ROWS, (torch.arange(103) == 5).long())
    with pytest.raises(DataError, match=r"at least 5 rows on either side \(100 and 3\)"):
        Stratified(held=3, seed=1)(ROWS, LABELS)


def test_a_regression_set_can_be_held_out():
    split = Split(x=ROWS, t=ROWS)
    ours = hold_out(Dataset(name="lines", task=Task.REGRESSION, outputs=1, train=split, test=split), First(held=3))
    assert ours.test.t.squeeze().tolist() == [0, 1, 2]
