"""torch.compile(fullgraph=True): one graph, and the numbers of eager mode."""

import copy

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import Recall, batch, made, same

import skipback as sb
from skipback import draws
from skipback.methods.dkp import Correlation
from skipback.structures import ConvShaped, Gated, Kronecker, LowRank, Normalised, Seeded, Sliced, UnitColumns


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(module):
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def three_steps(call, learner, x, t):
    """SGD; returns all that the training has left."""
    opt = torch.optim.SGD(learner.parameters(), lr=0.1)
    for _ in range(3):
        opt.zero_grad()
        F.cross_entropy(call(x), t).backward()
        opt.step()
    return {name: v for name, v in learner.state_dict().items() if name != "route.memory.prints"}


def with_options(name, t, ids):
    """The keywords of a call."""
    return {"drtp": {"target": t}, "f3": {"target": t, "ids": ids}, "lg_fg_a": {"target": t}}.get(name, {})


def method(name):
    return sb.f3(memory=8) if name == "f3" else getattr(sb, name)()


@pytest.mark.parametrize("name", ["dfa", "drtp", "f3", "dkp"])
def test_three_steps_of_the_learner(name):
    x, t, ids = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), method(name), x, show=None)
    eager = copy.deepcopy(learner)
    options = with_options(name, t, ids)
    graph = compiled(learner)
    expected = three_steps(lambda x: eager(x, **options), eager, x, t)
    found = three_steps(lambda x: graph(x, **options), learner, x, t)
    assert same(expected, found)
    if name == "dkp":
        assert found["route.feedback_0"].any()
    if name == "f3":
        assert found["route.memory.rows"].any()
        assert found["route.memory.seen"].all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch hides it, unless it is an error
@pytest.mark.parametrize("case", ["mlp", "lenet"])
@pytest.mark.parametrize("name", ["dfa", "drtp", "f3"])
def test_three_steps_of_the_network(name, case):
    """A target that travels by `given` is an input of the graph, not a constant of it.

    torch compiles the hooks of a class with a forward of its own (LeNet) apart from that forward.
    """
    case = nets.CASES[case]
    x, t, ids = batch(case.shape, dtype=torch.float32)
    learner = sb.attach(made(case.build, dtype=torch.float32), method(name), x, show=None)
    eager = copy.deepcopy(learner)
    graph = compiled(learner.net)

    def through(one, net):
        def call(x):
            with one.given(**with_options(name, t, ids)):
                return net(x)

        return call

    assert same(
        three_steps(through(eager, eager.net), eager, x, t), three_steps(through(learner, graph), learner, x, t)
    )


def test_another_batch_is_not_taught_by_the_signal_of_the_first():
    """The trap: a signal that is filled late is captured once, and silently stale."""
    x, t, ids = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.f3(memory=16), x, show=None)
    eager, graph = copy.deepcopy(learner), compiled(learner)
    for shift in (0, 1, 0, 1):
        target, sample = (t + shift) % nets.C, ids + 8 * shift
        for one, call in ((eager, eager), (learner, graph)):
            one.zero_grad()
            F.cross_entropy(call(x + shift, target=target, ids=sample), target).backward()
        assert same(nets.gradients(eager.net), nets.gradients(learner.net)), shift


STRUCTURES = [
    Sliced(),
    Sliced(draws.UnitNorm(), rescale=True),
    LowRank(3),
    Kronecker(),
    ConvShaped(3),
    Seeded(),
    UnitColumns(),
    Gated(Normalised(Correlation(draw=draws.Gaussian()))),
]


@pytest.mark.parametrize("feedback", STRUCTURES, ids=lambda one: type(one).__name__)
def test_three_steps_of_each_structure(feedback):
    x, t, _ids = batch(nets.IMAGE, dtype=torch.float32)
    learner = sb.attach(made(nets.conv, dtype=torch.float32), sb.dfa(feedback=feedback), x, show=None)
    eager, graph = copy.deepcopy(learner), compiled(learner)
    assert same(three_steps(eager, eager, x, t), three_steps(graph, learner, x, t))


@pytest.mark.parametrize("name", ["dfa", "drtp", "f3", "ebd", "ldfa", "normalised_dfa"])
def test_three_steps_with_positions(name):
    """Each position is a sample; one block is called twice, and its feedback goes in once."""
    tokens = torch.arange(24).reshape(8, 3) % 7
    learner = sb.attach(made(Recall, dtype=torch.float32), method(name), tokens, show=None)
    eager, graph = copy.deepcopy(learner), compiled(learner)
    options = with_options(name, tokens, torch.arange(8))

    def flat(call):
        return lambda x: call(x, **options).flatten(0, 1)

    t = tokens.flatten()
    assert same(three_steps(flat(eager), eager, tokens, t), three_steps(flat(graph), learner, tokens, t))


def test_exact_under_compile():
    x, t, _ids = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.dfa(), x, show=None)
    graph = compiled(learner)
    F.cross_entropy(graph(x), t).backward()
    learner.zero_grad()
    with learner.exact():
        F.cross_entropy(graph(x), t).backward()
    plain = made(nets.mlp, dtype=torch.float32)
    F.cross_entropy(plain(x), t).backward()
    assert same(nets.gradients(plain), nets.gradients(learner.net))


def test_evaluation_under_compile():
    x, _t, _ids = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.drtp(), x, show=None)
    learner.eval()
    with torch.no_grad():
        assert torch.equal(compiled(learner)(x), learner(x))


def test_a_target_that_is_missing_under_compile():
    x, _t, _ids = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.drtp(), x, show=None)
    with pytest.raises(Exception, match=r"learner\(x, target=t\)"):
        compiled(learner)(x)


def test_compiling_without_an_example():
    x, *_ = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.dfa(), show=None)
    with pytest.raises(Exception, match=r"pass example=... to attach\(\) before compiling"):
        compiled(learner)(x)


def test_eager_steps_after_compiled_ones():
    """A compiled pass writes rows, but does not compare views: the next eager one must not find them changed."""
    x, t, ids = batch(dtype=torch.float32)
    learner = sb.attach(made(nets.mlp, dtype=torch.float32), sb.f3(memory=8), x, show=None)
    compiled(learner)(x, target=t, ids=ids)
    assert learner.memory.seen.all()
    learner(x, target=t, ids=ids)
    with pytest.raises(ValueError, match="differs from its last visit"):
        learner(x + 1, target=t, ids=ids)


# --------------------------------------------------------------------------- what cannot be part of a compiled graph

OUTSIDE = {
    **dict.fromkeys(
        ["fdfa", "grape", "ifa", "fg_w", "fg_a", "lg_fg_a"], "random directions are drawn outside of compiled graphs"
    ),
    **dict.fromkeys(["fa", "kp", "weight_mirror"], "a layerwise method watches torch's functions"),
}
"""Methods that fullgraph=True refuses, and with which words."""


def small():
    return nets.linear_mlp(6, 5, nets.C)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_whole_graph_is_refused_and_nothing_has_happened(name):
    x, t, ids = batch(dtype=torch.float32)
    learner = sb.attach(made(small, dtype=torch.float32), method(name), x, show=None)
    eager, options = copy.deepcopy(learner), with_options(name, t, ids)
    with pytest.raises(Exception, match=OUTSIDE[name]):
        compiled(learner)(x, **options)
    for one in (eager, learner):
        F.cross_entropy(one(x, **options), t).backward()
    assert same(eager.state_dict(), learner.state_dict())
    assert same(nets.gradients(eager), nets.gradients(learner))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", OUTSIDE)
def test_graphs_with_gaps_give_the_numbers_of_eager_mode(name):
    """The trap: a compiled part of a forward-mode pass loses the tangents, and says nothing."""
    x, t, ids = batch(dtype=torch.float32)
    learner = sb.attach(made(small, dtype=torch.float32), method(name), x, show=None)
    eager, options = copy.deepcopy(learner), with_options(name, t, ids)
    backend = "aot_eager" if name in ("fdfa", "ifa", "fg_w", "fg_a") else "eager"  # the one that loses tangents
    graph = torch.compile(learner, backend=backend)
    expected = three_steps(lambda x: eager(x, **options), eager, x, t)
    assert same(expected, three_steps(lambda x: graph(x, **options), learner, x, t))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", ["fdfa", "fg_a"])
def test_a_compiled_part_of_the_network_hands_on_the_tangents(name):
    x, t, _ids = batch(dtype=torch.float32)
    eager = sb.attach(made(nets.residual_modules, dtype=torch.float32), method(name), x, show=None)
    learner = sb.attach(made(nets.residual_modules, dtype=torch.float32), method(name), x, show=None)
    learner.net[1].compile(backend="aot_eager")
    for one in (eager, learner):
        F.cross_entropy(one(x), t).backward()
    assert same(nets.gradients(eager), nets.gradients(learner))


@pytest.mark.parametrize("name", ["fg_w", "lg_fg_a"])
def test_a_whole_graph_is_refused_in_eval_mode_too(name):
    """Its backward is refused by a hook on the output, which must not be lost."""
    x, *_ = batch(dtype=torch.float32)
    learner = sb.attach(made(small, dtype=torch.float32), method(name), x, show=None).eval()
    with pytest.raises(Exception, match=OUTSIDE[name]):
        compiled(learner)(x)


class TwoHeads(torch.nn.Module):
    """Two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.p, self.q = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3), torch.nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.p(h), self.q(h)


def test_several_outputs_keep_their_gradient():
    net, x = made(TwoHeads), batch((5,))[0]
    learner, found = sb.attach(net, sb.dfa(), x, show=None), []
    for call in (learner, compiled(learner)):
        learner.zero_grad()
        p, q = call(x)
        (p.pow(2).sum() + q.sum()).backward()
        found.append({name: value.grad.clone() for name, value in net.named_parameters()})
    for name, g in found[0].items():
        torch.testing.assert_close(found[1][name], g)
        assert g.any()


class WithLoss(torch.nn.Module):
    """The loss is taken inside."""

    def __init__(self):
        super().__init__()
        self.a, self.p = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)

    def forward(self, x, labels):
        y = self.p(torch.tanh(self.a(x)))
        return F.cross_entropy(y, labels), y


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's, as it breaks
def test_a_loss_that_a_compiled_network_takes_is_refused():
    """The compiler falls back at the refusal, and the loss would get no gradient at all."""
    net, x, t = made(WithLoss), batch((5,))[0], torch.arange(8) % 3
    learner = sb.attach(net, sb.dfa(), (x, t), show=None)
    with pytest.raises(RuntimeError, match="is compiled and takes its loss itself"):
        torch.compile(learner, backend="aot_eager")(x, t)[0].backward()
