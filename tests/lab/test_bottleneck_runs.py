"""The bottleneck study on the command line: three forms, what each builds, and what is refused."""

import json

import pytest
import torch
from torch import nn

from skipback.bottleneck import MaskedLinear
from skipback.lab import checkpoint
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.trainer import Trainer


def trainer(**settings):
    part = Split(x=torch.randn(40, 6, generator=torch.Generator().manual_seed(5)), t=torch.arange(40) % 4)
    data = Dataset(name="random", task=Task.CLASSIFICATION, outputs=4, train=part, test=part)
    sizes = {"width": 8, "depth": 3, "batch_size": 16, "bottleneck": 2}
    return Trainer(Run(**{"device": "cpu", "method": "principled_dfa", **sizes, **settings}), data)


def linears(one):
    return [(type(m), m.in_features, m.out_features) for m in one.learner.net if isinstance(m, nn.Linear)]


WIDE = [(nn.Linear, 6, 8), (MaskedLinear, 8, 8), (nn.Linear, 8, 8), (nn.Linear, 8, 4)]


@pytest.mark.parametrize(
    ("form", "layers", "ports"),
    [
        ("corrected", WIDE, ["1", "3", "5"]),
        ("published", WIDE, ["4", "6"]),  # the code puts none before a layer of this class
        ("narrow", [(nn.Linear, 6, 8), (nn.Linear, 8, 2), (nn.Linear, 2, 8), (nn.Linear, 8, 4)], ["1", "3", "5"]),
    ],
)
def test_the_three_forms(form, layers, ports):
    one = trainer(bottleneck_form=form)
    assert linears(one) == layers
    assert list(one.learner.feedback) == ports
    for k, middle in enumerate(m for m in one.learner.net if isinstance(m, MaskedLinear)):
        assert (k, middle.passing, len(middle.input_mask)) == (0, 2 / 8, 16)
    assert one.epoch() > 0


def test_published_teaches_two_layers_as_one_block():
    """The first layer hears the feedback of the second through its weights: with those at 0 it hears nothing."""
    one = trainer(bottleneck_form="published", optimizer="sgd")
    with torch.no_grad():
        one.learner.net[3].weight.zero_()
    first = one.learner.net[1].weight.detach().clone()
    batch = one.feed.first(16)
    one.loss.of_output(one.learner.train()(batch.x), batch.t).backward()
    assert not one.learner.net[1].weight.grad.any()
    corrected = trainer(bottleneck_form="corrected", optimizer="sgd")
    with torch.no_grad():
        corrected.learner.net[3].weight.zero_()
    corrected.loss.of_output(corrected.learner.train()(batch.x), batch.t).backward()
    assert corrected.learner.net[1].weight.grad.any()
    assert torch.equal(first, one.learner.net[1].weight)


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_the_masks_are_those_of_the_run_after_an_interruption(form, tmp_path):
    settings = {"bottleneck_form": form, "start": "prealigned"}
    whole = trainer(**settings)
    for _ in range(3):
        whole.epoch()
    broken = trainer(**settings)
    broken.epoch()
    checkpoint.write(tmp_path / "state", broken.state())
    again = trainer(**{**settings, "seed": 9})  # other masks, which the checkpoint replaces
    again.restore(checkpoint.load(tmp_path / "state"))
    for _ in range(2):
        again.epoch()
    a, b = whole.learner.state_dict(), again.learner.state_dict()
    assert any("mask" in name for name in a)
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bottleneck": 9}, "--bottleneck 9: at most the units of a hidden layer, --width 8"),
        ({"depth": 1}, "no layer is between others at --depth 1: 2 or more"),
        ({"bottleneck": None, "bottleneck_form": "narrow"}, "--bottleneck-form says nothing without --bottleneck"),
        ({"bottleneck_form": "narow"}, "unknown bottleneck_form 'narow'; did you mean 'narrow'"),
        ({"net": "linear"}, "--bottleneck: net 'linear' has no bottleneck"),
    ],
)
def test_what_says_nothing_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        trainer(**settings)


def test_the_command_line(tmp_path, capsys):
    argv = "train digits --epochs 1 --depth 3 --width 16 --bottleneck 4 --bottleneck-form published --out".split()
    assert main([*argv, str(tmp_path)]) == 0
    held = json.loads((tmp_path / "dfa-seed1" / "config.json").read_text())
    assert (held["bottleneck"], held["bottleneck_form"]) == (4, "published")
    assert main([*argv[:-1], "--seeds", "2", "--together", "--out", str(tmp_path / "many")]) == 2
    assert "error: --together: member 0" in capsys.readouterr().err
