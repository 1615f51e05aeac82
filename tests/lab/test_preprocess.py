"""Every preparation against NumPy, with statistics of the training rows alone."""

import numpy as np
import pytest
import torch

from skipback.lab import data
from skipback.lab.data import DataError, digits, images, prepare
from skipback.lab.data.base import Dataset, Split, Task
from skipback.lab.data.prepare import whiten

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 200, (50, 3, 4, 5), dtype=np.uint8)
TEST = RANDOM.integers(0, 256, (20, 3, 4, 5), dtype=np.uint8)
TRAIN[:, :, 0, 0] = 7  # as the corners of MNIST: never lit in training ...
TEST[3, :, 0, 0] = 9  # ... but once in the test rows


def close(ours, theirs, rtol=1e-5, atol=1e-5):
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=rtol, atol=atol)


def standardised(train, test, axes, ddof):
    train, test = train.astype(np.float64), test.astype(np.float64)
    std = train.std(axes, ddof=ddof, keepdims=True)
    return (test - train.mean(axes, keepdims=True)) / np.where(std == 0, 1, std)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(
    ("build", "axes"), [(prepare.simple, (0, 1, 2, 3)), (prepare.channel, (0, 2, 3)), (prepare.image, (0,))]
)
def test_pixels_are_standardised(build, axes, ddof, monkeypatch):
    monkeypatch.setattr("skipback.lab.data.prepare.affine.CHUNK", 7)  # 50 rows: the last chunk is short
    ours = build(ddof).fit(torch.from_numpy(TRAIN))(torch.from_numpy(TEST))
    close(ours, standardised(TRAIN, TEST, axes, ddof))


def test_deviations_tell_n_from_n_minus_1():
    x = torch.tensor([[0.0], [2.0]])
    assert prepare.columns(0).fit(x).std.item() == 1
    assert prepare.columns(1).fit(x).std.item() == pytest.approx(2**0.5)


def test_tables_are_standardised_per_column():
    table = RANDOM.normal(5, 3, (47, 6))
    table[:, 2] = 0.1  # 47 times 0.1 divided by 47 is not 0.1: still constant, still divided by 1
    transform = prepare.columns().fit(torch.from_numpy(table))
    assert transform.std[0, 2] == 1
    theirs = standardised(table, table, (0,), 1)
    theirs[:, 2] = 0  # NumPy itself makes 1 of it
    close(transform(torch.from_numpy(table)), theirs)


def test_large_numbers_keep_their_differences():
    table = torch.tensor([[1e9], [1e9 + 1], [1e9 + 2]], dtype=torch.float64)  # float32 cannot tell these apart
    for rows in (table, table.long()):
        assert prepare.columns().fit(rows)(rows).squeeze().tolist() == [-1, 0, 1]


def test_scale_has_the_training_extremes():
    train = TRAIN // 2 + 30
    ours = prepare.Scale().fit(torch.from_numpy(train))(torch.from_numpy(TEST))
    close(ours, (TEST - 30.0) / (train.max() - 30.0))
    assert ours.max() > 1


@pytest.mark.parametrize(
    ("constants", "mean", "std"),
    [
        (prepare.HALF, 0.5, 0.5),
        (prepare.CIFAR, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        (prepare.CIFAR10, np.array([125.3, 123.0, 113.9]) / 255, np.array([63.0, 62.1, 66.7]) / 255),
        (prepare.IMAGENET, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ],
)
def test_stored_constants_are_of_pixels_over_255(constants, mean, std):
    mean, std = (np.reshape(v, (1, -1, 1, 1)) for v in (mean, std))
    close(constants.fit(torch.from_numpy(TRAIN))(torch.from_numpy(TEST)), (TEST / 255 - mean) / std)


def test_mnist_s_constants_are_its_statistics():
    grey = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    close(prepare.MNIST.fit(grey)(grey), np.array([[[[-0.1307 / 0.3081, (1 - 0.1307) / 0.3081]]]]))


def test_the_fused_form_is_the_same_map():
    x = torch.from_numpy(TEST)
    for preparation in (prepare.channel(), prepare.image(), prepare.HALF, prepare.Scale()):
        transform = preparation.fit(torch.from_numpy(TRAIN))
        close(transform.fused()(x), transform(x).numpy(), atol=2e-6)
        as_floats = x.float()
        close(transform.fused()(as_floats), transform(x).numpy(), atol=2e-6)
        assert torch.equal(as_floats, x.float())


def test_what_maps_a_channel_alike_is_uniform():
    x, table = torch.from_numpy(TRAIN), torch.rand(9, 4)
    for preparation, rows, uniform in (
        (prepare.simple(), x, True),
        (prepare.channel(), x, True),
        (prepare.CIFAR, x, True),
        (prepare.Scale(), x, True),
        (prepare.image(), x, False),
        (prepare.columns(), table, False),
        (prepare.simple(), table, True),
    ):
        assert preparation.fit(rows).uniform is uniform


def test_simple_is_what_the_readers_do_to_the_bit():
    rows = digits.parse(digits.CARRIED.read_bytes(), digits.CARRIED)
    x = torch.from_numpy(rows[:, :64].reshape(-1, 1, 8, 8))
    transform = prepare.simple(ddof=0).fit(x[: digits.TRAIN])
    assert torch.equal(transform(x[: digits.TRAIN]), data.load("digits").train.x)
    assert transform.std.item() == pytest.approx(images.pixel_statistics(rows[: digits.TRAIN, :64])[1], rel=1e-14)


def test_yuv_is_torch7_s():
    x = torch.from_numpy(TEST)
    r, g, b = (TEST[:, k].astype(np.float64) for k in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u = -0.14713 * r - 0.28886 * g + 0.436 * b
    v = 0.615 * r - 0.51499 * g - 0.10001 * b
    close(prepare.Yuv().fit(x)(x), np.stack([y, u, v], 1), atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- whitening


def zca(train, test, epsilon):
    train, test = (a.reshape(len(a), -1).astype(np.float64) for a in (train, test))
    values, V = np.linalg.eigh(np.cov(train, rowvar=False))
    return (test - train.mean(0)) @ V @ np.diag((values + epsilon) ** -0.5) @ V.T


@pytest.mark.parametrize("epsilon", [0.1, 100.0])
def test_whitening_is_zca(tmp_path, monkeypatch, epsilon):
    monkeypatch.setattr(whiten, "CHUNK", 16)
    train = RANDOM.integers(0, 256, (200, 3, 3, 2), dtype=np.uint8)
    transform = prepare.Zca(epsilon=epsilon, cache=tmp_path).fit(torch.from_numpy(train))
    ours = transform(torch.from_numpy(TEST[:, :, :3, :2].copy()))
    assert ours.shape == (20, 3, 3, 2)
    close(ours.flatten(1), zca(train, TEST[:, :, :3, :2], epsilon), rtol=1e-4, atol=1e-4)
    if epsilon < 1:
        white = transform(torch.from_numpy(train)).flatten(1).numpy()
        np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(18), atol=2e-3)
    assert torch.equal(transform.P, transform.P.T.contiguous())


def test_whitening_is_cached_by_content(tmp_path, monkeypatch):
    x = torch.from_numpy(TRAIN)
    fitted = prepare.Zca(epsilon=1.0, cache=tmp_path).fit(x)
    calls = []
    monkeypatch.setattr(whiten, "whitening", lambda *a: calls.append(a) or fitted)
    again = prepare.Zca(epsilon=1.0, cache=tmp_path).fit(x.clone())
    assert not calls
    assert torch.equal(again.P, fitted.P)
    assert torch.equal(again.mean, fitted.mean)
    other = x.clone()
    other[0, 0, 0, 0] += 1
    for preparation, rows in (
        (prepare.Zca(epsilon=1.0, cache=tmp_path), other),
        (prepare.Zca(epsilon=1.0, cache=tmp_path), x[:-1]),  # the same set without its validation rows
        (prepare.Zca(epsilon=1.0, cache=tmp_path), x.view(torch.int8)),  # the same bytes, other numbers
        (prepare.Zca(epsilon=1.5, cache=tmp_path), x),
    ):
        preparation.fit(rows)
    assert len(calls) == 4
    assert len(list(tmp_path.iterdir())) == 5


def test_a_damaged_cache_entry_is_fitted_again(tmp_path):
    x = torch.from_numpy(TRAIN)
    preparation = prepare.Zca(epsilon=1.0, cache=tmp_path)
    whole = preparation.fit(x).P
    [entry] = tmp_path.iterdir()
    for damaged in (b"", entry.read_bytes()[:-9], b"not safetensors at all"):
        entry.write_bytes(damaged)
        assert torch.equal(preparation.fit(x).P, whole)


def test_whitening_needs_an_epsilon_and_rows(tmp_path):
    for epsilon in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="epsilon above zero"):
            prepare.Zca(epsilon=epsilon, cache=tmp_path).fit(torch.from_numpy(TRAIN))
    for rows in (torch.ones(1, 3), torch.full((4, 3), float("nan"))):
        with pytest.raises(DataError, match="at least two training rows, of finite numbers"):
            prepare.Zca(epsilon=1.0, cache=tmp_path).fit(rows)


# ------------------------------------------------------------------------------------------------- chains and data sets


def test_a_chain_fits_each_step_on_what_comes_before():
    train, test = torch.from_numpy(TRAIN), torch.from_numpy(TEST)
    ours = prepare.Compose((prepare.Yuv(), prepare.channel())).fit(train)(test)
    yuv = prepare.Yuv()
    close(ours, standardised(yuv(train).numpy(), yuv(test).numpy(), (0, 2, 3), 1), atol=1e-4)


def test_chunks_keep_the_order_of_the_rows():
    x = torch.from_numpy(TRAIN)
    assert torch.equal(prepare.in_chunks(lambda part: part.float() + 1, x, rows=8), x.float() + 1)


def test_nothing_is_learned_from_test_rows():
    def ours(test):
        train = Split(x=torch.from_numpy(TRAIN), t=torch.zeros(50, dtype=torch.int64))
        test = Split(x=test, t=torch.zeros(len(test), dtype=torch.int64))
        task = Task.CLASSIFICATION
        return prepare.prepared(Dataset(name="x", task=task, outputs=2, train=train, test=test), prepare.image())

    a, b = ours(torch.from_numpy(TEST)), ours(torch.from_numpy(255 - TEST))
    assert torch.equal(a.train.x, b.train.x)
    close(a.test.x, standardised(TRAIN, TEST, (0,), 1))
    close(b.test.x, standardised(TRAIN, 255 - TEST, (0,), 1))


@pytest.mark.parametrize("preparation", [prepare.simple(), prepare.Scale()])
def test_rows_that_are_not_numbers_are_refused(preparation):
    with pytest.raises(DataError, match=r"not finite numbers|between nan and nan"):
        preparation.fit(torch.tensor([[1.0, float("nan")], [2.0, 3.0]]))


def test_what_does_not_fit_is_refused():
    x = torch.from_numpy(TRAIN)
    with pytest.raises(DataError, match=r"constants for 3 channels, but the images have shape \(2, 4, 5\)"):
        prepare.CIFAR.fit(x[:, :2])
    with pytest.raises(DataError, match="YUV needs images of 3 channels"):
        prepare.Yuv().fit(x[:, :2])
    with pytest.raises(DataError, match=r"dimension \(0,\) of rows that have shape \(\)"):
        prepare.channel().fit(torch.zeros(3))
    with pytest.raises(DataError, match="1 training rows are too few"):
        prepare.columns().fit(torch.zeros(1, 3))
    with pytest.raises(DataError, match=r"cannot scale training rows between 3.0 and 3.0"):
        prepare.Scale().fit(torch.full((4, 2), 3))


# ----------------------------------------------------------------------------------------------- targets and categories


def test_targets_go_to_deviations_and_back():
    t = RANDOM.normal(200, 30, (60, 2))
    scale = prepare.TargetScale.fit(torch.from_numpy(t))
    z = scale(torch.from_numpy(t))
    close(z, (t - t.mean(0)) / t.std(0, ddof=1))
    np.testing.assert_allclose(scale.back(z).numpy(), t, rtol=1e-6)
    assert scale.mean.shape == scale.std.shape == (2,)


def test_wine_grades_are_f3_s(data_root):
    """F3's stored mean 5.825476236 and deviation 0.8781308166 of the training grades."""
    wine = data.wine_quality
    arrays = [wine.parse((data_root / "wine-quality" / f.name).read_bytes(), data_root) for f in wine.CARD.files]
    train, _ = wine.raw_splits(*arrays)
    scale = prepare.TargetScale.fit(torch.from_numpy(train[:, -1:]))
    assert scale.mean.item() == pytest.approx(5.825476236, abs=1e-8)
    assert scale.std.item() == pytest.approx(0.8781308166, abs=1e-8)
    inputs = prepare.columns().fit(torch.from_numpy(train[:, :-1]))
    torch.testing.assert_close(
        inputs(torch.from_numpy(train[:, :-1])), data.load("wine-quality").train.x, rtol=1e-6, atol=0
    )


WORDS = np.array([["Peru", "m"], ["Cuba", "f"], ["Peru", "m"], ["Iran", "f"]])


def test_a_word_has_one_code_in_every_split():
    codes = prepare.Categories().fit(WORDS)
    assert codes.words == (("Cuba", "Iran", "Peru"), ("f", "m"))
    assert codes(WORDS).tolist() == [[2, 1], [0, 0], [2, 1], [1, 0]]
    test = np.array([["Peru", "f"], ["Atlantis", "m"], ["Zaire", "f"]])
    assert codes(test).tolist() == [[2, 0], [3, 1], [3, 0]]  # coded by itself, Peru would be 1
    assert codes.one_hot(test).tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]
    close(
        prepare.columns().fit(codes(WORDS))(codes(test)), standardised(codes(WORDS).numpy(), codes(test).numpy(), 0, 1)
    )


def test_a_table_of_another_width_is_refused():
    with pytest.raises(DataError, match=r"shape \(4, 1\), but words are known for 2 columns"):
        prepare.Categories().fit(WORDS)(WORDS[:, :1])
