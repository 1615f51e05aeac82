"""What the lab may set of a network: each has its own sizes, and what one has not is refused, never ignored."""

import inspect

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from skipback.lab import nets
from skipback.lab.cli import Compare, main
from skipback.lab.config import Run, Settings
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.trainer import Trainer


@pytest.mark.parametrize("name", nets.CARDS)
def test_a_card_names_what_its_constructor_takes(name):
    card = nets.CARDS[name]
    takes = inspect.signature(card.constructor).parameters
    assert {*card.sizes, *card.fixed, *card.needs} <= set(takes)
    assert ("activation" in takes) == (card.activation is not None)
    assert not set(card.sizes) & set(card.fixed)
    assert set(card.sizes) <= set(Settings.model_fields)


@pytest.mark.parametrize("name", nets.CARDS)
def test_the_lab_builds_with_the_defaults_of_the_card(name):
    run = Run(net=name)
    assert run.sizes == dict(nets.CARDS[name].sizes)
    assert run.activation == nets.CARDS[name].activation
    assert Run(**run.model_dump()) == run  # a config.json can be fed back


@pytest.mark.parametrize("name", nets.CARDS)
def test_cards_and_constructors_agree_on_defaults(name):
    card = nets.CARDS[name]
    takes = inspect.signature(card.constructor).parameters
    assert {size: takes[size].default for size in card.sizes} == card.sizes
    if card.activation is not None:
        assert takes["activation"].default is getattr(nn, nets.ACTIVATIONS[card.activation])


def test_what_was_chosen_stays():
    run = Run(net="vit", depth=3, activation="relu", dropout=0.25)
    assert (run.sizes, run.activation) == ({"depth": 3, "width": 192, "dropout": 0.25}, "relu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "lenet", "depth": 0}, "--depth: net 'lenet' has no depth"),
        ({"net": "lenet", "width": 7}, "--width: net 'lenet' has no width"),
        ({"net": "resnet20", "batch_norm": True}, "--batch-norm: net 'resnet20' has no batch norm"),
        ({"net": "resnet20", "dropout": 0.5}, "--dropout: net 'resnet20' has no dropout"),
        ({"net": "vit", "input_dropout": 0.1}, "--input-dropout: net 'vit' has no input dropout"),
        ({"net": "lenet", "zero_init": True}, "--zero-init: net 'lenet' has no zero init"),
        ({"net": "lstm", "activation": "tanh"}, "--activation: net 'lstm' has no choice of activation"),
    ],
)
def test_what_a_net_has_not_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Run(**settings)


def test_compare_has_a_depth_for_the_nets_that_have_one():
    assert Compare(net="mlp").depth == 2
    options = Compare(net="lenet", depth=2, width=128)  # as the command line fills them in
    assert (options.depth, options.width) == (None, None)
    with pytest.raises(ValidationError, match="has no depth"):
        Compare(net="lenet", depth=3)


def trainer(shape, **settings):
    """A trainer on a few random samples."""
    part = Split(x=torch.randn(6, *shape), t=torch.arange(6) % 3)
    data = Dataset(name="random", task=Task.CLASSIFICATION, outputs=3, train=part, test=part)
    return Trainer(Run(device="cpu", batch_size=3, **settings), data)


def test_the_lab_hands_the_settings_on():
    net = trainer((5,), batch_norm=True, dropout=0.5, input_dropout=0.1, depth=1, width=4, activation="elu").learner.net
    assert [type(m) for m in net] == [
        *(nn.Flatten, nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.ELU, nn.Dropout, nn.Linear),
    ]


def test_the_lab_trains_from_zero():
    run = trainer((5,), zero_init=True, width=4, method="dfa")
    assert not any(p.any() for p in run.learner.net.parameters())
    for _ in range(2):  # the first step moves the first layer only: its output is zero
        assert run.epoch() > 0
    assert all(p.any() for p in run.learner.net.parameters())


@pytest.mark.parametrize("name", ["resnet20", "vit", "mixer", "vgg8b", "fdfa-conv"])
def test_the_lab_trains_networks_for_images(name):
    sizes = {"depth": 1, "width": 64} if name in ("vit", "mixer") else {}
    run = trainer((1, 16, 16), net=name, **sizes)
    before = [p.detach().clone() for p in run.learner.net.parameters()]
    run.epoch()
    assert all(not torch.equal(p, q) for p, q in zip(before, run.learner.net.parameters(), strict=True))


def test_a_net_for_something_else_is_one_line(tmp_path, capsys):
    assert main(["train", "digits", "--net", "gcn", "--out", str(tmp_path)]) == 2
    assert "error: net 'gcn' takes graphs, and this data set gives numbers" in capsys.readouterr().err


def test_zero_weights_under_relu_are_one_line(tmp_path, capsys):
    assert main(["train", "digits", "--zero-init", "--activation", "relu", "--out", str(tmp_path)]) == 2
    assert "its slope at 0 is 0, so from weights of 0 nothing" in capsys.readouterr().err


def test_what_the_lab_may_set_of_each_network():
    """Others script against these: a size is added here on purpose, none disappears."""
    settable = {name: set(card.sizes) for name, card in nets.CARDS.items() if card.sizes}
    assert settable == {
        "mlp": {"depth", "width", "batch_norm", "dropout", "input_dropout", "zero_init"},
        "linear": {"depth", "width"},
        "nokland-conv": {"batch_norm", "zero_init"},
        "launay-conv": {"batch_norm"},
        **{name: {"dropout"} for name in "drtp-conv-mnist drtp-conv-cifar vgg8b vgg11b vgg11 vgg16".split()},
        "f3-transformer": {"depth", "width"},
        "mixer": {"depth", "width"},
        **{name: {"depth", "width", "dropout"} for name in "vit transformer-lm lstm deepfm".split()},
        **{name: {"width", "dropout"} for name in "gcn gat".split()},
    }
