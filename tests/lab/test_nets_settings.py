"""What the lab may set of a network: each has its own sizes, and what one has not is refused, never ignored."""

import inspect
import json

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from skipback.lab import nets
from skipback.lab.cli import Compare, main
from skipback.lab.config import Run, Settings
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.errors import LabError
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
        assert takes["activation"].default is nets.unit(card.activation)


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
        ({"net": "lenet", "bias": False}, "--no-bias: net 'lenet' has no choice of bias"),
        ({"net": "launay-conv", "norm_last": True}, "--norm-last: net 'launay-conv' has no norm last"),
        ({"norm_last": True}, "--norm-last says nothing without --batch-norm"),
        ({"dropout_first": True}, "--dropout-first says nothing without --dropout"),
        ({"net": "nokland-conv", "batch_norm_at": "2"}, "--batch-norm-at says nothing without --batch-norm"),
        ({"batch_norm": True, "batch_norm_at": "2"}, "--batch-norm-at: net 'mlp' has no batch norm at"),
        ({"net": "nokland-conv", "batch_norm": True, "batch_norm_at": "two"}, "hidden layers with commas"),
        ({"dropout": "0.1,0.2"}, "--dropout 0.1,0.2: net 'mlp' takes one probability \\[type"),
        ({"net": "launay-conv", "dropout": "0.1,0.2"}, "takes one probability, or 3 of them: on the input, the lin"),
        ({"dropout": 1.0}, "must be at least 0 and below 1, got 1.0"),
        ({"net": "launay-conv", "dropout": "0,nan,0"}, "must be at least 0 and below 1, got nan"),
        ({"dropout": "much"}, "must be a probability, or several with commas, got 'much'"),
        ({"dropout": True}, "must be a probability"),
        ({"dropout": []}, "must be a probability"),
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


def kinds(net):
    return [type(m) for m in net if not isinstance(m, nn.Flatten)]


def test_the_order_of_principled_dfa():
    """Linear, Dropout, Tanh, BatchNorm."""
    choice = {"batch_norm": True, "norm_last": True, "dropout": 0.5, "dropout_first": True, "input_dropout": 0.1}
    net = trainer((5,), width=4, method="dfa", **choice).learner.net
    assert kinds(net) == [nn.Dropout, nn.Linear, nn.Dropout, nn.Tanh, nn.BatchNorm1d, nn.Linear]


def test_no_bias_anywhere():
    net = trainer((5,), width=4, depth=2, bias=False).learner.net
    assert [name for name, _ in net.named_parameters() if "bias" in name] == []
    net = trainer((3, 16, 16), net="nokland-conv", bias=False).learner.net
    assert [name for name, _ in net.named_parameters() if "bias" in name] == []


def test_a_slope_of_the_activation():
    net = trainer((5,), width=4, depth=2, activation="leaky-relu:0.5").learner.net
    assert [m.negative_slope for m in net if isinstance(m, nn.LeakyReLU)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("dropout", "rates"),
    [
        ("0.1,0.25,0.25,0.5,0.5,0.5", [0.1, 0.25, 0.25, 0.5, 0.5, 0.5]),  # the code's dropout 1
        ("0,.25,.25,0,0,0", [0.25, 0.25]),  # its dropout 2
        ([0.1, 0, 0, 0, 0, 0.5], [0.1, 0.5]),
        (0.5, [0.5] * 5),
        (0.0, []),
    ],
)
def test_dropout_of_each_place_of_nokland_conv(dropout, rates):
    net = trainer((3, 16, 16), net="nokland-conv", dropout=dropout).learner.net
    assert [m.p for m in net if isinstance(m, nn.Dropout)] == rates
    run = Run(net="nokland-conv", dropout=dropout)
    assert Run(**run.model_dump(mode="json")) == run


def test_batch_norm_after_some_layers_of_nokland_conv():
    """The code's batch norm 2: after the second convolution alone."""
    net = trainer((3, 16, 16), net="nokland-conv", batch_norm=True, batch_norm_at="2").learner.net
    convolutions = [k for k, m in enumerate(net) if isinstance(m, nn.Conv2d)]
    assert [k for k, m in enumerate(net) if "BatchNorm" in type(m).__name__] == [convolutions[1] + 1]
    with pytest.raises(LabError, match="after hidden layer 6: nokland-conv has the hidden layers 1 to 5"):
        trainer((3, 16, 16), net="nokland-conv", batch_norm=True, batch_norm_at="2,6")


def test_dropout_of_each_place_of_launay_conv():
    """The grid of its code: [input, dense, conv] = [.1, .5, 0]."""
    net = trainer((3, 16, 16), net="launay-conv", dropout=".1,.5,0").learner.net
    assert [(type(m), m.p) for m in net if "Dropout" in type(m).__name__] == [(nn.Dropout2d, 0.1), (nn.Dropout, 0.5)]
    net = trainer((3, 16, 16), net="launay-conv", dropout=0.2).learner.net
    assert [type(m) for m in net if "Dropout" in type(m).__name__] == [*[nn.Dropout2d] * 3, nn.Dropout]


def test_the_command_line_takes_them(tmp_path, capsys):
    argv = "train digits --epochs 1 --width 4 --no-bias --batch-norm --norm-last --dropout .25 --dropout-first".split()
    assert main([*argv, "--activation", "leaky-relu:.5", "--out", str(tmp_path)]) == 0
    held = json.loads((tmp_path / "dfa-seed1" / "config.json").read_text())
    assert (held["bias"], held["norm_last"], held["dropout"], held["dropout_first"]) == (False, True, 0.25, True)
    assert main(["train", "digits", "--dropout", "0.1,0.2", "--out", str(tmp_path)]) == 2
    assert "--dropout 0.1,0.2: net 'mlp' takes one probability" in capsys.readouterr().err


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
        "mlp": {"depth", "width", "bias", "batch_norm", "norm_last", "dropout", "dropout_first", "input_dropout"}
        | {"bottleneck", "zero_init"},
        "linear": {"depth", "width"},
        "nokland-conv": {"bias", "batch_norm", "batch_norm_at", "dropout", "zero_init"},
        "launay-conv": {"batch_norm", "dropout"},
        **{name: {"dropout"} for name in "drtp-conv-mnist drtp-conv-cifar vgg8b vgg11b vgg11 vgg16".split()},
        "f3-transformer": {"depth", "width"},
        "mixer": {"depth", "width"},
        **{name: {"depth", "width", "dropout"} for name in "vit transformer-lm lstm deepfm".split()},
        **{name: {"width", "dropout"} for name in "gcn gat".split()},
    }
