"""Blocks: where the graph of a network is cut, found by itself or named."""

import copy
from dataclasses import dataclass

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import FLAT, IMAGE, C, batch, gradients, logits, made, same
from torch import nn

import skipback as sb
from skipback.blocks import map_tensors, tensors, units
from skipback.learner import Learner


def attached(net, x, blocks="auto", method=None):
    return sb.attach(net, method or sb.dfa(), x, blocks, show=None)


def names(learner):
    """Parameters of each segment, by block."""
    by_id = {id(p): name for name, p in learner.net.named_parameters()}
    return {s.block: sorted(by_id[id(p)] for p in s.parameters) for s in learner.layout.segments}


def where(learner):
    """Cuts as (block, '<' before or '>' after, module)."""
    return [(cut.block, "<" if cut.before else ">", cut.module) for cut in learner.layout.cuts]


def shapes(learner):
    return {s.block: tuple(s.shape[1:]) for s in learner.layout.segments}


def train_step(learner, *inputs, t=None):
    y = logits(learner(*inputs))
    F.cross_entropy(y, torch.arange(len(y)) % y.shape[1] if t is None else t).backward()
    return gradients(learner.net)


def all_taught(found):
    return all(g is not None and g.isfinite().all() and g.any() for g in found.values())


TOKENS = torch.arange(20).reshape(4, 5) % 11


# ------------------------------------------------------------------------------------------------ found by itself


FOUND = {
    "sequential": (nets.mlp, FLAT, {"0": (7,), "2": (5,), "head": (C,)}),
    "convolutions": (nets.conv, IMAGE, {"0": (4, 4, 4), "3": (24,), "head": (C,)}),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(6, 7), nn.Tanh()),
            nn.Sequential(nn.Sequential(nn.Linear(7, 5), nn.ReLU()), nn.Linear(5, C)),
        ),
        FLAT,
        {"0.0": (7,), "1.0.0": (5,), "head": (C,)},
    ),
    "module_list": (nets.Listed, FLAT, {"layers.0": (7,), "layers.1": (7,), "layers.2": (5,), "head": (C,)}),
    "wrapper": (lambda: nets.Wrapper(nets.mlp()), FLAT, {"model.0": (7,), "model.2": (5,), "head": (C,)}),
    "wrapped_wrapper": (
        lambda: nets.Wrapper(nets.Wrapper(nets.LeNet())),
        IMAGE,
        {"model.model.conv1": (4, 4, 4), "model.model.conv2": (6,), "model.model.fc1": (9,), "head": (C,)},
    ),
    "resnet": (
        nets.ResNet,
        IMAGE,
        {
            "conv1": (3, 4, 4),
            "layer1.0": (3, 4, 4),
            "layer1.1": (3, 4, 4),
            "layer2.0": (4, 2, 2),
            "layer2.1": (4,),
            "head": (C,),
        },
    ),
    "residual_modules": (nets.residual_modules, FLAT, {"0": (7,), "1": (7,), "2": (7,), "head": (C,)}),
    "lenet": (nets.LeNet, IMAGE, {"conv1": (4, 4, 4), "conv2": (6,), "fc1": (9,), "head": (C,)}),
    "dropout": (nets.dropout, FLAT, {"0": (9,), "3": (8,), "head": (C,)}),
    "batchnorm": (nets.batchnorm, FLAT, {"1": (7,), "4": (5,), "head": (C,)}),
    "one_layer": (lambda: nn.Linear(6, C), FLAT, {"head": (C,)}),
    "one_layer_in_a_sequential": (lambda: nn.Sequential(nn.Linear(6, C)), FLAT, {"head": (C,)}),
    "head_with_activation": (
        lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, C), nn.LogSoftmax(1)),
        FLAT,
        {"0": (7,), "head": (C,)},
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_blocks_are_found(name):
    build, shape, expected = FOUND[name]
    x, *_ = batch(shape)
    learner = attached(made(build), x)
    assert shapes(learner) == expected
    assert list(shapes(learner)) == list(expected)  # in order
    assert {block: tuple(B.shape) for block, B in learner.feedback.items()} == {
        block: (C, *shape) for block, shape in expected.items() if block != "head"
    }
    everything = [p for segment in names(learner).values() for p in segment]
    assert sorted(everything) == sorted(name for name, _ in learner.net.named_parameters())
    assert all(g is not None and g.isfinite().all() for g in train_step(learner, x).values())


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (nets.Text, {"emb": (5, 8), "enc.layers.0": (5, 8), "enc.layers.1": (8,), "head": (C,)}),
        (nets.Recurrent, {"emb": (5, 4), "lstm": (5,), "head": (C,)}),
    ],
)
def test_blocks_of_token_networks(build, expected):
    learner = attached(made(build), TOKENS)
    assert shapes(learner) == expected
    assert all_taught(train_step(learner, TOKENS))


def test_the_transformer_is_cut_in_evaluation_as_well():
    """torch has a fused path for evaluation: outputs stay the same bits."""
    net = made(nets.Text, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = net(TOKENS)
    learner = attached(net, TOKENS)
    with torch.no_grad():
        assert torch.equal(expected, learner(TOKENS))
    assert torch.equal(net(TOKENS), learner(TOKENS))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (nets.mlp, ["0", "2", "4"]),
        (nets.ResNet, ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]),
        (nets.Text, ["emb", "enc.layers.0", "enc.layers.1", "out"]),
        (lambda: nets.Wrapper(nets.mlp()), ["model.0", "model.2", "model.4"]),
        (lambda: nn.Linear(3, 2), []),
        (lambda: nn.ReLU(), []),
    ],
)
def test_units(build, expected):
    assert units(build()) == expected


def test_a_cut_keeps_everything_between_two_weight_layers_in_the_block():
    learner = attached(made(nets.LeNet), batch(IMAGE)[0])
    assert where(learner) == [("conv1", "<", "conv2"), ("conv2", "<", "fc1"), ("fc1", "<", "fc2")]


@pytest.mark.parametrize(
    ("build", "skips"), [(nets.FunctionalResidual, True), (nets.Shared, False), (nets.Unrolled, False)]
)
def test_cuts_stay_before_the_weight_layers(build, skips):
    """Also where values jump over them, which are then detached themselves, and where a layer is called again."""
    learner = attached(made(build), batch()[0])
    assert all(cut.before and cut.place.in_place == skips for cut in learner.layout.cuts)
    assert "cut at its own output" not in learner.summary()
    assert all_taught(train_step(learner, batch()[0]))


def test_an_activation_before_a_skip_belongs_to_its_block():
    """delta = (e B) * f'(a), as in the chain without the skip; and the skip carries no gradient."""
    x, t, _ = batch()
    learner = attached(made(nets.FunctionalResidual), x)
    y = learner(x)
    F.cross_entropy(y, t).backward()
    net, e = learner.net, ((torch.softmax(y, 1) - F.one_hot(t, C)) / len(t)).detach()
    with learner.exact(), torch.no_grad():
        h = torch.tanh(net.stem(x))
        k = torch.tanh(net.a(h))
    expected = {
        "stem": ((e @ learner.feedback["stem"]) * (1 - h**2)).T @ x,
        "a": ((e @ learner.feedback["a"]) * (1 - k**2)).T @ h,
    }
    for name, wanted in expected.items():
        torch.testing.assert_close(net.get_submodule(name).weight.grad, wanted, rtol=1e-10, atol=1e-12)


class ReadEarly(nets.FunctionalResidual):
    """The stream is read before its first cut, so only a cut behind the module keeps backprop out."""

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        skip = 2 * x
        return self.out(skip + torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_where_only_a_cut_behind_the_module_is_left_the_table_says_so():
    learner = attached(made(ReadEarly), batch()[0])
    assert where(learner) == [("stem", ">", "stem"), ("a", ">", "a"), ("b", ">", "b")]
    rows = learner.summary().splitlines()
    assert [("cut at its own output" in row) for row in rows] == [False, True, True, True, False]
    assert all_taught(train_step(learner, batch()[0]))


def test_the_first_block_keeps_what_stands_before_it():
    """A norm of the input has no block before it to belong to."""
    learner = attached(made(nets.batchnorm), batch()[0])
    assert names(learner)["1"] == ["0.bias", "0.weight", "1.bias", "1.weight", "2.bias", "2.weight"]


@pytest.mark.parametrize("build", [nets.mlp, nets.batchnorm, nets.Branches, nets.FunctionalResidual])
def test_an_example_that_requires_grad(build):
    x, *_ = batch()
    learner = attached(made(build), x.clone().requires_grad_())
    assert where(learner) == where(attached(made(build), x))
    x.requires_grad_()
    with pytest.warns(sb.SkipbackWarning, match=r"an input of the network requires grad.*learner\.exact"):
        train_step(learner, x)
    train_step(learner, x)  # once is enough
    assert x.grad is not None


def test_a_port_has_the_name_of_the_block_that_made_it():
    """Not of the one that happened to run before."""
    learner = attached(made(nets.Branches), batch()[0])
    assert names(learner) == {
        "a": ["a.bias", "a.weight"],
        "b": ["b.bias", "b.weight"],
        "d": ["c.bias", "c.weight", "d.bias", "d.weight"],
        "head": ["out.bias", "out.weight"],
    }
    assert shapes(learner) == {"a": (5,), "b": (7,), "d": (4,), "head": (C,)}


def test_a_hidden_block_may_be_called_head():
    x, *_ = batch()
    learner = attached(made(nets.Named), x)
    assert [s.block for s in learner.layout.segments] == ["body", "head", "head"]
    assert list(learner.feedback) == ["body", "head"]
    assert {block: tuple(B.shape) for block, B in learner.feedback.items()} == {"body": (C, 7), "head": (C, 5)}
    assert learner.frozen == []
    assert learner.summary().splitlines()[2].split() == ["head", "5", "5", "x", "5", "40"]
    assert learner.summary().splitlines()[3].split() == ["head", "5", "exact", "gradient", "30"]
    assert all_taught(train_step(learner, x))


def test_tied_weights_are_taught_from_both_ends():
    """The embedding's teaching plus the exact gradient of the head: by hand."""
    net = made(nets.Tied)
    learner = attached(net, TOKENS)
    assert shapes(learner) == {"emb": (5,), "middle": (5,), "head": (11,)}
    t = torch.tensor([1, 2, 3, 4])
    found = train_step(learner, TOKENS, t=t)

    twin = copy.deepcopy(learner.detach())
    y = twin(TOKENS)
    e = (torch.softmax(y, 1) - F.one_hot(t, 11)).detach() / 4
    pooled = twin.emb(TOKENS).mean(1)
    h = torch.tanh(twin.middle(pooled.detach()))
    low = torch.autograd.grad(pooled, twin.emb.weight, e @ learner.feedback["emb"])[0]
    middle = torch.autograd.grad(h, twin.middle.weight, e @ learner.feedback["middle"])[0]
    torch.testing.assert_close(found["emb.weight"], low + e.T @ h.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["middle.weight"], middle, rtol=1e-10, atol=1e-12)


def test_a_parameterless_activation_behind_a_residual_head_belongs_to_the_head():
    class Net(nets.FunctionalResidual):
        def forward(self, x):
            return torch.log_softmax(super().forward(x), 1)

    x, t, _ = batch()
    learner = attached(made(Net), x)
    assert where(learner) == [("stem", "<", "a"), ("a", "<", "b"), ("b", "<", "out")]
    with learner.exact():
        F.cross_entropy(learner(x), t).backward()
    expected = gradients(learner.net)
    learner.zero_grad()
    F.cross_entropy(learner(x), t).backward()
    assert torch.equal(expected["out.weight"], gradients(learner.net)["out.weight"])


def test_an_operation_behind_a_residual_head_gives_the_output_its_shape():
    class Net(nets.FunctionalResidual):
        def forward(self, x):
            return super().forward(x)[:, :3]

    x, *_ = batch()
    learner = attached(made(Net), x)
    assert shapes(learner) == {"stem": (7,), "a": (7,), "b": (7,), "head": (3,)}
    assert {tuple(B.shape) for B in learner.feedback.values()} == {(3, 7)}
    assert all_taught(train_step(learner, x))


def test_a_network_without_a_trainable_output():
    with pytest.raises(ValueError, match="returns no floating-point tensor that depends on a trainable parameter"):
        attached(nets.Wrapper(nn.ReLU()), batch()[0])

    class Argmax(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(6, C)

        def forward(self, x):
            return self.f(x).argmax(1)

    with pytest.raises(ValueError, match="returns no floating-point tensor"):
        attached(made(Argmax), batch()[0])


# ------------------------------------------------------------------------------------------- what once went wrong


class TwoHeads(nn.Module):
    """Actor and critic read the same features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(6, 7), nn.Linear(7, C), nn.Linear(7, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.policy(h), self.value(h)


class Auxiliary(nn.Module):
    """A second classifier half-way, as GoogLeNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.more, self.out = nn.Linear(6, 7), nn.Linear(7, C), nn.Linear(7, 5), nn.Linear(5, C)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        side = self.aux(h)
        return self.out(torch.tanh(self.more(h))), side


class Squeezed(TwoHeads):
    def forward(self, x):
        policy, value = super().forward(x)
        return policy, value.squeeze(-1)


class Bounded(TwoHeads):
    def forward(self, x):
        policy, value = super().forward(x)
        return torch.log_softmax(policy, 1), torch.tanh(value)


@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (TwoHeads, ["policy", "value"]),
        (Auxiliary, ["out", "aux"]),
        (Squeezed, ["policy", "value"]),
        (Bounded, ["policy", "value"]),
    ],
)
def test_every_head_is_exact_and_all_outputs_teach(build, heads):
    x, t, _ = batch()
    learner = attached(made(build), x)
    assert not set(heads) & set(learner.feedback)

    def loss(outputs):
        return F.cross_entropy(outputs[0], t) + outputs[1].square().mean()

    outputs = learner(x)
    e = torch.autograd.grad(loss(outputs), outputs, retain_graph=True)
    loss(outputs).backward()
    found = gradients(learner.net)
    learner.zero_grad()
    with learner.exact():
        loss(learner(x)).backward()
    for name, exact in gradients(learner.net).items():
        assert torch.equal(found[name], exact) == (name.split(".")[0] in heads), name
    error = torch.cat([part.reshape(len(x), -1) for part in e], 1)  # side by side
    h = torch.tanh(learner.net.body(x)).detach()
    expected = ((error @ learner.feedback["body"]) * (1 - h**2)).T @ x
    torch.testing.assert_close(found["body.weight"], expected, rtol=1e-10, atol=1e-12)


class Message:
    def __init__(self, h) -> None:
        self.h = h


class Speaker(nn.Module):
    """Passes an object of its own on, as graph networks do."""

    def __init__(self, i, o) -> None:
        super().__init__()
        self.f = nn.Linear(i, o)

    def forward(self, m):
        return Message(torch.tanh(self.f(m.h if isinstance(m, Message) else m)))


class Listener(Speaker):
    def forward(self, m):
        return self.f(m.h)


@dataclass(frozen=True)
class Record:
    """What a data class carries is seen."""

    h: torch.Tensor
    name: str = "features"


class Records(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.more, self.out = Teller(6, 7), Teller(7, 5), nn.Linear(5, C)

    def forward(self, x):
        return Record(self.out(self.more(self.body(Record(x))).h), "logits")


class Teller(nn.Module):
    def __init__(self, i, o) -> None:
        super().__init__()
        self.f = nn.Linear(i, o)

    def forward(self, m):
        return Record(torch.tanh(self.f(m.h)))


def test_blocks_may_exchange_data_classes():
    x, t, _ = batch()
    learner = attached(made(Records), x)
    assert where(learner) == [("body", "<", "more"), ("more", "<", "out")]
    output = learner(x)
    assert isinstance(output, Record)
    assert output.name == "logits"
    F.cross_entropy(output.h, t).backward()
    assert all_taught(gradients(learner.net))


class TwoInputs(nn.Module):
    """A module takes a bare parameter first, then what a block returned."""

    def __init__(self, used_before) -> None:
        super().__init__()
        self.stem, self.mix, self.out = nn.Linear(6, 7), nn.Bilinear(7, 7, 4), nn.Linear(4, C)
        self.bare, self.used_before = nn.Parameter(torch.randn(1, 7)), used_before

    def forward(self, x):
        h = torch.tanh(self.stem(x) + (self.bare if self.used_before else 0))
        return self.out(torch.tanh(self.mix(self.bare.expand(len(x), -1), h)))


def test_the_port_is_the_tensor_that_a_block_made():
    x, *_ = batch()
    learner = attached(made(lambda: TwoInputs(True)), x)
    assert [(cut.block, cut.before, cut.position) for cut in learner.layout.cuts] == [
        ("stem", True, 1),
        ("mix", True, 0),
    ]
    assert shapes(learner) == {"stem": (7,), "mix": (4,), "head": (C,)}
    assert all_taught(train_step(learner, x))


def test_a_bare_parameter_belongs_to_the_module_that_it_enters():
    """Here a cut of all that enters `mix` would freeze the bare parameter without a word."""
    x, *_ = batch()
    learner = attached(made(lambda: TwoInputs(False)), x)
    assert where(learner) == [("stem", "<", "mix"), ("mix", "<", "out")]
    assert names(learner)["mix"] == ["bare", "mix.bias", "mix.weight"]
    assert all_taught(train_step(learner, x))


def test_blocks_that_exchange_objects_are_refused():
    """Nothing would be cut, and backprop would run silently."""
    net = made(lambda: nn.Sequential(Speaker(6, 7), Speaker(7, 5), Listener(5, C)))
    with pytest.raises(ValueError, match="block '1' receives a Message, and tensors inside of it cannot be seen"):
        attached(net, batch()[0])


class NormedResidual(nn.Module):
    """A skip in the parent's forward, around a norm that is no unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Linear(6, 7), nn.BatchNorm1d(7)
        self.b, self.nb = nn.Linear(7, 7), nn.BatchNorm1d(7)
        self.out = nn.Linear(7, C)

    def forward(self, x):
        x = torch.tanh(self.na(self.a(x)))
        x = x + torch.tanh(self.nb(self.b(x)))
        return self.out(x)


def test_a_norm_between_functional_skips_belongs_to_its_block():
    x, *_ = batch()
    learner = attached(made(NormedResidual), x)
    assert where(learner) == [("a", "<", "b"), ("b", "<", "out")]
    assert names(learner)["a"] == ["a.bias", "a.weight", "na.bias", "na.weight"]
    assert all_taught(train_step(learner, x))


def test_a_norm_is_a_block_where_modules_are_cut_behind():
    class Early(NormedResidual):
        def forward(self, x):
            x = torch.tanh(self.na(self.a(x)))
            skip = 2 * x
            return self.out(skip + torch.tanh(self.nb(self.b(x))))

    x, *_ = batch()
    learner = attached(made(Early), x)
    assert where(learner) == [(name, ">", name) for name in ("a", "na", "b", "nb")]
    assert names(learner)["na"] == ["na.bias", "na.weight"]
    assert all_taught(train_step(learner, x))


class LayerScale(nets.FunctionalResidual):
    """A bare parameter of the parent stands in the stream that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(7))

    def forward(self, x):
        x = self.gamma * torch.tanh(self.stem(x))
        skip = 2 * x
        return self.out(skip + torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_a_network_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match=r"a value jumps over every place .* name the blocks with blocks=\[...\]"):
        attached(made(LayerScale), batch()[0])


def test_named_blocks_that_a_value_jumps_over_are_refused():
    with pytest.raises(ValueError, match="jumps over"):
        attached(made(nets.FunctionalResidual), batch()[0], ["a"])


# --------------------------------------------------------------------------------------------------------- named


@pytest.mark.parametrize("blocks", [["0", "2"], ["0", "2", "4"]])
def test_the_head_may_be_named_or_left_out(blocks):
    x, *_ = batch()
    learner = attached(made(nets.mlp), x, blocks)
    assert where(learner) == [("0", ">", "0"), ("2", ">", "2")]
    assert shapes(learner) == {"0": (7,), "2": (5,), "head": (C,)}
    assert all_taught(train_step(learner, x))


def test_named_blocks_end_at_their_own_output():
    """So an activation behind it belongs to the next block: the teaching arrives before it."""
    x, t, _ = batch()
    net = made(nets.mlp)
    learner = attached(net, x, ["0", "3"])
    found = train_step(learner, x, t=t)
    with torch.no_grad():
        h2 = torch.tanh(net[2](torch.tanh(net[0](x))))
        e = (torch.softmax(net[4](h2), 1) - F.one_hot(t, C)) / len(x)
        torch.testing.assert_close(found["0.weight"], (e @ learner.feedback["0"]).T @ x, rtol=1e-10, atol=1e-12)
        delta = (e @ learner.feedback["3"]) * (1 - h2**2)
        torch.testing.assert_close(found["2.bias"], delta.sum(0), rtol=1e-10, atol=1e-12)


def test_fewer_blocks_than_layers_means_backprop_inside_a_block():
    x, t, _ = batch()
    learner = attached(made(nets.mlp), x, ["3"])
    assert names(learner) == {"3": ["0.bias", "0.weight", "2.bias", "2.weight"], "head": ["4.bias", "4.weight"]}
    assert all_taught(train_step(learner, x, t=t))


def test_blocks_inside_blocks():
    x, *_ = batch(IMAGE)
    learner = attached(made(nets.ResNet), x, ["layer1.0.conv1", "layer1", "layer2.1"])
    assert list(shapes(learner)) == ["layer1.0.conv1", "layer1", "layer2.1", "head"]
    found = train_step(learner, x)
    assert all(g is not None for g in found.values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layer2.0.con1", "did you mean 'layer2.0.conv1'"),
        ("conv_1", "did you mean 'conv1'"),
        ("qqqq", r"\(modules: conv1, bn1"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"no module named '{name}'.*{hint}"):
        attached(nets.ResNet(), batch(IMAGE, dtype=torch.float32)[0], [name])


@pytest.mark.parametrize("blocks", ["0", "features.3", ""])
def test_a_bare_name_is_not_taken_for_a_list(blocks):
    with pytest.raises(ValueError, match='must be "auto" or a list of module names'):
        attached(made(nets.mlp), batch()[0], blocks)


def test_a_named_block_that_is_not_called():
    class Net(nets.Named):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(3, 3)

    with pytest.raises(ValueError, match="'spare' has no output to teach: it was not called"):
        attached(made(Net), batch()[0], ["body", "spare"])


def test_a_named_block_without_anything_to_learn():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, C))
    with pytest.raises(ValueError, match=r"'0' has no output to teach.*nothing that it returns depends on a trainable"):
        attached(net, torch.randn(8, 6), ["0", "2"])


# ---------------------------------------------------------------------------------------- a block called many times


def by_hand(net, learner, x, t, ports, run):
    """Gradients when every port of `ports` (name -> tensors) gets e @ B of its block, and the head e."""
    y = run()
    e = (torch.softmax(y, 1) - F.one_hot(t, C)).detach() / len(x)
    outputs, teachings = [y], [e]
    for block, tensors_ in ports.items():
        for port in tensors_:
            outputs.append(port)
            teachings.append(e @ learner.feedback[block])
    found = torch.autograd.grad(outputs, list(net.parameters()), teachings)
    return dict(zip((name for name, _ in net.named_parameters()), found, strict=True))


def test_a_layer_called_twice_is_taught_twice_with_one_feedback():
    x, t, _ = batch()
    learner = attached(made(nets.Shared), x)
    assert list(learner.feedback) == ["stem", "shared"]
    found = train_step(learner, x, t=t)

    net = copy.deepcopy(learner.detach())
    ports = {"stem": [], "shared": []}

    def run():
        a = net.stem(x)
        a = torch.tanh(a)
        b = torch.tanh(net.shared(a.detach()))
        c = torch.tanh(net.shared(b.detach()))
        ports["stem"], ports["shared"] = [a], [b, c]
        return net.out(c.detach())

    run()
    expected = by_hand(net, learner, x, t, ports, run)
    assert nets.difference(expected, found) < 1e-12


def test_a_recurrent_cell_is_taught_at_every_step():
    """The hidden state is the port, the cell state is only detached."""
    x, t, _ = batch()
    learner = attached(made(nets.Unrolled), x)
    assert {block: tuple(B.shape) for block, B in learner.feedback.items()} == {"cell": (C, 5)}
    found = train_step(learner, x, t=t)

    net = copy.deepcopy(learner.detach())
    ports = {"cell": []}

    def run():
        h = c = x.new_zeros(len(x), 5)
        ports["cell"].clear()
        for step in x.split(2, dim=1):
            h, c = net.cell(step, (h.detach(), c.detach()))
            ports["cell"].append(h)
        return net.out(h.detach())

    expected = by_hand(net, learner, x, t, ports, run)
    assert len(ports["cell"]) == 3
    assert nets.difference(expected, found) < 1e-12


# ---------------------------------------------------------------------------------------- frozen now, trained later


def test_parameters_frozen_at_attach_open_no_path_when_they_are_unfrozen():
    x, t, _ = batch()
    net = made(nets.mlp)
    for p in net[:2].parameters():
        p.requires_grad_(False)
    learner = attached(net, x)
    always = attached(made(nets.mlp), x)
    assert where(learner) == where(always)
    assert all(not p.requires_grad for p in net[0].parameters())
    train_step(learner, x, t=t)
    assert net[0].weight.grad is None
    net.requires_grad_(True)
    learner.zero_grad()
    assert same(train_step(learner, x, t=t), train_step(always, x, t=t))


@pytest.mark.parametrize("frozen", ["0", "2", "4"])
def test_a_frozen_block_changes_nothing_for_the_others(frozen):
    x, t, _ = batch()
    learner, always = attached(made(nets.mlp), x), attached(made(nets.mlp), x)
    expected = train_step(always, x, t=t)
    learner.net.get_submodule(frozen).requires_grad_(False)
    found = train_step(learner, x, t=t)
    for name, g in found.items():
        if name.startswith(frozen):
            assert g is None
        else:
            assert torch.equal(g, expected[name])


# ------------------------------------------------------------------------------------------------ the batch is first


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.inner, self.out = nn.LSTM(3, 5), nn.Linear(5, 4), nn.Linear(4, C)

    def forward(self, x):
        states, _ = self.lstm(x.transpose(0, 1))  # (time, batch, 5)
        return self.out(self.inner(torch.tanh(states))[-1])


@pytest.mark.parametrize("steps", [4, 8])
def test_a_batch_in_the_second_dimension_is_found(steps):
    """Also where there are as many steps as samples: each sample is taught by its own error."""
    x, t = torch.randn(8, steps, 3, dtype=torch.float64), torch.arange(8) % C
    learner = attached(made(TimeFirst), x)
    y = learner(x)
    F.cross_entropy(y, t).backward()
    e, B = ((torch.softmax(y, 1) - F.one_hot(t, C)) / 8).detach(), learner.feedback["lstm"]
    assert B.shape == (C, steps, 5)
    net = copy.deepcopy(learner.detach())
    states = torch.tanh(net.lstm(x.transpose(0, 1))[0])
    teaching = torch.einsum("nc,ctd->tnd", e, B)
    expected = torch.autograd.grad(states, net.lstm.weight_ih_l0, teaching)[0]
    torch.testing.assert_close(learner.net.lstm.weight_ih_l0.grad, expected, rtol=1e-10, atol=1e-12)


def test_a_port_without_the_batch_is_refused():
    class Pooled(nn.Module):
        """Five nodes make a graph, and each graph gets one answer."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, C)

        def forward(self, x):
            return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))).unflatten(0, (4, 5)).mean(1))

    with pytest.raises(ValueError, match=r"the first dimension of both must be the batch.*blocks=\[...\]"):
        attached(made(Pooled), torch.randn(20, 6, dtype=torch.float64))


def test_a_batch_of_another_size_is_fine_and_other_sizes_are_not():
    net = made(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C)
        )
    )
    learner = attached(net, torch.randn(2, 1, 8, 8, dtype=torch.float64))
    train_step(learner, torch.randn(7, 1, 8, 8, dtype=torch.float64))
    train_step(learner, torch.randn(1, 1, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"port '0' has shape \(2, 4, 7, 7\), its feedback teaches \(4, 6, 6\)"):
        learner(torch.randn(2, 1, 9, 9, dtype=torch.float64))


def test_another_number_of_outputs_is_refused_in_words():
    """As when one network serves two tasks."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 7), nn.Linear(7, C)

        def forward(self, x, wide=C):
            return self.b(torch.tanh(self.a(x)))[:, :wide]

    x, _t, _ = batch()
    learner = attached(made(Net), x)
    with pytest.raises(
        ValueError, match=r"teaches \(7,\) per sample from 5 numbers, and the output has shape \(8, 3\)"
    ):
        learner(x, wide=3)


# ------------------------------------------------------------------------------------------------------------ trees


def test_tensors_in_nested_containers():
    a, b, c = torch.zeros(3)
    tree = {"x": [a, (b, "text", None)], "y": 3, "z": {"w": c}}
    assert all(p is q for p, q in zip(tensors(tree), (a, b, c), strict=True))
    doubled = map_tensors(tree, lambda t: t + 1)
    assert doubled == {"x": [a + 1, (b + 1, "text", None)], "y": 3, "z": {"w": c + 1}}
    assert isinstance(doubled["x"][1], tuple)


def test_named_tuples_and_records_keep_their_class():
    from collections import OrderedDict, namedtuple

    Out = namedtuple("Out", "logits features")
    mapped = map_tensors(Out(torch.zeros(1), torch.ones(1)), lambda t: t + 1)
    assert isinstance(mapped, Out)
    assert mapped.features.item() == 2
    record = OrderedDict(b=torch.zeros(1), a=1)
    assert list(map_tensors(record, lambda t: t + 1)) == ["b", "a"]
    assert isinstance(map_tensors(record, lambda t: t + 1), OrderedDict)


def test_the_learner_is_a_learner():
    assert isinstance(attached(made(nets.mlp), None), Learner)
    assert attached(made(nets.mlp), None).summary() == "blocks are found at the first forward pass"
