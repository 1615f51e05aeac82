"""What a run trains on: as its flags say, fitted on the rows that train, and refused where the rows do not fit."""

import json

import numpy as np
import pytest
import torch

from skipback.lab import choices, data, inputs
from skipback.lab.cli import main
from skipback.lab.config import OPTIONS, Run
from skipback.lab.data import Dataset, Split, Task, augment, prepare, splits
from skipback.lab.data.pipeline import Feeds
from skipback.lab.errors import LabError
from skipback.lab.report.arms import sections
from skipback.lab.report.reading import read_run
from skipback.lab.report.words import summary
from skipback.lab.trainer import Trainer

FAST = ["--epochs", "2", "--width", "16", "--device", "cpu"]


def rows(n, *shape, seed=0):
    """Random pixels with the class, where a part of them is brighter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
    return Split(x=x, t=torch.arange(n) % 10)


@pytest.fixture
def pictures(monkeypatch):
    """Random pictures in place of CIFAR-10."""
    made = Dataset(
        name="cifar10",
        task=Task.CLASSIFICATION,
        outputs=10,
        train=rows(40, 3, 32, 32),
        test=rows(20, 3, 32, 32, seed=1),
    )
    monkeypatch.setattr(data, "raw", lambda name, *, task: made)
    return made


@pytest.fixture
def wine(monkeypatch):
    """A raw table in place of the wines: values 3 to 9, of which the first half is the smaller one."""
    t = torch.linspace(3, 9, 30, dtype=torch.float64)[:, None]
    split = Split(x=torch.rand(30, 12, dtype=torch.float64) * 100, t=t)
    made = Dataset(name="wine-quality", task=Task.REGRESSION, outputs=1, train=split, test=split)
    monkeypatch.setattr(data, "raw", lambda name, *, task: made)
    return made


def test_a_plain_run_gets_what_it_always_got():
    found, usual = inputs.inputs(Run()), data.load("digits")
    assert isinstance(found, Dataset)
    assert all(torch.equal(getattr(found.train, part), getattr(usual.train, part)) for part in ("x", "t"))
    assert torch.equal(found.test.x, usual.test.x)


# --------------------------------------------------------------------------------------------------- validation


def test_held_out_rows_are_standardised_by_those_that_train():
    raw, found = data.raw("digits").train, inputs.inputs(Run(validation="last", held_out=137))
    kept = raw.x[:1300].double()
    standard = (raw.x.double() - kept.mean()) / kept.std(correction=0)
    assert torch.equal(found.train.t, raw.t[:1300])
    assert torch.equal(found.test.t, raw.t[1300:])
    torch.testing.assert_close(found.train.x, standard[:1300].float())
    torch.testing.assert_close(found.test.x, standard[1300:].float())


def test_a_table_keeps_its_unit_when_rows_are_held_out(wine):
    found = inputs.inputs(Run(dataset="wine-quality", loss="mse", validation="first", held_out=0.5))
    kept = wine.train.t[15:]
    assert (found.target_std, found.target_mean) == (
        pytest.approx(kept.std().item()),
        pytest.approx(kept.mean().item()),
    )
    torch.testing.assert_close(found.test.t * found.target_std + found.target_mean, wine.train.t[:15].float())


def test_splitters_of_names():
    make = {"held": 0.25, "seed": 3, "distinct": False}
    assert choices.splitter("first", **make) == splits.First(held=0.25)
    assert choices.splitter("last", **make) == splits.Last(held=0.25)
    assert choices.splitter("random", **make) == splits.Shuffled(held=0.25, seed=3)
    assert choices.splitter("stratified", **make) == splits.Stratified(held=0.25, seed=3)
    distinct = choices.splitter("last", held=7, seed=1, distinct=True)
    assert distinct == splits.WithoutDuplicates(splits.Last(held=7))


# ------------------------------------------------------------------------------------------------------- prepare


def test_preparations_of_names():
    made = {name: choices.preparation(name, epsilon=0.5) for name in choices.PREPARATIONS}
    assert made == {
        "none": prepare.AsTheyAre(),
        "scale": prepare.Scale(),
        "simple": prepare.simple(),
        "columns": prepare.columns(),
        "channel": prepare.channel(),
        "image": prepare.image(),
        "half": prepare.HALF,
        "mnist": prepare.MNIST,
        "cifar10": prepare.CIFAR10,
        "cifar": prepare.CIFAR,
        "imagenet": prepare.IMAGENET,
        "yuv": prepare.Compose((prepare.Yuv(), prepare.channel())),
        "zca": prepare.Compose((prepare.Scale(), prepare.Zca(epsilon=0.5))),
    }


@pytest.mark.parametrize(
    "name", [n for n, kind in choices.PREPARATIONS.items() if n not in ("zca", "none") and kind != "tables"]
)
def test_every_preparation_of_images_trains(pictures, name):
    run = Run(dataset="cifar10", prepare=name, width=8, device="cpu")
    found = inputs.inputs(run)
    x = found.train.first(40).x
    wanted = prepare.prepared(pictures, choices.preparation(name, epsilon=0.1))
    torch.testing.assert_close(x, wanted.train.x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.test.first(20).x, wanted.test.x, atol=1e-5, rtol=1e-5)
    assert Trainer(run, found).epoch() > 0


WHITENED = pytest.param("yuv+zca", marks=pytest.mark.slow)  # of 3072 pixels: 15 seconds; test_preprocess has Zca itself


@pytest.mark.parametrize("chain", ["yuv+scale", "yuv+simple", "yuv+image", WHITENED])
def test_a_chain_of_preparations_is_fitted_step_by_step(pictures, chain, monkeypatch, tmp_path):
    """dfa-torch combines a colour format and any normalisation freely. Against NumPy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    epsilon = {"zca_epsilon": 0.01} if chain.endswith("zca") else {}
    found = inputs.inputs(Run(dataset="cifar10", prepare=chain.upper(), **epsilon)).train.first(40).x.double().numpy()
    matrix = np.array(((0.299, 0.587, 0.114), (-0.14713, -0.28886, 0.436), (0.615, -0.51499, -0.10001)))
    yuv = np.einsum("dc,nchw->ndhw", matrix, pictures.train.x.double().numpy())
    unit = (yuv - yuv.min()) / (yuv.max() - yuv.min())
    flat = unit.reshape(40, -1) - unit.reshape(40, -1).mean(0)
    wanted = {
        "yuv+scale": lambda: unit,
        "yuv+simple": lambda: (yuv - yuv.mean()) / yuv.std(ddof=1),
        "yuv+image": lambda: (yuv - yuv.mean(0)) / yuv.std(0, ddof=1),
        "yuv+zca": lambda: whitened(flat, 0.01).reshape(yuv.shape),
    }[chain]()
    np.testing.assert_allclose(found, wanted, atol=2e-3, rtol=1e-3)


def whitened(flat, epsilon):
    values, V = np.linalg.eigh(flat.T @ flat / (len(flat) - 1))
    return flat @ (V / np.sqrt(np.maximum(values, 0) + epsilon)) @ V.T


def test_none_leaves_the_numbers_of_the_files(pictures):
    found = inputs.inputs(Run(dataset="cifar10", prepare="none"))
    assert torch.equal(found.train.first(40).x, pictures.train.x.float())
    assert torch.equal(found.test.first(20).x, pictures.test.x.float())


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ("none+zca", "none is the whole chain or no part of it"),
        ("yuv+yuv", "yuv is there twice"),
        ("yuv+zka", "unknown prepare 'zka'; did you mean 'zca'"),
    ],
)
def test_preparations_that_do_not_go_together(chain, said):
    with pytest.raises(ValueError, match=said):
        Run(prepare=chain)


def test_whitening_is_of_pixels_between_0_and_1(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = inputs.inputs(Run(prepare="zca", zca_epsilon=0.01)).train.first(2000).x.flatten(1).double()
    pixels = data.raw("digits").train.x.flatten(1).double() / 16
    values, V = torch.linalg.eigh(pixels.T.cov())
    wanted = (pixels - pixels.mean(0)) @ (V * (values + 0.01).rsqrt()) @ V.T
    torch.testing.assert_close(x, wanted, atol=1e-4, rtol=1e-4)


def test_a_preparation_is_fitted_on_the_rows_that_train():
    scaled = inputs.inputs(Run(prepare="simple", validation="first", held_out=0.5)).train.first(2000).x
    assert scaled.mean().abs() < 1e-5
    assert scaled.std() == pytest.approx(1, abs=1e-4)


def test_one_target_is_scaled_with_the_rows_and_several_are_left(wine, monkeypatch):
    found = inputs.inputs(Run(dataset="wine-quality", loss="mse", prepare="columns"))
    assert found.target_std == pytest.approx(wine.train.t.std().item())
    assert found.train.first(30).t.mean().abs() < 1e-6
    monkeypatch.undo()
    several = inputs.inputs(Run(dataset="linear-map", loss="mse", prepare="columns"))
    assert torch.equal(several.train.first(1000).t, data.raw("linear-map").train.t)
    assert several.target_std == 1


# ------------------------------------------------------------------------------------------------------- augment


@pytest.mark.parametrize("name", choices.AUGMENTS)
def test_training_images_are_augmented_and_no_others(pictures, name):
    found = inputs.inputs(Run(dataset="cifar10", augment=name))
    assert isinstance(found, Feeds)
    usual, resize = data.standard("cifar10", pictures), augment.Resize()
    for feed, split in ((found.train, usual.train), (found.test, usual.test)):
        wanted = resize(split.x) if name == "resized-crop" else split.x
        torch.testing.assert_close(feed.first(100).x, wanted, atol=5e-6, rtol=5e-6)  # N - 1 would show
    assert (found.train.augmented, found.test.augmented) == (True, False)
    (batch,) = found.train.epoch(40, torch.Generator().manual_seed(1))
    shown = found.train.first(40).x.index_select(0, batch.ids)
    assert batch.x.shape == shown.shape
    assert not torch.allclose(batch.x, shown)


@pytest.mark.parametrize("name", choices.AUGMENTS)
def test_the_least_image_is_never_lost(name):
    chosen, generator = choices.augmentation(name), torch.Generator().manual_seed(1)

    def shown(side):
        x = torch.rand(2000, 1, side, side, generator=generator) + 1
        y = chosen.augment(x, torch.rand(len(x), chosen.augment.numbers, generator=generator))
        return y.isfinite().all() and y.flatten(1).any(1).all()

    assert shown(chosen.least)
    if name in ("crop-flip", "cutout"):
        assert not shown(chosen.least - 1)


def test_an_image_of_the_least_side_is_taken(monkeypatch):
    monkeypatch.setitem(choices.AUGMENTS, "flip", (("Flip",), 8))
    assert inputs.inputs(Run(augment="flip")).train.augmented
    monkeypatch.setitem(choices.AUGMENTS, "flip", (("Flip",), 9))
    with pytest.raises(LabError, match="needs images of 9 x 9 or more"):
        inputs.inputs(Run(augment="flip"))


def test_a_crop_shows_black_and_a_square_covers_with_the_mean(pictures):
    def least(name):
        (batch,) = inputs.inputs(Run(dataset="cifar10", augment=name)).train.epoch(40, torch.Generator().manual_seed(1))
        return batch.x[:, 0]

    red = pictures.train.x[:, 0].double()
    black = -(red.mean() / red.std(correction=0)).item()
    edge = least("crop-flip")[:, 0]  # the first row of most images is outside
    assert (edge - black).abs().lt(1e-4).float().mean() > 0.3
    covered = least("cutout")
    assert (covered == 0).flatten(1).any(1).all()
    assert (covered - black).abs().lt(1e-4).float().mean() < 0.02


def test_a_chain_of_augmentations_is_one_after_the_other(pictures):
    """FDFA's AlexNet: a mirror image or not, then a window scaled to 224."""
    chosen = choices.augmentation("flip+resized-crop")
    assert chosen.augment == augment.Augments((augment.Flip(), augment.ResizedCrop()))
    assert chosen.plain == augment.Resize()
    found = inputs.inputs(Run(dataset="cifar10", augment="Flip+Resized-Crop"))
    assert found.train.first(2).x.shape == found.test.first(2).x.shape == (2, 3, 224, 224)
    x, u = torch.rand(6, 3, 32, 32), torch.rand(6, chosen.augment.numbers)
    mirrored = torch.where(u[:, :1, None, None] < 0.5, x.flip(-1), x)
    assert torch.equal(chosen.augment(x, u), augment.ResizedCrop()(mirrored, u[:, 1:]))


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ("flip+flip", "flip is there twice"),
        ("crop-flip+flip", "Flip is in two of them"),
        ("cutout+crop-flip", "cutout acts on prepared images and crop-flip on pixels"),
        ("resized-crop+scaled-crop", "resized-crop makes images of another size, so it comes last"),
        ("flip+flop", "unknown augment(ation)? 'flop'; did you mean 'flip'"),
    ],
)
def test_augmentations_that_do_not_go_together(pictures, chain, said):
    with pytest.raises(ValueError, match=said):
        inputs.inputs(Run(dataset="cifar10", augment=chain))


# ------------------------------------------------------------------------------------------------------ the record


@pytest.mark.parametrize(
    "other",
    [
        *({"prepare": "scale"}, {"prepare": "zca", "zca_epsilon": 0.2}, {"augment": "flip"}, {"validation": "first"}),
        *({"validation": "last", "held_out": 5}, {"validation": "random", "split_seed": 2}, {"dataset": "mnist"}),
        {"validation": "last", "distinct": True},
    ],
)
def test_runs_with_other_rows_share_none(other):
    kinds = [Run(), Run(validation="last"), Run(validation="random"), Run(prepare="zca"), Run(**other)]
    assert len({inputs.key(run) for run in kinds}) == 5
    assert inputs.key(Run(**other)) == inputs.key(Run(**other, method="bp", seed=3))


def test_the_table_of_wines_is_another_one_for_another_task():
    assert inputs.key(Run(dataset="wine-quality", loss="ce")) != inputs.key(Run(dataset="wine-quality", loss="mse"))


def finished(capsys, *argv):
    assert main(["train", *map(str, argv), *FAST, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_prepared_anchored_run_leaves_its_record(tmp_path, capsys):
    argv = ["digits", "--prepare", "scale", "--validation", "last", "--held-out", "137", "--anchor", "10"]
    found = finished(capsys, *argv, "--out", tmp_path)
    folder = tmp_path / "dfa-anchor10-seed1"
    assert found["run"] == str(folder)
    assert found["backprop_share"] == 5 / 52  # 2 epochs of 26 passes
    config = json.loads((folder / "config.json").read_text())
    assert (config["prepare"], config["validation"], config["held_out"], config["anchor"]) == ("scale", "last", 137, 10)
    assert main(["train", *argv[:-1], "11", *FAST, "--out", str(tmp_path)]) == 0  # another run, another folder
    assert main(["train", *argv[:-3], "138", "--anchor", "10", *FAST, "--out", str(tmp_path)]) == 2
    assert "held_out 137 not 138" in capsys.readouterr().err


def test_the_summary_has_all_scores_and_those_of_the_last_row(tmp_path, capsys):
    found = finished(capsys, "digits", "--method", "bp", "--out", tmp_path)
    last = json.loads((tmp_path / "bp-seed1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["backprop_share"] == 1
    assert {k for k in found if k.startswith("test_")} == {
        *("test_loss", "test_accuracy_percent", "test_top5_accuracy_percent", "test_auroc", "test_f1_macro"),
        "test_f1_micro",
    }
    assert (
        found["test_accuracy_percent"] == last["test_accuracy_percent"] == pytest.approx(100 * found["test_f1_micro"])
    )
    assert found["test_top5_accuracy_percent"] > found["test_accuracy_percent"]
    assert 0.5 < found["test_auroc"] < 1
    assert set(last) == {  # what others read stays as it was
        *(
            "epoch",
            "train_loss",
            "train_accuracy_percent",
            "test_loss",
            "test_accuracy_percent",
            "train_seconds",
            "samples_per_second",
        ),
        "alignment",
        "moved",
    }


def test_scores_of_held_out_rows_are_not_called_test(tmp_path, capsys):
    found = finished(capsys, "digits", "--validation", "last", "--out", tmp_path)
    row = json.loads((tmp_path / "dfa-seed1" / "metrics.jsonl").read_text().splitlines()[-1])
    for record in (found, row):
        assert record["valid_accuracy_percent"] > 0
        assert not [key for key in record if key.startswith("test_")]
    assert {"valid_auroc", "valid_f1_macro"} <= set(found)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "validation accuracy of" in page
    assert "test accuracy" not in page
    assert "valid_accuracy_percent" in (tmp_path / "page" / "table.csv").read_text()


def test_held_out_values_are_not_called_test(tmp_path, capsys, data_root):
    argv = ["train", "wine-quality", "--validation", "first", "--device", "cpu", *FAST, "--out", str(tmp_path)]
    assert main(argv) == 0
    assert "valid MSE" in capsys.readouterr().out


def test_values_are_scored_in_their_own_unit(wine):
    trainer = Trainer(
        Run(dataset="wine-quality", loss="mse", width=8, device="cpu"), data.standard("wine-quality", wine)
    )
    with torch.no_grad():
        for p in trainer.learner.net.parameters():
            p.zero_()  # it says the mean, 6, of all
    t = wine.test.t
    found = trainer.scores()
    assert found["test_mae_original_units"] == pytest.approx((t - 6).abs().mean().item())
    assert found["test_mape_percent"] == pytest.approx((100 * (t - 6).abs() / t).mean().item())
    assert trainer.learner.backprop_share == 0


def test_an_augmented_anchored_run_goes_on_to_the_same_bits(pictures):
    run = Run(dataset="cifar10", augment="crop-flip", anchor=3, batch_size=10, width=8, device="cpu", method="kp")
    rows = inputs.inputs(run)
    whole, first, second = (Trainer(run, rows) for _ in range(3))
    first.epoch()
    state = first.state()
    second.restore(state)
    for trainer in (whole, whole, second):
        trainer.epoch()
    assert second.learner.backprop_share == whole.learner.backprop_share == 2 / 8
    for p, q in zip(whole.learner.parameters(), second.learner.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_folder_of_an_older_version_is_known_again(tmp_path, capsys):
    before = finished(capsys, "digits", "--out", tmp_path)
    path = tmp_path / "dfa-seed1" / "config.json"
    new = {*OPTIONS, "zca_epsilon", "held_out", "split_seed", "distinct", "anchor", "batch_norm", "dropout"}
    config = json.loads(path.read_text())
    assert new < set(config)
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in new}))
    assert finished(capsys, "digits", "--out", tmp_path) == before
    assert main(["train", "digits", "--dropout", "0.5", *FAST, "--out", str(tmp_path)]) == 2
    assert "holds another run (dropout 0.0 not 0.5)" in capsys.readouterr().err


def test_a_comparison_anchors_what_is_taught_and_leaves_the_references(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("skipback.lab.session.Session.report", lambda *args, **more: None)  # drawing takes seconds
    argv = ["digits", "--methods", "bp,dfa,shallow", "--seeds", "1", "--anchor", "4", *FAST]
    assert main(["compare", *argv, "--out", str(tmp_path)]) == 0
    made = {path.name: path for path in tmp_path.iterdir() if (path / "summary.json").exists()}
    assert set(made) == {"bp-seed1", "dfa-anchor4-seed1", "shallow-seed1"}
    (section,) = sections([read_run(path) for path in made.values()])
    assert (section.backprop.label, section.floor.label) == ("bp", "shallow")
    said = " ".join(summary(section))
    assert "With plain backprop in 24.1 % of the training passes, dfa anchored every 4 reaches" in said


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("cora --validation last", "--validation last: 'cora' is a graph, not rows"),
        ("tiny-shakespeare --prepare image", "--prepare image: 'tiny-shakespeare' is a text, not rows"),
        ("cora --augment flip", "--augment flip: 'cora' is a graph"),
        ("wine-quality --augment flip", "--augment flip is for images, and an input of 'wine-quality' has shape (12,)"),
        ("digits --augment scaled-crop", "needs images of 9 x 9 or more, and those of 'digits' are 8 x 8"),
        ("digits --augment cutout", "needs images of 17 x 17 or more"),
        ("digits --augment crop", "--augment: unknown augment 'crop'; did you mean 'crop-flip'?"),
        (
            "digits --augment flip --method f3",
            "method 'f3' stores one error per sample, which augmentation makes stale",
        ),
        ("digits --augment flip --method f3 --anchor 2", "method 'f3' stores one error per sample"),
        ("wine-quality --validation stratified", "--validation stratified keeps the shares of classes"),
        ("digits --validation lst", "--validation: unknown validation 'lst'; did you mean 'last'?"),
        ("digits --validation last --held-out 0", "--held-out: must be greater than 0, got 0"),
        ("digits --validation last --held-out 1.0", "--validation last: cannot hold out 1.0 of 1437 rows"),
        ("digits --validation last --held-out 1437", "--validation last: cannot hold out 1437 of 1437 rows"),
        ("digits --held-out 0.2", "--held-out says nothing without --validation"),
        ("digits --distinct", "--distinct says nothing without --validation"),
        ("digits --split-seed 2 --validation last", "--split-seed says nothing without --validation random or"),
        ("digits --zca-epsilon 1 --prepare scale", "--zca-epsilon says nothing without --prepare zca"),
        ("digits --zca-epsilon 0 --prepare zca", "--zca-epsilon: must be greater than 0"),
        ("digits --prepare columns", "--prepare columns is for tables, and an input of 'digits' has shape (1, 8, 8)"),
        ("wine-quality --prepare image", "choose one of none, scale, simple, columns"),
        ("digits --prepare half", "--prepare half: stored constants are for pixels 0..255, and the largest training"),
        ("digits --prepare yuv", "--prepare yuv: YUV needs images of 3 channels"),
        ("digits --prepare scal", "did you mean 'scale'?"),
        ("digits --method bp --anchor 3", "--anchor 3: method 'bp' is plain backprop in every pass already"),
        ("digits --anchor 0", "--anchor: must be greater than or equal to 1, got 0"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, capsys, argv, expected):
    assert main(["train", *argv.split(), "--out", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err
    assert not (tmp_path / "runs").exists()


def test_a_comparison_is_refused_before_its_first_run(tmp_path, capsys):
    argv = ["digits", "--methods", "bp,f3", "--augment", "flip", *FAST, "--out", str(tmp_path / "runs")]
    assert main(["compare", *argv]) == 2
    assert "method 'f3' stores one error per sample" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_prepared_rows_are_audited(capsys):
    assert main(["audit", "digits", "--prepare", "scale", "--validation", "last", "--anchor", "2", *FAST[2:]]) == 0
    assert "dfa: Direct feedback alignment" in capsys.readouterr().out
