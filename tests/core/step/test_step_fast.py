"""What a step does for speed: in place where it may, only there, and nothing stale in what it looks up once."""

from dataclasses import dataclass, field

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from twins import batches as drawn
from twins import by_backward, by_step, cross_entropy, equal, twins

import skipback as sb
from skipback import precision, update
from skipback.core import direct
from skipback.core.feedback import Fixed
from skipback.signals import LossGradient
from skipback.step import errors, forms, onednn, rules
from skipback.update.base import laid_out

ACTIVATIONS = [nn.Tanh, nn.Sigmoid, nn.ReLU]
activations = pytest.mark.parametrize("act", ACTIVATIONS)
DATA = drawn()
X, T, _ = DATA[0]


# ---------------------------------------------------------------------------------------------------------- in place


@activations
@pytest.mark.parametrize("before", [nn.Linear(4, 4), nn.BatchNorm1d(4)])
def test_a_block_by_autograd_writes_activations_over_what_it_has_just_made(act, before):
    graph = rules.ModulesBlock([nn.Identity(), before, act()])
    graph.run(torch.randn(3, 4))
    assert graph.y._version == 1


@activations
def test_a_dense_block_writes_its_activation_over_the_product(act):
    dense = rules.rule([nn.Linear(3, 4), act()], rows=True)
    with torch.no_grad():
        assert dense.run(torch.randn(2, 3))._version == 1


@activations
def test_delta_takes_the_place_of_a_teaching_that_is_nobody_elses(act):
    dense = rules.rule([nn.Linear(3, 4), act()], rows=True)
    with torch.no_grad():
        y, g = dense.run(torch.randn(2, 3)), torch.randn(2, 4)
        want = dense.activation.backward(g, y)
        assert want.data_ptr() != g.data_ptr()
        found = dense.derived(g)
    assert found.data_ptr() == g.data_ptr()
    assert torch.equal(found, want)
    assert y.abs().sum() > 0


@activations
@pytest.mark.parametrize(
    "before", [(), (nn.Identity(),), (nn.Flatten(),), (nn.Unflatten(1, (2, 2)),), (nn.Dropout().eval(),)]
)
def test_an_activation_leaves_alone_what_the_block_was_given(act, before):
    x = torch.randn(3, 4)
    kept = x.clone()
    rules.ModulesBlock([*before, act()]).run(x)
    assert torch.equal(x, kept)


@activations
def test_an_activation_leaves_alone_what_a_layer_with_its_own_forward_returns(act):
    x, layer = torch.randn(3, 4), nn.Linear(4, 4)
    layer.forward = lambda h: h
    kept = x.clone()
    rules.ModulesBlock([layer, act()]).run(x)
    assert torch.equal(x, kept)


@activations
def test_an_activation_with_its_own_forward_is_called(act):
    module = act()
    module.forward = lambda h: h * 7
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    assert torch.equal(rules.ModulesBlock([layer, module]).run(x), layer(x) * 7)


def test_rows_of_the_teaching_of_a_port_go_in_place_and_are_no_ones_matrix():
    """`own` holds for the product that DFA makes, and the matrix that it made it from stays."""
    learner, _ = twins(nets.mlp, sb.dfa(), X)
    before = {k: v.clone() for k, v in learner.direct.feedback.items()}
    by_step(learner, update.sgd(0.1), DATA)
    assert learner._stepper.may_overwrite
    assert all(torch.equal(before[k], v) for k, v in learner.direct.feedback.items())


@pytest.mark.parametrize("kind", [update.sgd, update.adam])
@pytest.mark.parametrize("own", [False, True])
def test_a_dense_block_writes_over_what_it_is_taught_by_if_nobody_else_has_it(kind, own):
    dense, step, g = rules.rule([nn.Linear(3, 4), nn.Tanh()], rows=True), kind(0.1), torch.randn(2, 4)
    step.bind(dense.parameters)
    kept = g.clone()
    with torch.no_grad():
        dense.run(torch.randn(2, 3))
        dense.learn(g, step, may_overwrite=own)
    assert torch.equal(g, kept) is not own


@pytest.mark.parametrize("name", ["dfa", "drtp", "fdfa"])
def test_a_step_lets_go_of_all_activations(name):
    learner, _ = twins(nets.mlp, getattr(sb, name)(), X)
    by_step(learner, update.sgd(0.1), DATA[:1])
    chain = learner._stepper.chain
    assert [rule.saved for rule in (*(rule for _, rule in chain.hidden), chain.head)] == [None] * 3


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("y", "t"), [((4, 3), (4, 1)), ((4, 1), (4, 3)), ((4, 1), (4,))])
def test_squares_of_other_shapes_spread_as_ever(y, t):
    y, t = torch.randn(y), torch.randn(t)
    leaf = y.clone().requires_grad_()
    want = F.mse_loss(leaf, t)
    value, e = errors.error(F.mse_loss, y, t, 1.0)
    assert torch.equal(value, want)
    assert torch.equal(e, torch.autograd.grad(want, leaf)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_that_is_ignored_is_so_in_the_closed_form(dtype):
    y, t = torch.randn(6, 3, dtype=dtype), torch.tensor([0, -100, 2, 1, -100, 1])
    leaf = y.clone().requires_grad_()
    want = F.cross_entropy(leaf, t)
    value, e = errors.error(F.cross_entropy, y, t, 1.0)
    assert torch.equal(value, want)
    assert torch.equal(e, torch.autograd.grad(want, leaf)[0])


@pytest.mark.parametrize("t", [torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 1, dtype=torch.int64)])
def test_classes_of_another_shape_are_refused_in_the_words_of_torch(t):
    words = []
    for loss in (lambda y, t: errors.error(F.cross_entropy, y, t, 1.0), F.cross_entropy):
        with pytest.raises(RuntimeError) as found:
            loss(torch.ones(4, 3), t)
        words.append(str(found.value))
    assert words[0] == words[1]


def test_the_gradient_of_a_loss_is_found_outside_of_autocast():
    """As `backward` is called there: a loss that computes in float32 has a gradient in float32."""
    y, t, W = torch.randn(6, 30), torch.randn(6, 20), torch.randn(30, 20)

    def loss(y, t):
        with torch.autocast("cpu", enabled=False):
            return (y @ W - t).square().mean()

    with torch.autocast("cpu", torch.bfloat16):
        value, e = errors.error(loss, y, t, 1.0)
    leaf = y.clone().requires_grad_()
    want = loss(leaf, t)
    assert torch.equal(value, want)
    assert torch.equal(e, torch.autograd.grad(want, leaf)[0])


# -------------------------------------------------------------------------------------------------- what is looked up


def test_forms_of_a_chain_are_kept_apart_by_what_was_asked_for():
    """Twice the same is one form; a step in float32 after one in bfloat16 is in float32."""
    learner, _ = twins(nets.mlp, sb.dfa(), X.float(), dtype=torch.float32)
    data, found = (X.float(), T, None), []

    def same(run):
        return run

    by_step(learner, step := update.sgd(0.1), [data])
    chain = learner._stepper.chain
    for cast in (True, False, True, False):
        found.append(forms.specialise(chain, cast=cast, compiler=same))
    assert found[0] is found[2]
    assert found[1] is found[3]
    assert [type(form.head).__name__ for form in found[:2]] == ["AutocastDense", "Dense"]
    assert forms.specialise(chain, cast=True, compiler=lambda run: run) is not found[0]
    by_step(learner, step, [data])


@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_a_hook_of_a_parameter_that_is_added_later_is_called(name):
    one, other = twins(nets.mlp, getattr(sb, name)(), X)
    step, optimizer = update.adam(0.01), torch.optim.Adam(other.parameters(), lr=0.01, fused=True)
    for k, data in enumerate(DATA):
        if k == 2:
            for learner in (one, other):
                learner.net[0].weight.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
        by_step(one, step, [data])
        by_backward(other, optimizer, [data])
    assert equal(one, other)


HOOKS = {
    "register_forward_pre_hook": lambda m, x: seen_by(m),
    "register_forward_hook": lambda m, x, y: seen_by(m),
    "register_full_backward_pre_hook": lambda m, g: seen_by(m),
    "register_full_backward_hook": lambda m, g, h: seen_by(m),
}
SEEN: list[type] = []


def seen_by(module):
    SEEN.append(type(module))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("kind", HOOKS)
def test_each_hook_that_is_added_later_is_called_and_let_go_again(kind, everywhere):
    learner, _ = twins(nets.mlp, sb.dfa(), X)
    by_step(learner, step := update.sgd(), DATA[:1])
    assert learner._stepper.chain is not None
    SEEN.clear()
    place = nn.modules.module if everywhere else learner.net[1]
    handle = getattr(place, kind.replace("register_", "register_module_") if everywhere else kind)(HOOKS[kind])
    try:
        by_step(learner, step, DATA[1:2])
    finally:
        handle.remove()
    assert nn.Tanh in SEEN
    SEEN.clear()
    by_step(learner, step, DATA[2:3])
    assert not SEEN
    assert learner._stepper.chain is not None


@pytest.mark.parametrize("name", ["dfa", "drtp"])
@pytest.mark.parametrize("key", ["weight", "bias"])
def test_a_parameter_that_is_exchanged(name, key):
    one, other = twins(nets.mlp, getattr(sb, name)(), X)
    by_step(one, update.sgd(0.1, inside=False), DATA[:2])
    by_backward(other, torch.optim.SGD(other.parameters(), 0.1, fused=True), DATA[:2])
    for learner in (one, other):
        layer = learner.net[2]
        setattr(layer, key, nn.Parameter(torch.full_like(getattr(layer, key), 0.1)))
    by_step(one, update.sgd(0.1, inside=False), DATA[2:])
    by_backward(other, torch.optim.SGD(other.parameters(), 0.1, fused=True), DATA[2:])
    assert equal(one, other)


def test_feedback_that_lies_on_two_devices_follows_as_a_whole():
    learner, _ = twins(nets.mlp, sb.dfa(), X)
    found = learner.direct
    found.feedback_1 = found.feedback_1.to("meta")
    found.follow(torch.device("meta"))
    assert {part.device.type for parts in found.parts.values() for part in parts} == {"meta"}


def test_while_nothing_changes_the_chain_is_the_same():
    """To find it anew takes longer than a small step."""
    learner, _ = twins(nets.mlp, sb.dfa(), X)
    by_step(learner, step := update.sgd(), DATA[:1])
    found = learner._stepper.chain
    by_step(learner, step, DATA[1:])
    assert learner._stepper.chain is found


def test_a_step_that_fails_keeps_nothing_of_the_head():
    def failing(y, t):
        raise KeyError("mine")

    learner, _ = twins(nets.mlp, sb.dfa(), X)
    with pytest.raises(KeyError, match="mine"):
        learner.step(X, T, loss=failing, update=update.sgd())
    chain = learner._stepper.chain
    assert [rule.saved for rule in (*(rule for _, rule in chain.hidden), chain.head)] == [None] * 3


def test_the_target_of_an_early_signal_is_made_a_matrix_once(monkeypatch):
    learner, _ = twins(nets.mlp, sb.f3(memory=16), X)
    monkeypatch.setattr(direct, "as_matrix", None)  # `early` has made it, and `remember` takes that
    by_step(learner, update.sgd(0.1), DATA)
    assert bool(learner.memory.seen.any())


def test_a_gradient_is_looked_at_once(monkeypatch):
    """Each look costs a wait for the device."""

    def build():
        return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, nets.C), nn.LayerNorm(nets.C))

    learner, _ = twins(build, sb.dfa(), X)
    looked = []
    monkeypatch.setattr(direct, "advise_error", lambda *args, **given: looked.append(args))
    by_step(learner, update.sgd(0.1), DATA)
    assert len(looked) == 1


def test_a_group_without_a_product_of_its_own_does_not_take_the_rate_of_another():
    """The weights decay and the biases do not: only the biases could be stepped inside a product."""

    def parted(learner):
        weights, biases = ([p for p in learner.parameters() if p.dim() == d] for d in (2, 1))
        groups = [{"params": weights, "weight_decay": 0.5}, {"params": biases, "weight_decay": 0.0}]
        return torch.optim.SGD(groups, 0.1, fused=True)

    one, other = twins(nets.mlp, sb.dfa(), X)
    step = update.sgd(0.1)
    step.optimizer = parted(one)
    by_step(one, step, DATA)
    by_backward(other, parted(other), DATA)
    assert equal(one, other)


@pytest.mark.parametrize("inside", [False, True])
def test_momentum_that_is_set_later_is_not_left_out(inside):
    one, other = twins(nets.mlp, sb.dfa(), X)
    step, optimizer = update.sgd(0.1, inside=inside), torch.optim.SGD(other.parameters(), 0.1, fused=True)
    step.bind(one.parameters())
    for found in (step.optimizer, optimizer):
        found.param_groups[0]["momentum"] = 0.9
    by_step(one, step, DATA)
    by_backward(other, optimizer, DATA)
    assert equal(one, other)


def test_a_gradient_of_another_type_is_laid_out_in_that_of_its_parameter():
    p, g = nn.Parameter(torch.randn(3, 4)), torch.randn(3, 4, dtype=torch.float64)
    assert laid_out(g, p).dtype == torch.float32


@pytest.mark.parametrize("kind", [update.sgd, update.adam, update.momentum])
def test_a_block_without_any_gradient_is_left_alone(kind):
    p, step = nn.Parameter(torch.ones(2)), kind(0.1)
    step.bind([p])
    with torch.no_grad():
        step.apply((p,), (None,))
    assert torch.equal(p, torch.ones(2))


def test_a_gradient_that_lies_as_its_parameter_does_is_not_copied():
    p = nn.Parameter(torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last))
    g = torch.randn(3, 4, 2, 2)
    alike = g.to(memory_format=torch.channels_last)
    assert laid_out(alike, p) is alike
    assert laid_out(g, p).stride() == p.stride()
    assert torch.equal(laid_out(g, p), g)


def test_a_group_that_is_added_later_is_found():
    """As the refusal says; torch appends it to the list that is there."""
    p, q, step = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), update.sgd(0.1)
    step.bind([p])
    with torch.no_grad():
        step.apply((p,), (torch.ones(2),))
        with pytest.raises(ValueError, match="add_param_group"):
            step.group(q)
        step.optimizer.add_param_group({"params": [q], "lr": 0.5})
        step.apply((p, q), (torch.ones(2), torch.ones(2)))
    torch.testing.assert_close((p.data, q.data), (torch.full((2,), 0.8), torch.full((2,), 0.5)))


@dataclass(frozen=True)
class Nosy(Fixed):
    """Feedback that looks at the signal alone, and notes what it is given beside it."""

    given: list = field(default_factory=list)

    def project(self, lesson, parts):
        self.given.append(lesson.activity)
        return super().project(lesson, parts)


def test_feedback_is_not_given_the_activity_unless_it_asks():
    feedback = Nosy()
    learner, _ = twins(nets.mlp, sb.Direct(paper=None, signal=LossGradient(), feedback=feedback), X)
    feedback.given.clear()
    by_step(learner, update.sgd(0.1), DATA[:1])
    assert feedback.given == [None, None]


# ------------------------------------------------------------------------------------------------------------ oneDNN


kernel = pytest.mark.skipif(not onednn._exact(), reason="this torch has no oneDNN kernel")


def wide(*end):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 300), nn.Tanh(), nn.Linear(300, 5), *end)
    return net, torch.randn(64, 100), torch.randint(5, (64,))


@kernel
@pytest.mark.parametrize(
    ("method", "end", "setting"),
    [
        (sb.drtp, (), "none"),
        (sb.dfa, (), "none"),
        (sb.shallow, (), "none"),
        (sb.fdfa, (), "bf16"),
        (sb.dfa, (nn.LayerNorm(5),), "bf16"),
    ],
)
def test_the_setting_at_the_loss(method, end, setting):
    """Behind a product that is large enough, torch's own are put back; what is not all dense goes by the setting."""
    net, x, t = wide(*end)
    learner, seen = sb.attach(net, method(), example=x, show=None), []

    def loss(y, t):
        seen.append(precision.product())
        return F.cross_entropy(y, t)

    learner.step(x, t, loss=loss, update=sb.update.sgd(0.1), precision=precision.onednn())
    assert seen == [setting]


@kernel
@pytest.mark.parametrize("exact", [False, True])
def test_sgd_inside_the_product_asks_for_onednn_where_that_is_exact(exact, monkeypatch):
    """The user's own setting stays, which a step without `precision` takes up."""
    net, x, t = wide()
    learner, step = sb.attach(net, sb.dfa(), example=x, show=None), update.sgd(0.1)
    before, chosen, choose = precision.product(), [], precision.choose_product
    choose("bf16")
    try:
        monkeypatch.setattr(precision, "exact", lambda: exact)
        monkeypatch.setattr(precision, "choose_product", lambda setting: chosen.append(setting) or choose(setting))
        learner.step(x, t, loss=F.cross_entropy, update=step)
        assert precision.product() == "bf16"
    finally:
        choose(before)
    assert chosen == ["none", "bf16" if exact else "none", "none", "none", "none", "bf16"]


@kernel
@pytest.mark.parametrize(
    ("act", "name"), [(nn.Tanh, "tanh"), (nn.Sigmoid, "sigmoid"), (nn.ReLU, "relu"), (nn.GELU, "none")]
)
def test_the_kernel_takes_over_the_activations_that_it_has(act, name, monkeypatch):
    seen, product = [], onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *args: seen.append(args[3:]) or product(*args))
    net, x, t = wide()
    net[1] = act()
    learner = sb.attach(net, sb.dfa(), example=x, show=None)
    learner.step(x, t, loss=F.cross_entropy, update=update.sgd(0.1), precision=precision.onednn())
    assert seen == ([()] if name == "none" else [(name,)])


@kernel
def test_an_input_of_another_type_is_refused_in_the_words_of_torch():
    words = []
    for how in (None, precision.onednn()):
        net, x, t = wide()
        learner = sb.attach(net, sb.dfa(), example=x, show=None)
        with pytest.raises(RuntimeError, match="dtype") as found:
            learner.step(x.double(), t, loss=F.cross_entropy, update=update.sgd(0.1), precision=how)
        words.append(str(found.value))
    assert words[0] == words[1]


@kernel
def test_a_compiled_step_takes_the_kernel_where_the_setting_asks_for_it_and_only_there(monkeypatch):
    """Blocks in closed form have nothing to compile, but their forms are kept apart by what was asked for."""
    seen, product = [], onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *args: seen.append(1) or product(*args))
    net, x, t = wide()
    learner, step, counts = sb.attach(net, sb.dfa(), example=x, show=None), update.sgd(0.1), []

    def same(run):
        return run

    for how in (None, precision.onednn(), None, precision.onednn()):
        seen.clear()
        learner.step(x, t, loss=F.cross_entropy, update=step, precision=how, compile=same)
        counts.append(len(seen))
    assert counts == [0, 1, 0, 1]


@kernel
def test_a_kernel_that_rounds_is_not_taken(monkeypatch):
    learner, _ = twins(nets.mlp, sb.dfa(), X.float(), dtype=torch.float32)
    by_step(learner, update.sgd(), [(X.float(), T, None)])
    chain, before = learner._stepper.chain, precision.product()
    precision.choose_product("bf16")
    try:
        assert onednn.takes(chain, X.float())
        assert not onednn.takes(chain, X.float().to("meta"))
        monkeypatch.setattr(onednn, "_product", lambda h, W: (h.bfloat16() @ W.bfloat16().t()).float())
        assert onednn._exact.__wrapped__() is False
        monkeypatch.setattr(onednn, "_exact", onednn._exact.__wrapped__)
        assert not onednn.takes(chain, X.float())
    finally:
        precision.choose_product(before)


@kernel
@pytest.mark.parametrize("kind", [update.sgd, update.adam])
def test_small_products_stay_with_torch(kind, monkeypatch):
    assert precision.exact()  # asked once, which changes the setting
    before, chosen, choose = precision.product(), [], precision.choose_product
    monkeypatch.setattr(precision, "choose_product", lambda setting: chosen.append(setting) or choose(setting))
    learner, _ = twins(nets.mlp, sb.drtp(), X.float(), dtype=torch.float32)
    learner.step(X.float(), T, loss=cross_entropy, update=kind(), precision=precision.onednn())
    opened, *within, closed, put_back = chosen
    assert (opened, closed, put_back) == ("bf16", "bf16", before)
    assert set(within) == {"none"}
