"""Feeds: every sample once with its id, the same batches however the rows are stored, and what a trainer learns."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skipback.lab import data, metrics, scoring
from skipback.lab.config import Run
from skipback.lab.data import DataError, prepare
from skipback.lab.data.augment import Augments, Crop, Flip, Resize, ResizedCrop
from skipback.lab.data.base import Dataset, Split, Task
from skipback.lab.data.pipeline import feeds
from skipback.lab.data.pipeline_rows import Mapped, Resident
from skipback.lab.errors import LabError
from skipback.lab.trainer import Trainer

RANDOM = np.random.default_rng(0)
BYTES = torch.from_numpy(RANDOM.integers(0, 256, (53, 3, 8, 8), dtype=np.uint8))
LABELS = torch.arange(53) % 10
AUGMENT = Augments((Crop(padding=2), Flip()))
HERE = torch.device("cpu")


def stream(seed=3):
    return torch.Generator().manual_seed(seed)


def joined(batches):
    batches = list(batches)
    return tuple(torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "t", "ids"))


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", BYTES.numpy())
    return lambda **options: Mapped.open(tmp_path / "x.npy", LABELS, **options)


def test_an_epoch_has_every_sample_once_with_its_id():
    feed = Resident(x=BYTES, t=LABELS)
    batches = list(feed.epoch(8, stream()))
    assert [len(batch) for batch in batches] == [8] * 6 + [5]
    x, t, ids = joined(batches)
    assert torch.equal(ids, torch.randperm(53, generator=stream()))
    assert torch.equal(x, BYTES[ids])
    assert torch.equal(t, LABELS[ids])
    assert x.dtype == torch.uint8


def test_a_generator_gives_another_order_each_epoch():
    generator = stream()
    feed = Resident(x=BYTES, t=LABELS)
    first, second = joined(feed.epoch(8, generator))[2], joined(feed.epoch(8, generator))[2]
    assert not torch.equal(first, second)
    assert sorted(second.tolist()) == list(range(53))


def test_the_last_small_batch_can_be_left_out():
    sizes = [len(batch) for batch in Resident(x=BYTES, t=LABELS, drop_last=True).epoch(8, stream())]
    assert sizes == [8] * 6
    assert [len(b) for b in Resident(x=BYTES[:48], t=LABELS[:48], drop_last=True).epoch(8, stream())] == [8] * 6


def test_augmented_images_do_not_depend_on_the_batch_size():
    feed = Resident(x=BYTES, t=LABELS, augment=AUGMENT)
    small, large = joined(feed.epoch(4, stream())), joined(feed.epoch(50, stream()))
    assert all(map(torch.equal, small, large))
    generator = stream()
    order, u = torch.randperm(53, generator=generator), torch.rand(53, 3, generator=generator)
    assert torch.equal(small[0], AUGMENT(BYTES[order], u))


def test_training_rows_are_augmented_and_no_others():
    ours = feeds(dataset(), prepare.HALF, augment=AUGMENT)
    assert ours.train.augmented
    assert not ours.test.augmented
    plain = [prepare.HALF.fit(BYTES)(x) for x in (BYTES, BYTES // 2)]
    assert not torch.allclose(joined(ours.train.epoch(9, stream()))[0].sort(0)[0], plain[0].sort(0)[0])
    for feed, x in zip((ours.train, ours.test), plain, strict=True):
        for found in (joined(feed.ordered(9))[0], feed.first(100).x, feed.take(torch.arange(53)).x):
            torch.testing.assert_close(found, x)
    torch.testing.assert_close(joined(ours.test.epoch(9, stream()))[0].sort(0)[0], plain[1].sort(0)[0])


def dataset():
    train, test = Split(x=BYTES, t=LABELS), Split(x=BYTES // 2, t=LABELS)
    return Dataset(name="x", task=Task.CLASSIFICATION, outputs=10, train=train, test=test)


@pytest.mark.parametrize("preparation", [prepare.simple(), prepare.channel(), prepare.CIFAR, prepare.Scale()])
def test_pixels_stay_bytes_and_are_normalised_as_they_are_taken(preparation):
    ours = feeds(dataset(), preparation)
    assert ours.train.x.dtype == ours.test.x.dtype == torch.uint8
    theirs = prepare.prepared(dataset(), preparation)
    x, _, ids = joined(ours.train.epoch(9, stream()))
    torch.testing.assert_close(x, theirs.train.x[ids])
    torch.testing.assert_close(ours.test.first(9).x, theirs.test.x[:9])


def test_what_moves_with_the_pixels_is_done_once(tmp_path):
    for preparation in (prepare.image(), prepare.Zca(epsilon=1.0, cache=tmp_path)):
        ours, theirs = feeds(dataset(), preparation), prepare.prepared(dataset(), preparation)
        assert torch.equal(ours.train.x, theirs.train.x)
        assert torch.equal(joined(ours.train.ordered(9))[0], theirs.train.x)


def test_images_can_grow_in_the_batch():
    ours = feeds(dataset(), prepare.HALF, augment=ResizedCrop(size=20), plain=Resize(size=20))
    assert ours.train.x.shape[-1] == 8
    batches = next(ours.train.epoch(9, stream())), ours.train.first(9), next(ours.test.ordered(9))
    assert {tuple(batch.x.shape) for batch in batches} == {(9, 3, 20, 20)}
    torch.testing.assert_close(batches[1].x, prepare.HALF.fit(BYTES)(Resize(size=20)(BYTES[:9])))


def test_a_raw_table_is_scaled_inputs_and_target():
    x, t = torch.rand(40, 3, dtype=torch.float64) * 9, torch.rand(40, 1, dtype=torch.float64) * 300 + 100
    train, test = Split(x=x[:30], t=t[:30]), Split(x=x[30:], t=t[30:])
    raw = Dataset(name="r", task=Task.REGRESSION, outputs=1, train=train, test=test)
    ours = feeds(raw, prepare.columns(), scale_targets=True)
    mean, std = t[:30].mean().item(), t[:30].std().item()
    assert (ours.target_mean, ours.target_std) == (pytest.approx(mean), pytest.approx(std))
    torch.testing.assert_close(ours.test.first(10).t, ((t[30:] - mean) / std).float())
    torch.testing.assert_close(ours.test.first(10).x, ((x[30:] - x[:30].mean(0)) / x[:30].std(0)).float())
    trainer = Trainer(run(method="bp", loss="mse"), ours)
    found = trainer.evaluate(metrics.regression(ours.target_std, ours.target_mean))
    off = (trainer.learner(ours.test.first(10).x).detach() * std + mean - t[30:]).abs()
    assert found["test_mae_original_units"] == pytest.approx(off.mean().item(), rel=1e-5)
    assert found["test_mape_percent"] == pytest.approx((100 * off / t[30:]).mean().item(), rel=1e-5)
    with pytest.raises(DataError, match=r"x: only one target of a regression is scaled, not classification of \(53,\)"):
        feeds(dataset(), scale_targets=True)
    two = [Split(x=split.x, t=split.t.repeat(1, 2)) for split in (train, test)]
    with pytest.raises(DataError, match=r"r: only one target of a regression is scaled, not regression of \(30, 2\)"):
        feeds(dataclasses.replace(raw, train=two[0], test=two[1]), scale_targets=True)


def test_mapped_rows_give_the_same_batches(mapped):
    options = {"augment": AUGMENT, "transform": prepare.channel().fit(BYTES).fused()}
    ours, theirs = mapped(**options), Resident(x=BYTES, t=LABELS, **options)
    ids = torch.tensor([52, 3, 3, 0, 17])
    for a, b in (
        (joined(ours.epoch(9, stream())), joined(theirs.epoch(9, stream()))),
        (joined(ours.ordered(9)), joined(theirs.ordered(9))),
        (joined([ours.take(ids)]), joined([theirs.take(ids)])),
        (joined([ours.first(200)]), joined([theirs.first(200)])),
    ):
        assert all(map(torch.equal, a, b))
    assert ours.first(200).ids.tolist() == joined(ours.ordered(9))[2].tolist() == list(range(53))
    assert isinstance(ours.x, np.memmap)
    assert isinstance(ours.on(HERE, lambda t: t).x, np.memmap)


def test_files_that_cannot_be_mapped_are_named(tmp_path, mapped):
    mapped()
    whole = (tmp_path / "x.npy").read_bytes()
    for content in (b"", whole[:40], whole[:-20], b"<html>", b"\x80\x04K\x01."):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy: (cannot be mapped as an array|expected one array)"):
            mapped()
    np.save(tmp_path / "x.npy", np.array([{"code": 1}] * 53, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be mapped"):
        mapped()
    with pytest.raises(DataError, match=r"cannot be mapped as an array: .*No such file"):
        Mapped.open(tmp_path / "none.npy", LABELS)
    np.save(tmp_path / "x.npy", BYTES[:50].numpy())
    with pytest.raises(DataError, match="expected one array with 53 rows"):
        mapped()


# ------------------------------------------------------------------------------------------------------------- training


def run(**settings):
    return Run(**{"dataset": "digits", "depth": 1, "width": 16, "device": "cpu", "epochs": 1, "loss": "ce", **settings})


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_a_trainer_takes_mapped_rows_to_the_same_bits(tmp_path, loss):
    digits = data.load("digits")
    np.save(tmp_path / "x.npy", digits.train.x.numpy())
    ours = feeds(digits)
    ours = dataclasses.replace(ours, train=Mapped.open(tmp_path / "x.npy", digits.train.t))
    a, b = (Trainer(run(method="f3", loss=loss), d) for d in (digits, ours))
    assert a.epoch() == b.epoch()
    assert a.row(1, None)["alignment"] == b.row(1, None)["alignment"]
    assert all(map(torch.equal, a.learner.parameters(), b.learner.parameters()))


def test_a_trainer_learns_from_bytes_augmented():
    digits = data.load("digits")
    pixels = [Split(x=(s.x * 6 + 5).clamp(0, 16).round().to(torch.uint8), t=s.t) for s in (digits.train, digits.test)]
    raw = Dataset(name="d", task=digits.task, outputs=10, train=pixels[0], test=pixels[1])
    trainer = Trainer(run(method="dfa", width=64, lr=3e-3), feeds(raw, prepare.simple(), augment=Crop(padding=1)))
    losses = [trainer.epoch() for _ in range(4)]
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.evaluate()["test_accuracy_percent"] > 60
    assert trainer.train[0].shape == digits.train.x.shape


def test_losses_are_means_over_samples_not_batches(monkeypatch):
    monkeypatch.setattr(scoring, "EVAL_BATCH", 50)  # 1,437 and 360 rows: the last batch is smaller
    digits = data.load("digits")
    trainer = Trainer(run(method="bp", lr=1e-12), digits)
    with torch.no_grad():
        train, test = (F.cross_entropy(trainer.learner(s.x), s.t).item() for s in (digits.train, digits.test))
    assert trainer.epoch() == pytest.approx(train, rel=1e-6)
    assert trainer.evaluate()["test_loss"] == pytest.approx(test, rel=1e-6)


def test_a_memory_refuses_augmentation_before_it_trains():
    with pytest.raises(LabError, match="'f3' stores one error per sample, which augmentation makes stale"):
        Trainer(run(method="f3"), feeds(data.load("digits"), augment=Flip()))


def test_all_scores_of_a_run(data_root):
    trainer = Trainer(run(method="bp"), data.load("digits"))
    trainer.epoch()
    usual, every = trainer.evaluate(), trainer.evaluate(metrics.classification(10, trainer.loss.link))
    assert usual == {key: every[key] for key in usual}
    assert every["test_f1_micro"] == pytest.approx(usual["test_accuracy_percent"] / 100)
    assert 0.5 < every["test_auroc"] <= 1
    wine = data.load("wine-quality", root=data_root)
    trainer = Trainer(run(dataset="wine-quality", method="bp", loss="mse"), wine)
    usual, every = trainer.evaluate(), trainer.evaluate(metrics.regression(wine.target_std, None))
    assert every["test_mse"] == pytest.approx(usual["test_loss"], rel=1e-6)
    assert usual["test_rmse_original_units"] == pytest.approx(every["test_mse"] ** 0.5 * 0.8781308166, rel=1e-6)
    assert usual["test_mae_original_units"] == every["test_mae_original_units"] <= usual["test_rmse_original_units"]
