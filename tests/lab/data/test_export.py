"""A data set as one file: the rows of the official files, to the bit, and never over another file."""

import csv

import numpy as np
import pytest

from skipback.lab import data
from skipback.lab.cli import main


def test_the_arrays_are_the_official_rows(tmp_path, capsys):
    assert main(["data", "export", "Digits", str(tmp_path / "digits.npz")]) == 0
    assert "X_train (1437, 1, 8, 8)" in capsys.readouterr().out
    rows = data.raw("digits")
    with np.load(tmp_path / "digits.npz") as found:
        assert set(found) == {"X_train", "y_train", "X_test", "y_test"}
        np.testing.assert_array_equal(found["X_train"], rows.train.x.numpy())
        np.testing.assert_array_equal(found["y_test"], rows.test.t.numpy())
        assert found["X_test"].dtype == np.uint8


def test_a_table_has_a_row_for_each_sample(tmp_path, capsys):
    assert main(["data", "export", "linear-map", str(tmp_path / "map.csv")]) == 0
    rows = data.raw("linear-map")
    with (tmp_path / "map.csv").open() as file:
        head, *lines = csv.reader(file)
    assert head == ["split", *[f"x{k}" for k in range(10)], *[f"y{k}" for k in range(10)]]
    assert len(lines) == len(rows.train) + len(rows.test)
    train = np.array([[float(v) for v in line[1:]] for line in lines if line[0] == "train"])
    np.testing.assert_array_equal(train[:, :10].astype(np.float32), rows.train.x.numpy().astype(np.float32))
    np.testing.assert_array_equal(train[:, 10:].astype(np.float32), rows.train.t.numpy().astype(np.float32))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits"], "write skipback data export NAME FILE.npz, or FILE.csv"),
        (["digits", "d.txt"], "d.txt: a data set is written as FILE.npz or FILE.csv"),
        (["digits", "there.npz"], "there.npz is there already: choose another name"),
        (["digitz", "d.npz"], "unknown data set 'digitz'; did you mean 'digits'?"),
        (["tiny-shakespeare", "t.csv"], "tiny-shakespeare has no rows for a .csv: write it as t.npz"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").write_text("mine")
    assert main(["data", "export", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert (tmp_path / "there.npz").read_text() == "mine"
