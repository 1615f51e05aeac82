"""A step is `backward` and `torch.optim`, to the bit: every method, network, update, and every change of both."""

import dataclasses

import lookalikes
import nets
import pytest
import torch
from twins import apart, batches, by_backward, by_step, equal, moved, twins, weights

import skipback as sb
from skipback import update
from skipback.step import stepper
from skipback.step.rules import Dense, ModulesBlock

Adam, AdamW, SGD, RMSprop = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop
KINDS = {
    "adam": (lambda: update.adam(lr=0.01), lambda ps: Adam(ps, lr=0.01, fused=True)),
    "adam_decay": (
        lambda: update.adam(0.01, (0.8, 0.99), 1e-6, 0.1),
        lambda ps: Adam(ps, 0.01, (0.8, 0.99), 1e-6, 0.1, fused=True),
    ),
    "adamw": (
        lambda: update.adamw(0.01, (0.8, 0.99), 1e-6, 0.1),
        lambda ps: AdamW(ps, 0.01, (0.8, 0.99), 1e-6, 0.1, fused=True),
    ),
    "sgd_outside": (lambda: update.sgd(0.3, inside=False), lambda ps: SGD(ps, 0.3, fused=True)),
    "sgd_decay": (lambda: update.sgd(0.3, 0.1), lambda ps: SGD(ps, 0.3, weight_decay=0.1, fused=True)),
    "momentum": (
        lambda: update.momentum(0.1, 0.8, weight_decay=0.1),
        lambda ps: SGD(ps, 0.1, momentum=0.8, weight_decay=0.1),
    ),
    "nesterov": (
        lambda: update.momentum(0.1, 0.8, nesterov=True),
        lambda ps: SGD(ps, 0.1, momentum=0.8, nesterov=True),
    ),
    "rmsprop": (
        lambda: update.rmsprop(0.01, 0.9, 1e-6, 0.1),
        lambda ps: RMSprop(ps, lr=0.01, alpha=0.9, eps=1e-6, weight_decay=0.1),
    ),
}
"""Updates with torch's bits: this package's, and torch's."""


def trained(build, method, data, kind="adam", *, scale=1.0):
    """Both twins after training, and whether the losses were the same numbers."""
    step, optim = KINDS[kind]
    one, other = twins(build, method, data[0][0])
    before = weights(one)
    torch.manual_seed(5)
    losses = by_step(one, step(), data, scale=scale)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    expected = by_backward(other, optim(other.parameters()), data, scale=scale)
    assert torch.equal(state, torch.get_rng_state())  # so dropout drew the same masks
    assert losses == pytest.approx(expected, rel=1e-12)
    assert moved(one, before)
    return one, other


def test_every_method_on_every_network(method, case, request):
    published = request.node.callspec.params["method"].endswith("-published")
    if published and request.node.callspec.params["case"] not in ("mlp", "lenet"):
        pytest.skip("the library's own convention runs on all of them")
    one, other = trained(case.build, method, batches(case.shape))
    stream = getattr(one.direct, "stream", None) is not None
    assert apart(one, other) < 1e-9 if stream else equal(one, other)
    assert all(p.grad is None for p in one.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dfa", "f3", "dkp", "bp"])
def test_every_update(kind, name):
    method = sb.f3(memory=16) if name == "f3" else getattr(sb, name)()
    assert equal(*trained(nets.mlp, method, batches(), kind))


@pytest.mark.parametrize("name", ["dfa", "drtp", "shallow"])
def test_sgd_inside_the_product_rounds_once_less(name):
    one, other = twins(nets.mlp, getattr(sb, name)(), batches()[0][0])
    by_step(one, update.sgd(0.3), batches())
    by_backward(other, SGD(other.parameters(), 0.3, fused=True), batches())
    assert 0 < apart(one, other) < 1e-12


NAMES = ("causal_lm", "lstm", "gru", "gcn", "encoder_decoder", "vit", "resnet20", "albert")
ZOO = [(name, method) for name in NAMES if name in lookalikes.CASES for method in ("dfa", "drtp", "f3", "dkp")]


@pytest.mark.parametrize(("name", "method"), ZOO)
def test_networks_of_every_kind(name, method):
    case = lookalikes.CASES[name]
    args, _ = case.inputs(8)
    t = (
        torch.arange(8 * lookalikes.T).reshape(8, lookalikes.T) % lookalikes.V
        if case.tokens
        else torch.arange(8) % nets.C
    )
    method = sb.f3(memory=8) if method == "f3" else getattr(sb, method)()
    assert equal(*trained(case.build, method, [(args, t, torch.arange(8))] * 3))


@pytest.mark.parametrize("name", ["dfa", "drtp", "fdfa"])
@pytest.mark.parametrize("build", [nets.Shared, nets.Unrolled, nets.Branches, nets.Listed, nets.residual_modules])
def test_blocks_that_are_called_twice_or_side_by_side(build, name):
    one, other = trained(build, getattr(sb, name)(), batches())
    assert apart(one, other) < 1e-9 if name == "fdfa" else equal(one, other)


def test_a_weight_of_two_blocks():
    x = torch.arange(40).reshape(8, 5) % 11
    assert equal(*trained(nets.Tied, sb.dfa(), [(x, torch.arange(8), None)] * 3))


@pytest.mark.parametrize("name", ["dfa", "drtp"])
@pytest.mark.parametrize("in_place", [False, True])
def test_blocks_that_run_again_in_backward(name, in_place):
    """Their weights must not change before."""
    assert equal(*trained(lambda: nets.Checkpointed(True, in_place), getattr(sb, name)(), batches()))


@pytest.mark.parametrize("name", ["dfa", "f3"])
def test_an_anchored_method(name):
    inner = sb.f3(memory=16) if name == "f3" else sb.dfa()
    one, other = trained(nets.mlp, sb.anchored(inner, every=2), batches())
    assert equal(one, other)
    assert one.backprop_share == other.backprop_share == 0.4


@pytest.mark.parametrize("name", ["dfa", "f3", "dkp", "fa"])
def test_a_scaled_loss(name):
    """What learned feedback and early signals cannot see of the loss is told them."""
    method = sb.f3(memory=16) if name == "f3" else getattr(sb, name)()
    assert equal(*trained(nets.mlp, method, batches(), "momentum", scale=0.25))
    one, other = (trained(nets.mlp, method, batches(), "momentum", scale=s)[0] for s in (0.25, 1.0))
    assert not equal(one, other)


ACTIVATIONS = {
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "relu": torch.nn.ReLU,
    "relu_in_place": lambda: torch.nn.ReLU(inplace=True),
    "leaky": lambda: torch.nn.LeakyReLU(0.3),
    "leaky_in_place": lambda: torch.nn.LeakyReLU(0.3, inplace=True),
    "gelu": torch.nn.GELU,
    "gelu_tanh": lambda: torch.nn.GELU(approximate="tanh"),
    "silu": torch.nn.SiLU,
    "identity": torch.nn.Identity,
}


def dense(activation, **kw):
    nn = torch.nn
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 7, **kw), activation(), nn.Linear(7, 5), activation())


@pytest.mark.parametrize("name", ["dfa", "drtp", "fdfa"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_closed_form_is_the_generic_rule(monkeypatch, activation, name):
    def build():
        return dense(ACTIVATIONS[activation])

    one, other = twins(build, getattr(sb, name)(), batches()[0][0])
    by_step(one, update.adam(0.01), batches())
    rules = [rule for _, rule in one._stepper.chain.hidden] + [one._stepper.chain.head]
    assert all(isinstance(rule, Dense) for rule in rules)
    monkeypatch.setattr("skipback.step.chain.rule", lambda modules, rows: ModulesBlock(modules))
    by_step(other, update.adam(0.01), batches())
    assert all(isinstance(rule, ModulesBlock) for _, rule in other._stepper.chain.hidden)
    assert apart(one, other) < 1e-9 if name == "fdfa" else equal(one, other)


def test_the_closed_form_is_off_for_what_it_does_not_know():
    """An activation or a layer of a class of its own, a parameter that is frozen, an override on the instance."""

    class Tanh(torch.nn.Tanh):
        def forward(self, x):
            return 2 * torch.tanh(x)

    class Linear(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    nn = torch.nn
    builds = [
        lambda: nn.Sequential(nn.Linear(6, 7), Tanh(), nn.Linear(7, 5)),
        lambda: nn.Sequential(Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)),
        lambda: nn.Sequential(nn.Linear(6, 7), nn.ELU(), nn.Linear(7, 5)),
        lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Tanh(), nn.Linear(7, 5)),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 5)),
    ]
    for build in builds:
        one, other = trained(build, sb.dfa(), batches())
        assert isinstance(one._stepper.chain.hidden[0][1], ModulesBlock)
        assert equal(one, other)


def test_an_override_on_the_instance_is_seen():
    def build():
        net = nets.mlp()
        net[0].forward = lambda x, net=net: torch.nn.functional.linear(x, net[0].weight) * 2
        return net

    assert equal(*trained(build, sb.dfa(), batches()))


def test_a_sequential_network_with_a_forward_of_its_own():
    class Doubled(torch.nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    assert equal(*trained(lambda: Doubled(*nets.mlp()), sb.dfa(), batches()))


def test_a_plain_network_takes_the_chain():
    """So what is held above is the fast path, not only its fallbacks."""
    for build, name in ((nets.mlp, "dfa"), (nets.conv, "drtp"), (nets.batchnorm, "dfa"), (nets.dropout, "drtp")):
        data = batches(nets.IMAGE if build is nets.conv else nets.FLAT)
        learner, _ = twins(build, getattr(sb, name)(), data[0][0])
        by_step(learner, update.adam(), data)
        assert isinstance(learner._stepper, stepper.Stepper)
        assert learner._stepper.chain is not None


def test_one_activation_object_in_two_places():
    def build():
        act = torch.nn.Tanh()
        layers = [torch.nn.Linear(i, o) for i, o in ((6, 7), (7, 6), (6, 5))]
        return torch.nn.Sequential(layers[0], act, layers[1], act, layers[2])

    assert equal(*trained(build, sb.dfa(), batches()))


def test_several_tangents():
    feedback = dataclasses.replace(sb.fdfa().feedback, tangents=3)
    one, other = trained(nets.mlp, sb.fdfa(feedback=feedback), batches(), "momentum")
    assert apart(one, other) < 1e-9
