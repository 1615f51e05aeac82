"""Edges: what happens around a step, and networks that are not as they were."""

import copy
import pickle
from dataclasses import dataclass, replace

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import C, batch, made
from torch import nn
from twins import STEPS, apart, batches, by_backward, by_step, cross_entropy, equal, twins

import skipback as sb
from skipback import update
from skipback.core.records import SkipbackWarning

DATA = batches()
X, T, IDS = DATA[0]
METHODS = {
    "dfa": lambda: sb.dfa(),
    "drtp": lambda: sb.drtp(),
    "f3": lambda: sb.f3(memory=16),
    "dkp": lambda: sb.dkp(),
    "fdfa": lambda: sb.fdfa(),
    "shallow": lambda: sb.shallow(),
    "fa": lambda: sb.fa(),
    "bp": lambda: sb.bp(),
}
every = pytest.mark.parametrize("name", METHODS)
teaching = pytest.mark.parametrize("name", ["dfa", "drtp", "f3", "dkp", "fa"])


def pair(name, build=nets.mlp):
    return twins(build, METHODS[name](), X)


def adam(learner):
    return torch.optim.Adam(learner.parameters(), lr=0.01, fused=True)


def snapshot(learner):
    return copy.deepcopy(dict(learner.state_dict()))


# ------------------------------------------------------------------------------------------- a network that changes


@pytest.mark.parametrize("part", ["0.weight", "0.", "2.", "4.", "4.weight", ""])
@teaching
def test_frozen_from_the_start(name, part):
    def build():
        net = nets.mlp()
        for key, p in net.named_parameters():
            p.requires_grad_(not key.startswith(part) or not part)
        return net

    one, other = pair(name, build)
    by_step(one, update.adam(0.01), DATA)
    by_backward(other, adam(other), DATA)
    assert equal(one, other)


@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
@teaching
def test_frozen_later_and_thawed_again(name, build):
    one, other = pair(name, build)
    step, optimizer = update.adam(0.01), adam(other)
    for k, data in enumerate(DATA):
        for learner in (one, other):
            next(learner.net.parameters()).requires_grad_(k not in (1, 2))
            next(learner.net.children()).bias.requires_grad_(k not in (2, 3))
        by_step(one, step, [data])
        by_backward(other, optimizer, [data])
    assert equal(one, other)


@teaching
def test_hooks_that_are_added_later_are_called(name):
    one, other = pair(name)
    step, optimizer = update.adam(0.01), adam(other)
    by_step(one, step, DATA[:2])
    by_backward(other, optimizer, DATA[:2])
    seen = []
    for learner in (one, other):
        learner.net[1].register_forward_hook(lambda m, x, y: seen.append(1) or y * 2)
    by_step(one, step, DATA[2:])
    assert len(seen) >= 3
    by_backward(other, optimizer, DATA[2:])
    assert equal(one, other)


@teaching
def test_hooks_on_all_modules_are_called(name):
    learner, _ = pair(name)
    by_step(learner, step := update.adam(), DATA[:1])
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, x, y: seen.append(type(m)))
    try:
        by_step(learner, step, DATA[1:2])
    finally:
        handle.remove()
    assert seen.count(nn.Linear) == 3 or seen.count(nn.Linear) == 6


@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_a_layer_that_is_exchanged(name):
    one, other = pair(name)
    step, optimizer = update.adam(0.01), adam(other)
    for k, data in enumerate(DATA):
        if k == 2:
            one.net[1] = nn.ReLU()
            other.net[1] = nn.ReLU()
        by_step(one, step, [data])
        by_backward(other, optimizer, [data])
    assert equal(one, other)


@pytest.mark.parametrize("every_k", [1, 2])
@pytest.mark.parametrize("name", ["dfa", "drtp", "f3"])
def test_tracking_sees_the_passes_and_changes_nothing(name, every_k):
    one, other = pair(name)
    step = update.adam(0.01)
    by_step(one, step, DATA[:1])
    with sb.track(one, batch=(X, T), loss=F.cross_entropy, ids=IDS, every=every_k) as track:
        by_step(one, step, DATA[1:])
    by_step(other, update.adam(0.01), DATA)
    assert equal(one, other)
    assert [look.forward for look in track.looks] == list(range(0, STEPS - 1, every_k))


@every
def test_what_is_taken_off_trains_no_more_and_the_network_is_plain(name):
    learner, _ = pair(name)
    by_step(learner, update.adam(), DATA)
    net = learner.detach()
    with pytest.raises(RuntimeError, match="attach one again"):
        learner.step(X, T, loss=cross_entropy, update=update.adam())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    plain = made(nets.mlp)
    plain.load_state_dict(net.state_dict())
    a, b = (torch.autograd.grad(cross_entropy(m(X), T), list(m.parameters())) for m in (net, plain))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def closed(learner):
    """Whether no pass is left open."""
    cutter = getattr(learner.route, "cutter", None)
    return not learner.gate.running and (cutter is None or cutter.run is None)


@every
def test_copies_and_pickles_go_on_alone(name):
    learner, _ = pair(name)
    by_step(learner, step := update.adam(0.01), DATA[:2])
    state = copy.deepcopy(step.optimizer.state_dict())
    copies = [copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    by_step(learner, step, DATA[2:])
    for twin in copies:
        assert not equal(twin, learner)
        (again := update.adam(0.01)).bind(twin.parameters()).load_state_dict(copy.deepcopy(state))
        by_step(twin, again, DATA[2:])
        assert equal(twin, learner)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", ["dfa", "drtp"])
@pytest.mark.parametrize(("build", "part"), [(nets.mlp, ""), (nets.mlp, "2"), (nets.Named, ""), (nets.Named, "head")])
def test_a_compiled_network(name, build, part):
    """By the way of backward: a graph that was captured cannot change weights in its middle."""
    one, other = pair(name, build)
    by_step(one, step := update.adam(0.01), DATA[:2])
    one.net.get_submodule(part).compile(backend="eager")
    by_step(one, step, DATA[2:])
    assert one._stepper.by_backward
    by_backward(other, adam(other), DATA)
    assert equal(one, other)


# -------------------------------------------------------------------------------------------- what goes on around it


@pytest.mark.parametrize("build", [nets.mlp, nets.Named, nets.dropout])
@pytest.mark.parametrize("name", ["dfa", "drtp", "f3", "dkp", "fa", "bp", "shallow"])
def test_under_autocast(name, build):
    """One context around all steps: what it keeps of the weights in bfloat16 must not outlive them.

    A stored error is not rounded to bfloat16, as the type of the output is not known when it is sent.
    """
    data = batches(dtype=torch.float32)
    one, other = twins(build, METHODS[name](), data[0][0], dtype=torch.float32)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        by_step(one, update.adam(0.01) if name != "f3" else update.sgd(0.1), data)
    torch.manual_seed(5)
    optimizer = adam(other) if name != "f3" else torch.optim.SGD(other.parameters(), 0.1, fused=True)
    for x, t, ids in data:
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(other(x, target=t, ids=ids), t)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert apart(one, other) < 0.01 if name == "f3" else equal(one, other)


@every
def test_inside_exact_it_is_plain_backprop(name):
    learner, _ = pair(name)
    plain = sb.attach(made(nets.mlp), sb.bp(), show=None)
    with learner.exact():
        by_step(learner, update.adam(0.01), DATA)
    by_step(plain, update.adam(0.01), DATA)
    assert nets.same(learner.net.state_dict(), plain.net.state_dict())


@every
def test_eval_mode_is_refused(name):
    learner, _ = pair(name)
    before = snapshot(learner)
    learner.eval()
    with pytest.raises(ValueError, match="call train"):
        learner.step(X, T, loss=cross_entropy, update=update.adam(), ids=IDS)
    assert nets.same(before, snapshot(learner))


@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
@pytest.mark.parametrize(
    ("name", "wrong"), [("drtp", "targets"), *((name, "positions") for name in ("dfa", "drtp", "f3", "dkp"))]
)
def test_what_does_not_fit_is_refused_and_changes_nothing(name, build, wrong):
    learner, other = pair(name, build)
    by_step(learner, step := update.adam(0.01), DATA[:1])
    by_step(other, good := update.adam(0.01), DATA[:1])
    before = snapshot(learner)
    x, t = (X[:6], T) if wrong == "targets" else (X[:, None].expand(-1, 3, -1), T)
    loss = lambda y, t: y.sum()  # noqa: E731  it takes all shapes: the ports must be looked at
    with pytest.raises(ValueError, match=r"port|batch|target|shape|input of sample"):
        learner.step(x, t, loss=loss, update=step, ids=IDS)
    assert nets.same(before, snapshot(learner))
    by_step(learner, step, DATA[1:])
    by_step(other, good, DATA[1:])
    assert equal(learner, other)


@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
@every
def test_a_loss_that_fails_leaves_the_learner_usable(name, build):
    learner, other = pair(name, build)
    step, good = update.adam(0.01), update.adam(0.01)
    by_step(learner, step, DATA[:1])
    by_step(other, good, DATA[:1])
    before = snapshot(learner)

    def failing(y, t):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        learner.step(X, T, loss=failing, update=step, ids=IDS)
    assert closed(learner)
    early = learner.direct is not None and learner.method.needs.early
    after = snapshot(learner)
    ours = {k for k in before if "stream" not in k and "position" not in k}
    if not early:
        assert nets.same({k: before[k] for k in ours}, {k: after[k] for k in ours})
    else:  # the hidden blocks had been taught before the loss was asked
        assert not torch.equal(
            before["net." + next(iter(dict(learner.net.named_parameters())))],
            after["net." + next(iter(dict(learner.net.named_parameters())))],
        )
        head = "net." + [*dict(learner.net.named_parameters())][-1]
        assert torch.equal(before[head], after[head])
        memory = [k for k in before if "memory" in k]
        assert all(torch.equal(before[k], after[k]) for k in memory)
    learner.load_state_dict(before)
    if not early:
        by_step(learner, step, DATA[1:])
        by_step(other, good, DATA[1:])
        assert equal(learner, other)


@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
@every
def test_a_network_that_fails_leaves_the_learner_usable(name, build):
    learner, other = pair(name, build)
    with pytest.raises(RuntimeError):
        learner.step(X[:, :3], T, loss=cross_entropy, update=update.adam(0.01), ids=IDS)
    assert closed(learner)
    learner.load_state_dict(other.state_dict())
    by_step(learner, update.adam(0.01), DATA)
    by_step(other, update.adam(0.01), DATA)
    assert equal(learner, other)


class Sometimes(nn.Module):
    """A block that is called as often as the input says."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, C)

    def forward(self, x, times):
        x = torch.tanh(self.a(x))
        for _ in range(times):
            x = torch.tanh(self.b(x))
        return self.out(x)


@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_a_block_that_is_called_again_later_is_refused(name):
    learner = sb.attach(made(Sometimes), METHODS[name](), (X, 1), show=None)
    step = update.adam()
    learner.step((X, 1), T, loss=cross_entropy, update=step)
    with pytest.raises(RuntimeError, match="took another way, at module 'b'.*called more than once"):
        learner.step((X, 2), T, loss=cross_entropy, update=step)
    assert closed(learner)
    learner.step((X, 1), T, loss=cross_entropy, update=step)


def test_a_memory_is_written_once_a_step_with_what_the_network_said(monkeypatch):
    learner, _ = pair("f3")
    calls, write = [], learner.memory.write
    monkeypatch.setattr(learner.memory, "write", lambda *a: calls.append(a[0].tolist()) or write(*a))
    outputs = []
    for x, t, ids in DATA:
        learner.step(
            x,
            t,
            loss=lambda y, t: outputs.append(y.detach().clone()) or cross_entropy(y, t),
            update=update.adam(),
            ids=ids,
        )
    assert calls == [ids.tolist() for _, _, ids in DATA]
    last = {
        i: row for (_, _, ids), y in zip(DATA, outputs, strict=True) for i, row in zip(ids.tolist(), y, strict=True)
    }
    x, t, ids = DATA[-1]
    target = F.one_hot(t, C).to(x)
    kept = learner.memory.read(ids, target)
    assert kept.shape == target.shape
    assert len(last) > 8


@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
def test_a_memory_refuses_other_inputs_for_a_sample(build):
    learner, _ = pair("f3", build)
    by_step(learner, step := update.sgd(), DATA)
    before = snapshot(learner)
    with pytest.raises(ValueError, match="differs from its last visit"):
        learner.step(X + 1, T, loss=cross_entropy, update=step, ids=IDS)
    assert nets.same(before, snapshot(learner))


@pytest.mark.parametrize("name", ["drtp", "f3"])
def test_an_early_signal_says_what_is_missing(name):
    learner, _ = pair(name)
    if name == "f3":
        with pytest.raises(ValueError, match="ids"):
            learner.step(X, T, loss=cross_entropy, update=update.adam())
    with pytest.raises(ValueError, match="target"):
        learner.step(X, None, loss=lambda y, t: y.sum(), update=update.adam(), ids=IDS)


def test_warnings_of_what_is_known_to_collapse():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, C), nn.LogSoftmax(1)).double()
    learner = sb.attach(net, sb.dfa(), X, show=None)
    with pytest.warns(SkipbackWarning, match="log-softmax"):
        learner.step(X, T, loss=F.nll_loss, update=update.adam())


@every
def test_blocks_are_found_at_the_first_step(name):
    if name in ("dkp", "fdfa"):
        pytest.skip("learned feedback needs an example")
    one, other = sb.attach(made(nets.mlp), METHODS[name](), show=None), pair(name)[1]
    by_step(one, update.adam(0.01), DATA)
    by_step(other, update.adam(0.01), DATA)
    assert equal(one, other)


def test_the_loss_is_returned_without_its_scale_and_without_a_graph():
    one, other = pair("dfa")
    losses = [
        learner.step(X, T, loss=cross_entropy, update=update.adam(), scale=s)
        for learner, s in ((one, 1.0), (other, 0.125))
    ]
    assert losses[0] == losses[1] == cross_entropy(made(nets.mlp)(X), T)
    assert not losses[0].requires_grad


@dataclass(frozen=True)
class OneForAll(type(sb.dkp().feedback)):
    """Learned feedback of ports of one shape, that share it."""

    def init(self, ports, generator):
        first = super().init(ports[:1], generator)[0]
        return [first] * len(ports)


def wide():
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, C))


@pytest.mark.parametrize("build", [wide, lambda: nets.Wrapper(wide())])
def test_learned_feedback_that_ports_share_is_changed_once_by_the_sum(build):
    method = sb.dkp()
    method = replace(method, feedback=OneForAll(**vars(method.feedback)))
    one, other = twins(build, method, X)
    by_step(one, update.adam(0.01), DATA)
    by_backward(other, adam(other), DATA)
    assert len(list(one.direct.parameters())) == 1
    assert equal(one, other)


def test_the_head_alone_keeps_nothing_of_the_hidden_blocks():
    learner, _ = pair("shallow", nets.dropout)
    by_step(learner, update.adam(), DATA)
    assert all(
        getattr(rule, "y", None) is None and getattr(rule, "saved", None) is None
        for _, rule in learner._stepper.chain.hidden
    )


def test_evaluation_goes_on_between_steps():
    one, other = pair("f3", nets.dropout)
    step, again = update.adam(), update.adam()
    for data in DATA:
        by_step(one, step, [data])
        by_step(other, again, [data])
        one.eval()
        with torch.no_grad():
            one(X)
        one.train()
        torch.manual_seed(3)
    assert not equal(one, pair("f3", nets.dropout)[0])


def test_two_inputs():
    x, t, _ = batch()
    case = lambda: nets.Named()  # noqa: E731
    one, other = pair("dfa", case)
    by_step(one, update.adam(0.01), [((x,), t, None)])
    by_step(other, update.adam(0.01), [(x, t, None)])
    assert equal(one, other)


@pytest.mark.parametrize("make", [sb.fdfa, sb.grape, sb.f3, sb.dfa])
def test_a_network_that_is_all_head(make):
    """There is no port to teach, and no tangent to run."""
    torch.manual_seed(0)
    net, x, t = nn.Sequential(nn.Linear(6, 3)), torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    W, b = (p.detach().clone() for p in net.parameters())
    leaf = W.requires_grad_()
    (dW,) = torch.autograd.grad(F.cross_entropy(x @ leaf.T + b, t), leaf)
    learner = sb.attach(net, make(memory=4) if make is sb.f3 else make(), example=x, show=None)
    learner.step(x, t, loss=F.cross_entropy, update=sb.update.sgd(0.1), ids=torch.arange(4))
    torch.testing.assert_close(net[0].weight, W - 0.1 * dW, rtol=0, atol=1e-7)


@every
def test_without_gradients_around_it_a_step_is_the_same(name):
    one, other = pair(name)
    with torch.no_grad():
        by_step(one, update.adam(0.01), DATA)
    by_step(other, update.adam(0.01), DATA)
    assert equal(one, other)


@every
def test_inference_mode_is_refused(name):
    """Its tensors would be the state of the optimizer, which no later step could change."""
    learner, _ = pair(name)
    before = snapshot(learner)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
        by_step(learner, step := update.adam(), DATA)
    assert nets.same(before, snapshot(learner))
    by_step(learner, step, DATA)


@pytest.mark.parametrize("name", ["drtp", "f3", "dfa"])
@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
def test_a_column_of_classes(name, build):
    """Targets (N, 1), of which the loss takes the column; N is C, so their number alone does not tell."""
    data = [(x, t[:, None], ids) for x, t, ids in batches(n=C)]
    one, other = pair(name, build)
    by_step(one, update.adam(0.01), data)
    by_backward(other, adam(other), data)
    assert equal(one, other)


@pytest.mark.parametrize("build", [nets.mlp, nets.Named])
def test_a_memory_is_written_though_all_hidden_blocks_are_frozen(build):
    """For a while: their ports are not met then, and the memory would miss the visits."""
    one, other = pair("f3", build)
    step, optimizer = update.adam(0.01), adam(other)
    for k, data in enumerate(DATA):
        for learner in (one, other):
            for p in [*learner.net.parameters()][:-2]:
                p.requires_grad_(k not in (1, 2))
        by_step(one, step, [data])
        by_backward(other, optimizer, [data])
        assert bool(other.memory.seen[data[2]].all())
    assert equal(one, other)


def test_lazy_layers_are_run_once_first():
    net = nn.Sequential(nn.LazyLinear(7), nn.Tanh(), nn.LazyLinear(C)).double()
    with pytest.raises(ValueError, match="run it once before attach"):
        sb.attach(net, sb.dfa(), X, show=None)
    net(X)
    with sb.attach(net, sb.dfa(), X, show=None) as learner:
        before = copy.deepcopy(net.state_dict())
        by_step(learner, update.adam(), DATA)
    assert not any(torch.equal(p, before[key]) for key, p in net.state_dict().items())


@pytest.mark.parametrize("inner", [nn.Identity, lambda: nn.BatchNorm1d(5)])
def test_a_forward_that_is_set_later_is_called(inner):
    """In a block by closed form, and in one by autograd."""
    torch.manual_seed(0)
    net, x, t = (
        nn.Sequential(nn.Linear(6, 5), inner(), nn.Tanh(), nn.Linear(5, 3)),
        torch.randn(8, 6),
        torch.arange(8) % 3,
    )
    learner, update = sb.attach(net, sb.drtp(), example=x, show=None), sb.update.sgd(0.1)
    learner.step(x, t, loss=F.cross_entropy, update=update)
    calls = []
    net[2].forward = lambda h: calls.append(h) or torch.sigmoid(h)
    learner.step(x, t, loss=F.cross_entropy, update=update)
    assert len(calls) >= 1
