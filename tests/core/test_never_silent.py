"""What people write around their networks: taught by the right error or refused in words, never backprop in silence."""

import contextlib
import copy
import subprocess
import sys
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import skipback as sb
from skipback import structures

X, T = torch.randn(8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(8) % 3


def mlp(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def made(build):
    torch.manual_seed(1)
    return build().double()


def attached(net, method=None, x=X, **how):
    return sb.attach(net, method or sb.dfa(), example=x, show=None, **how)


def grads(net):
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def error(y, t=T):
    return ((torch.softmax(y, 1) - F.one_hot(t, y.shape[1])) / len(t)).detach()


# ------------------------------------------------------------------------------------------- hooks of other libraries


class Saving:
    """Saves what enters each layer for a backward pass, and counts on its parameters, as Opacus does."""

    def __init__(self, net):
        for layer in net:
            layer.register_forward_hook(self.save)

    def save(self, layer, args, output):
        if torch.is_grad_enabled():
            vars(layer).setdefault("saved", []).append(args[0].detach())
            for p in layer.parameters():
                p.waiting = getattr(p, "waiting", 0) + 1
            if output.requires_grad:
                output.register_hook(lambda g: self.take(layer))

    def take(self, layer):
        layer.saved.pop()
        for p in layer.parameters():
            p.waiting -= 1


@pytest.mark.parametrize("example", [None, X])
@pytest.mark.parametrize("first", ["attach", "hooks"])
def test_a_discovery_pass_leaves_nothing_behind_that_hooks_of_others_have_saved(first, example):
    net = mlp()
    if first == "hooks":
        Saving(net)
    attached(net, x=example)
    if first == "attach":
        Saving(net)
    F.cross_entropy(net(X), T).backward()
    assert all(net[k].saved == [] for k in (0, 2, 4))
    assert all(p.waiting == 0 for p in net.parameters())


class Built(nn.Module):
    """Makes its layers in the first pass, and notes that."""

    def __init__(self):
        super().__init__()
        self.out, self.ready, self.passes = nn.Linear(16, 3), False, 0

    def forward(self, x):
        if not self.ready:
            self.hidden, self.ready = nn.Linear(x.shape[1], 16).double(), True
        self.passes += 1
        return self.out(torch.tanh(self.hidden(x)))


def test_layers_that_the_discovery_pass_made_stay():
    net = made(Built)
    learner = attached(net)
    hidden = net.hidden
    F.cross_entropy(net(X), T).backward()
    assert net.hidden is hidden
    assert list(learner.feedback) == ["hidden"]
    assert hidden.weight.grad is not None
    passes = net.passes
    sb.alignment(learner, X, T, F.cross_entropy)
    assert net.passes == passes  # counted in no pass that leaves no trace


class HookedLate(nn.Module):
    """Puts hooks on its layers in the first pass, notes that in itself, and reads what they have recorded."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.ready, self.states = False, []

    def forward(self, x):
        if not self.ready:
            for layer in (self.a, self.b):
                layer.register_forward_hook(lambda layer, args, output: self.states.append(output))
            self.ready = True
        self.states.clear()
        self.b(torch.tanh(self.a(x)))
        assert len(self.states) == 2
        return self.out(torch.tanh(self.states[1]))


def test_hooks_that_the_discovery_pass_made_are_made_once():
    net = made(HookedLate)
    learner = attached(net)
    y = net(X)
    F.cross_entropy(y, T).backward()
    h = torch.tanh(F.linear(X, net.a.weight, net.a.bias)).detach()
    k = torch.tanh(F.linear(h, net.b.weight, net.b.bias)).detach()
    delta = error(y) @ learner.feedback["b"] * (1 - k**2)
    torch.testing.assert_close(net.b.weight.grad, delta.T @ h, rtol=1e-9, atol=1e-12)


class Recording(nn.Module):
    """Hooks of its own record what its layers return, and its head reads that, as in some of transformers' models."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out, self.states = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 3), []
        for layer in (self.a, self.b):
            layer.register_forward_hook(lambda layer, args, output: self.states.append(output))

    def forward(self, x):
        self.states.clear()
        self.b(torch.tanh(self.a(x)))
        return self.out(torch.tanh(self.states[0] + self.states[1]))


def test_hooks_that_record_what_is_cut_after_its_module_see_what_flows_on():
    net = made(Recording)
    learner = attached(net, blocks=["a", "b"])
    y = net(X)
    F.cross_entropy(y, T).backward()
    h = torch.tanh(F.linear(X, net.a.weight, net.a.bias)).detach()
    torch.testing.assert_close(net.a.weight.grad, (error(y) @ learner.feedback["a"]).T @ X, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(net.b.weight.grad, (error(y) @ learner.feedback["b"]).T @ h, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------- compiled networks


@pytest.mark.parametrize("whose", ["inner", "compiled"])
def test_a_network_that_was_compiled_and_run_before_is_taught(whose):
    net = mlp()
    wanted = attached(copy.deepcopy(net))
    F.cross_entropy(wanted(X), T).backward()
    fast = torch.compile(net, backend="aot_eager")
    F.cross_entropy(fast(X), T).backward()
    bp = grads(net)
    net.zero_grad()
    learner = attached(net if whose == "inner" else fast)
    F.cross_entropy(fast(X), T).backward()
    for name, g in grads(wanted.net).items():
        torch.testing.assert_close(grads(net)[name], g, rtol=1e-10, atol=1e-12)
        assert name.startswith("4") or not torch.allclose(g, bp[name])
    learner.detach()
    net.zero_grad()
    F.cross_entropy(fast(X), T).backward()
    torch.testing.assert_close(grads(net), bp)


# -------------------------------------------------------------------------------------- layers that run sometimes


class Depth(nn.Module):
    """Stochastic depth: a layer is left out where `skip` says so."""

    def __init__(self):
        super().__init__()
        self.l, self.o = nn.ModuleList(nn.Linear(10, 10) for _ in range(4)), nn.Linear(10, 3)
        self.skip = set()

    def forward(self, x):
        for k, layer in enumerate(self.l):
            if k not in self.skip:
                x = torch.tanh(layer(x))
        return self.o(x)


def by_hand(net, learner, x):
    """The gradients of direct feedback, layer by layer, for the layers that run."""
    found, h = {}, x
    e = error(net_output(net, x))
    for k, layer in enumerate(net.l):
        if k not in net.skip:
            a = torch.tanh(F.linear(h, layer.weight, layer.bias)).detach()
            delta = (e @ learner.feedback[f"l.{k}"]) * (1 - a**2)
            found[f"l.{k}.weight"], h = delta.T @ h, a
    return found


def net_output(net, x):
    for k, layer in enumerate(net.l):
        if k not in net.skip:
            x = torch.tanh(F.linear(x, layer.weight, layer.bias))
    return F.linear(x, net.o.weight, net.o.bias).detach()


@pytest.mark.parametrize("first", [{1}, {0, 3}, set()])
@pytest.mark.parametrize("later", [set(), {2}, {1, 2}, {0}, {3}])
def test_every_block_is_cut_in_every_pass(first, later):
    net = made(Depth)
    net.skip = first
    learner = attached(net)
    net.skip = later
    F.cross_entropy(net(X), T).backward()
    wanted = by_hand(net, learner, X)
    for name, g in wanted.items():
        torch.testing.assert_close(grads(net)[name], g, rtol=1e-10, atol=1e-12, msg=name)


def test_learned_feedback_of_a_layer_that_runs_later_is_refused():
    net = made(Depth)
    net.skip = {1}
    attached(net, sb.dkp())
    net.skip = set()
    with pytest.raises(RuntimeError, match=r"block 'l\.1' did not run in the pass that found the blocks.*optimizer"):
        net(X)


class Sometimes(nn.Module):
    """A skip connection that is there only sometimes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o, self.skip = nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 3), False

    def forward(self, x):
        h = torch.tanh(self.a(x))
        k = torch.tanh(self.b(h))
        return self.o(k + h if self.skip else k)


def test_a_skip_that_comes_later_is_refused():
    net = made(Sometimes)
    attached(net)
    F.cross_entropy(net(X), T).backward()
    net.skip = True
    with pytest.raises(RuntimeError, match=r"takes another way .* a value jumps over a cut"):
        net(X)


# ------------------------------------------------------------------------------------------------- no cut is found


class Bare(nn.Module):
    """Weights without modules."""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterList([torch.randn(16, 10), torch.randn(16, 16), torch.randn(3, 16)])

    def forward(self, x):
        for w in self.w[:2]:
            x = torch.tanh(F.linear(x, w))
        return F.linear(x, self.w[2])


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return torch.func.functional_call(nn.Sequential(*self.inner), dict(self.inner.named_parameters()), (x,))


CUTTING = {
    "dfa": sb.dfa(),
    "drtp": sb.drtp(),
    "f3": sb.f3(memory=8),
    "fdfa": sb.fdfa(),
    "fg_a": sb.fg_a(),
    "shallow": sb.shallow(),
}


@pytest.mark.parametrize("name", CUTTING)
def test_weights_without_modules_are_refused(name):
    with pytest.raises(ValueError, match=r"weights 'w\.\d'.* outside of the modules .* backprop would run through all"):
        attached(made(Bare), CUTTING[name])


class BareBelow(nn.Module):
    """One weight without a module, before the last layer."""

    def __init__(self):
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(16, 10)), nn.Linear(16, 3)

    def forward(self, x):
        return self.out(torch.tanh(F.linear(x, self.w)))


def test_a_hidden_weight_without_a_module_is_no_part_of_the_head():
    with pytest.raises(
        ValueError, match=r"weights 'w' are used outside of the modules .* backprop would run through all"
    ):
        attached(made(BareBelow))


def test_a_scripted_network_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.trace(mlp(), X)
    with pytest.raises(ValueError, match="a scripted network cannot be cut"):
        attached(net)


class ByForward(nn.Module):
    """Two layers whose hooks never run."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.by_forward = True

    def forward(self, x):
        a, b = (self.a.forward, self.b.forward) if self.by_forward else (self.a, self.b)
        return self.out(torch.tanh(b(torch.tanh(a(x)))))


@pytest.mark.parametrize("name", CUTTING)
def test_a_layer_whose_forward_is_called_directly_is_refused_with_that_cause(name):
    with pytest.raises(ValueError, match=r"'b.weight', 'a.weight' are used .*layer.forward\(x\), which runs no hook"):
        attached(made(ByForward), CUTTING[name])


def test_a_layer_whose_forward_is_called_directly_after_attach_is_refused_with_that_cause():
    net = made(ByForward)
    net.by_forward = False
    attached(net)
    F.cross_entropy(net(X), T).backward()
    net.by_forward = True
    with pytest.raises(RuntimeError, match=r"module 'a' was used .*called by its forward\(x\), which runs no hook"):
        net(X)


class Unregistered(nn.Module):
    """Layers in a plain list: not the network's, so no optimizer of its parameters trains them either."""

    def __init__(self):
        super().__init__()
        self.layers, self.out = [nn.Linear(10, 16).double(), nn.Linear(16, 16).double()], nn.Linear(16, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.out(x)


@pytest.mark.parametrize("name", CUTTING)
def test_layers_in_a_plain_list_are_refused(name):
    with pytest.raises(
        ValueError, match="'a parameter that the network does not hold' are used outside of the modules"
    ):
        attached(made(Unregistered), CUTTING[name])


class Shaped(nn.Module):
    """A table that is asked by shape and device, as position embeddings are."""

    def __init__(self):
        super().__init__()
        self.a, self.table, self.out = nn.Linear(10, 16), Table(), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.out(torch.tanh(h + self.table(h.shape, h.device, h.dtype)))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 16))

    def forward(self, shape, device, dtype):
        return self.weight.expand(shape).to(device, dtype)


def test_a_device_or_a_shape_hides_no_tensor():
    """The table is added to the port, so its gradient is the teaching of the port behind the addition."""
    net = made(Shaped)
    learner = attached(net)
    y = net(X)
    F.cross_entropy(y, T).backward()
    assert list(learner.feedback) == ["table"]
    h = torch.tanh(X @ net.a.weight.T + net.a.bias).detach() + net.table.weight.detach()
    delta = error(y) @ learner.feedback["table"] * (1 - torch.tanh(h) ** 2)
    torch.testing.assert_close(net.table.weight.grad, delta.sum(0, keepdim=True), rtol=1e-9, atol=1e-12)


class Cached(nn.Module):
    """A layer that is asked by an object alone, which may hold what another layer has computed."""

    def __init__(self):
        super().__init__()
        self.a, self.table, self.out = nn.Linear(10, 16), Table(), nn.Linear(16, 3)
        self.full = False

    def forward(self, x):
        h, cache = torch.tanh(self.a(x)), types.SimpleNamespace(states=[], shape=(8, 16))
        if self.full:
            cache.states.append(h)
        return self.out(torch.tanh(h + self.table(cache)))


def test_an_object_is_refused_only_where_it_hides_a_tensor():
    class Asked(Table):
        def forward(self, cache):
            return self.weight.expand(cache.shape)

    net = made(Cached)
    net.table = Asked().double()
    learner = attached(net)
    assert list(learner.feedback) == ["table"]
    learner.detach()
    net.full = True
    with pytest.raises(
        ValueError, match="block 'table' receives a SimpleNamespace, and tensors inside of it cannot be"
    ):
        attached(net)


class Prototypes(nn.Module):
    """What is compared with is the mean of the batch, so its shape is that of a table."""

    def __init__(self, of_batch):
        super().__init__()
        self.embed, self.query, self.out = nn.Embedding(9, 6), nn.Linear(10, 6), nn.Linear(6, 3)
        self.layer, self.of_batch = Mixed(), of_batch

    def forward(self, x, tokens):
        table = self.embed(tokens if self.of_batch else torch.arange(9)).flatten(0, -2).mean(0, keepdim=True)
        return self.out(self.layer(torch.tanh(self.query(x)), table))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Linear(6, 6)

    def forward(self, h, table):
        return torch.tanh(self.w(h * table))


def test_a_mean_over_the_batch_is_no_constant():
    """It has the shape of a parameter, and nothing but a parameter behind it; but the batch is in it."""
    tokens = torch.arange(16).reshape(8, 2) % 9
    with pytest.raises(ValueError, match=r"port 'embed' has shape \(1, 6\).*the first dimension of both must be"):
        attached(made(lambda: Prototypes(of_batch=True)), x=(X, tokens))
    assert list(attached(made(lambda: Prototypes(of_batch=False)), x=(X, tokens)).feedback) == ["query", "layer"]


class Hyper(nn.Module):
    """A table that two layers make of parameters alone: between them backprop would run."""

    def __init__(self):
        super().__init__()
        self.start, self.first, self.second = nn.Parameter(torch.randn(1, 5)), nn.Linear(5, 7), nn.Linear(7, 6)
        self.query, self.layer, self.out = nn.Linear(10, 6), Mixed(), nn.Linear(6, 3)

    def forward(self, x):
        table = self.second(torch.tanh(self.first(self.start)))
        return self.out(self.layer(torch.tanh(self.query(x)), table))


def test_layers_between_parameters_and_a_constant_are_refused():
    with pytest.raises(ValueError, match=r"port 'first' has shape \(1, 7\).*the first dimension of both must be"):
        attached(made(Hyper))


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    if not torch.distributed.is_available():
        pytest.skip("torch without torch.distributed")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def sharded(net, mesh, *, each):
    for layer in net if each else ():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


@pytest.mark.parametrize("name", CUTTING)
def test_layers_that_were_sharded_one_by_one_are_refused_before_and_after_attach(name, one_rank):
    with pytest.raises(ValueError, match=r"layers of this network were sharded one by one .*fully_shard\(net\)"):
        attached(sharded(mlp(), one_rank, each=True), CUTTING[name])
    net = mlp()
    learner = attached(net, CUTTING[name])
    sharded(net, one_rank, each=True)
    with pytest.raises(RuntimeError, match=r"layers of this network were sharded one by one .*fully_shard\(net\)"):
        learner(X, target=T, ids=torch.arange(8))


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_network_that_was_sharded_as_a_whole_has_the_gradients_of_one_that_was_not(order, one_rank):
    plain, net = mlp(), mlp()
    attached(plain)
    F.cross_entropy(plain(X), T).backward()
    if order == "before":
        sharded(net, one_rank, each=False)
    learner = attached(net)
    if order == "after":
        sharded(net, one_rank, each=False)
    F.cross_entropy(net(X), T).backward()
    with pytest.raises(ValueError, match=r"weights are sharded .* measure an unsharded network"):
        sb.audit(learner, X, T, F.cross_entropy)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad.full_tensor(), q.grad, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- several outputs


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.mu, self.lv = nn.Linear(10, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.d1, self.d2 = nn.Linear(4, 12), nn.Linear(12, 10)

    def forward(self, x):
        h = torch.tanh(self.enc(x))
        mu, lv = self.mu(h), self.lv(h)
        z = mu + 0.5 * torch.exp(lv / 2)
        return self.d2(torch.tanh(self.d1(z))), mu, lv


def test_the_kl_term_teaches_the_encoders_own_block():
    net = made(VAE)
    learner = attached(net)
    y, mu, lv = net(X)
    rec, kl = F.mse_loss(y, X), -0.5 * (1 + lv - mu**2 - lv.exp()).sum(1).mean()
    (rec + 3 * kl).backward()
    found = grads(net)
    e = (2 * (y - X) / y.numel()).detach()
    with learner.exact():
        h = torch.tanh(net.enc(X)).detach()
        mu, lv = net.mu(h), net.lv(h)
        z = mu + 0.5 * torch.exp(lv / 2)
        kl = -0.5 * (1 + lv - mu**2 - lv.exp()).sum(1).mean()
        wanted = torch.autograd.grad((z * (e @ learner.feedback["lv"])).sum() + 3 * kl, [net.mu.weight, net.lv.weight])
    torch.testing.assert_close(found["mu.weight"], wanted[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["lv.weight"], wanted[1], rtol=1e-9, atol=1e-12)
    # the KL term stays in its block: the encoder is taught by the reconstruction alone
    delta = (e @ learner.feedback["enc"]) * (1 - h**2)
    torch.testing.assert_close(found["enc.weight"], delta.T @ X, rtol=1e-9, atol=1e-12)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher, self.student = mlp(2).requires_grad_(False), mlp(3)

    def forward(self, x):
        return self.teacher(x), self.student(x)


def test_an_output_of_frozen_parameters_is_no_output():
    net = Pair()
    learner = attached(net)
    assert list(learner.layout.outputs) == ["1"]
    q, y = net(X)
    assert not q.requires_grad
    F.kl_div(y.log_softmax(1), q.softmax(1), reduction="batchmean").backward()
    e = ((y.softmax(1) - q.softmax(1)) / 8).detach()
    h = torch.tanh(F.linear(X, net.student[0].weight, net.student[0].bias)).detach()
    wanted = ((e @ learner.feedback["student.0"]) * (1 - h**2)).T @ X
    torch.testing.assert_close(net.student[0].weight.grad, wanted, rtol=1e-9, atol=1e-12)
    net.teacher.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"returns '0', which teaches and did not .*: attach again"):
        net(X)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(10, 7), nn.Linear(7, 5), nn.Linear(5, 3)

    def one(self, x):
        return self.o(torch.tanh(self.b(torch.tanh(self.a(x)))))

    def forward(self, x, z):
        return {"first": self.one(x), "second": self.one(z)}


def test_a_module_called_twice_is_taught_by_the_output_that_each_call_leads_to():
    net, z = made(Twice), X.flip(1)
    learner = attached(net, x=(X, z))
    out = net(X, z)
    (F.cross_entropy(out["first"], T) + F.cross_entropy(out["second"], T.flip(0))).backward()
    e = error(out["first"]), error(out["second"], T.flip(0))
    wanted = 0
    for one, x in zip(e, (X, z), strict=True):
        h = torch.tanh(F.linear(x, net.a.weight, net.a.bias)).detach()
        wanted = wanted + ((one @ learner.feedback["a"]) * (1 - h**2)).T @ x
    torch.testing.assert_close(net.a.weight.grad, wanted, rtol=1e-9, atol=1e-12)


class TwiceAfter(Twice):
    """Cut after each module, the head too: what `b` reads is a view of what jumps over it."""

    def __init__(self):
        super().__init__()
        self.b, self.o = nn.Linear(4, 5), nn.Linear(12, 3)

    def one(self, x):
        h = torch.tanh(self.a(x))
        return self.o(torch.cat([h, torch.tanh(self.b(h[:, :4]))], 1))


def test_a_head_that_is_cut_after_itself_and_called_twice_has_columns_once():
    net, z = made(TwiceAfter), X.flip(1)
    learner = attached(net, x=(X, z))
    assert learner.feedback["a"].shape == (3, 7)
    out = net(X, z)
    (F.cross_entropy(out["first"], T) + F.cross_entropy(out["second"], T.flip(0))).backward()
    e = error(out["first"]), error(out["second"], T.flip(0))
    wanted = sum((one @ learner.feedback["a"]).T @ x for one, x in zip(e, (X, z), strict=True))
    torch.testing.assert_close(net.a.weight.grad, wanted, rtol=1e-9, atol=1e-12)


class SometimesTwice(Twice):
    """Two calls of one head, of which one may leave a block out."""

    drop = False

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(7, 7)
        self.o = nn.Linear(7, 3)

    def one(self, x):
        h = torch.tanh(self.a(x))
        h = h if self.drop and x[0, 0] == X[0, 0] else torch.tanh(self.b(h))
        return self.o(h)


def test_calls_of_one_head_in_another_order_are_refused():
    net = made(SometimesTwice)
    attached(net, x=(X, X.flip(1)))
    net.drop = True
    with pytest.raises(RuntimeError, match="not known which output each call leads to"):
        net(X, X.flip(1))


class ByChance(nn.Module):
    """A block that runs in every second pass in training."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o, self.passes = nn.Linear(10, 7), nn.Linear(7, 7), nn.Linear(7, 3), 0

    def forward(self, x):
        h, self.passes = torch.tanh(self.a(x)), self.passes + self.training
        return self.o(torch.tanh(self.b(h)) if self.passes % 2 == 0 else h)


def test_a_block_that_forward_mode_did_not_run_is_refused():
    net = made(ByChance).eval()
    learner = attached(net, sb.grape())
    learner.train()
    with pytest.raises(RuntimeError, match=r"block '.' ran in this forward pass, but not in that of forward mode"):
        net(X)


class Vectors(nn.Module):
    """Two numbers per sample, each a vector (N,)."""

    def __init__(self):
        super().__init__()
        self.a, self.p, self.q = nn.Linear(10, 7), nn.Linear(7, 1), nn.Linear(7, 1)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.p(h).squeeze(1), self.q(h).squeeze(1)


def test_several_vectors_are_columns():
    net = made(Vectors)
    learner = attached(net)
    p, q = net(X)
    (p.pow(2).sum() + 3 * q.sum()).backward()
    e = torch.stack([2 * p, torch.full_like(p, 3)], 1).detach()
    h = torch.tanh(F.linear(X, net.a.weight, net.a.bias)).detach()
    wanted = ((e @ learner.feedback["a"]) * (1 - h**2)).T @ X
    torch.testing.assert_close(net.a.weight.grad, wanted, rtol=1e-9, atol=1e-12)


class Cell(nn.Module):
    """A recurrent cell of two modules."""

    def __init__(self):
        super().__init__()
        self.x, self.h, self.out = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for one in x.unflatten(1, (2, 5)).unbind(1):
            h = torch.tanh(self.x(one) + self.h(h))
        return self.out(h)


def test_all_states_of_a_cell_are_taught_by_one_matrix():
    assert list(attached(made(Cell)).feedback) == ["h"]


class WithLoss(nn.Module):
    """As the models of Hugging Face: the loss is taken inside where labels are passed."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x, labels=None):
        y = self.net(x)
        return {"loss": F.cross_entropy(y, labels), "logits": y} if labels is not None else {"logits": y}


@pytest.mark.parametrize("example", [True, False])
def test_a_loss_among_the_outputs_teaches_as_if_it_was_taken_outside(example):
    outside, inside = made(WithLoss), made(WithLoss)
    attached(outside)
    F.cross_entropy(outside(X)["logits"], T).backward()
    learner = sb.attach(inside, sb.dfa(), example=X if example else None, show=None)
    inside(X, labels=T)["loss"].backward()
    assert list(learner.layout.outputs) == ["logits"]
    for name, g in grads(outside).items():
        torch.testing.assert_close(grads(inside)[name], g, rtol=1e-10, atol=1e-12, msg=name)


def test_early_signals_of_several_outputs_are_refused():
    with pytest.raises(ValueError, match=r"returns 2 outputs that are taught \('first', 'second'\)"):
        attached(made(Twice), sb.drtp(), x=(X, X.flip(1)))


class Encoder(nn.Module):
    """An encoder-decoder that returns the encoder's state, too."""

    def __init__(self):
        super().__init__()
        self.enc1, self.enc2, self.inp = nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(10, 8)
        self.cross, self.head = nn.Bilinear(8, 8, 8), nn.Linear(8, 3)

    def forward(self, x):
        m, h = torch.tanh(self.enc2(torch.tanh(self.enc1(x)))), torch.tanh(self.inp(x))
        return self.head(torch.tanh(self.cross(h, m))), m


def test_an_encoder_state_that_is_returned_is_taught_like_any_block():
    net = made(Encoder)
    learner = attached(net)
    F.cross_entropy(net(X)[0], T).backward()
    assert learner.frozen == []
    assert set(learner.feedback) == {"enc1", "enc2", "inp", "cross"}
    assert all(g is not None and g.any() for g in grads(net).values())


# ------------------------------------------------------------------------------- early signals and what the loss counts


@pytest.mark.parametrize("method", [sb.drtp(), sb.f3(memory=8)], ids=["drtp", "f3"])
@pytest.mark.parametrize("how", ["target", "mask", "loss"])
def test_rows_that_the_loss_leaves_out_are_not_taught(method, how):
    """The same gradients as of the batch without them."""
    kept, ids = torch.tensor([True, True, False, True, False, True, True, True]), torch.arange(8)
    t = torch.where(kept, T, -100)
    small = attached(mlp(), method)
    F.cross_entropy(small(X[kept], target=T[kept], ids=ids[kept]), T[kept]).backward()
    learner = attached(mlp(), method)
    if how == "target":
        y = learner(X, target=t, ids=ids)
    elif how == "mask":
        y = learner(X, target=T, ids=ids, mask=kept)
    else:
        y = learner(X, target=T, ids=ids)
    F.cross_entropy(y, t).backward()
    for name, g in grads(small.net).items():
        torch.testing.assert_close(grads(learner.net)[name], g, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("method", [sb.drtp(), sb.f3(memory=8)], ids=["drtp", "f3"])
def test_step_leaves_out_what_a_mask_or_class_minus_100_says(method):
    kept, ids = torch.tensor([True, True, False, True, False, True, True, True]), torch.arange(8)
    t, weights = torch.where(kept, T, -100), []
    for how in ("small", "class", "mask"):
        learner = attached(mlp(), method)
        x, target, own, mask = X, t, ids, None
        if how == "small":
            x, target, own = X[kept], T[kept], ids[kept]
        if how == "mask":
            target, mask = T, kept

        def loss(y, target, how=how):
            return F.cross_entropy(y[kept], target[kept]) if how == "mask" else F.cross_entropy(y, target)

        learner.step(x, target, loss=loss, update=sb.update.sgd(lr=0.1), ids=own, mask=mask)
        weights.append([p.detach().clone() for p in learner.net.parameters()])
    for a, b, c in zip(*weights, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(c, a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("factor", "what"), [(0.25, "0.25"), (1024.0, "1024"), (8.0, "8")])
@pytest.mark.parametrize(
    "method", [sb.drtp(), sb.f3(memory=8), sb.fdfa(), sb.sdfa()], ids=["drtp", "f3", "fdfa", "sdfa"]
)
def test_a_missing_scale_is_seen_at_the_first_backward(method, factor, what):
    learner = attached(mlp(), method)
    attached(mlp(), method)(X, target=T, ids=torch.arange(8))  # torch warns when it first runs forward mode
    with pytest.warns(sb.SkipbackWarning, match=rf"about {what} times .* scale= says 1.*scale={what}"):
        (factor * F.cross_entropy(learner(X, target=T, ids=torch.arange(8)), T)).backward()
    again = attached(mlp(), method)
    (factor * F.cross_entropy(again(X, target=T, ids=torch.arange(8), scale=factor), T)).backward()  # says nothing


# ----------------------------------------------------------------------------------- a gradient for something else


def test_a_gradient_penalty_is_refused_with_the_way_out():
    net = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    learner = attached(net)
    z = X.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sb.SkipbackWarning)
        y = net(z).sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True .*learner\.exact"):
        torch.autograd.grad(y, z, create_graph=True)
    with learner.exact():
        (g,) = torch.autograd.grad(net(z).sum(), z, create_graph=True)
        g.norm().backward()
    assert all(p.grad is not None for p in list(net.parameters())[:-1])


def test_a_transform_of_torch_func_is_refused():
    net = mlp()
    learner = attached(net)
    with pytest.raises(RuntimeError, match=r"inside a transform of torch\.func.*learner\.exact"):
        torch.func.grad(lambda x: net(x).sum())(X)
    with learner.exact():
        assert torch.func.grad(lambda x: net(x).sum())(X).shape == X.shape


# ------------------------------------------------------------------------------------------------------ checkpointing


class Again(nn.Module):
    def __init__(self, reentrant=False, on=True):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(10, 16), nn.Sequential(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 3)
        self.reentrant, self.on = reentrant, on

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.o(checkpoint(self.b, h, use_reentrant=self.reentrant) if self.on else self.b(h))


@pytest.mark.parametrize("on_at_attach", [True, False])
def test_checkpointing_leaves_the_gradients_as_they_are(on_at_attach):
    plain, again = made(lambda: Again(on=False)), made(lambda: Again(on=on_at_attach))
    for net in (plain, again):
        attached(net)
        net.on = net is again
        F.cross_entropy(net(X), T).backward()
    for name, g in grads(plain).items():
        torch.testing.assert_close(grads(again)[name], g, rtol=0, atol=0)


def test_reentrant_checkpointing_is_refused_before_and_after_attach():
    with pytest.raises(ValueError, match=r"reentrant activation checkpointing.*use_reentrant=False"):
        attached(made(lambda: Again(reentrant=True)))
    net = made(lambda: Again(reentrant=True, on=False))
    attached(net)
    net.on = True
    with pytest.raises(RuntimeError, match=r"reentrant activation checkpointing.*use_reentrant=False"):
        net(X)


# ---------------------------------------------------------------------------------------------- modes and optimizers


@pytest.mark.parametrize("method", [sb.fdfa(), sb.grape(), sb.dkp(), sb.weight_mirror()])
def test_feedback_that_learns_learns_in_eval_mode(method):
    learner = attached(mlp(), method)
    learner.eval()
    F.cross_entropy(learner(X), T).backward()
    found = [p.grad for p in learner.route.parameters()]
    assert found
    assert any(g is not None and g.any() for g in found)


def test_an_optimizer_without_the_feedback_is_noticed_at_its_first_step():
    net = mlp()
    attached(net, sb.fdfa())
    optimizer = torch.optim.Adam(net.parameters())
    F.cross_entropy(net(X), T).backward()
    optimizer.step()
    with pytest.warns(sb.SkipbackWarning, match=r"not the feedback.*learner\.parameters\(\)"):
        net(X)
    net(X)  # once is enough


# --------------------------------------------------------------------------------------------------------------- sizes


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.r, self.o = nn.Embedding(50, 12), nn.GRU(12, 14, batch_first=True), nn.Linear(14, 3)

    def forward(self, tokens):
        return self.o(self.r(self.e(tokens))[0][:, -1])


def test_one_feedback_teaches_texts_of_any_length():
    net = made(Text)
    learner = attached(net, sb.dfa(feedback=structures.PerPosition()), x=torch.arange(72).reshape(8, 9) % 50)
    assert learner.feedback["e"].shape == (3, 12)
    for length in (9, 7, 12):
        tokens = torch.arange(8 * length).reshape(8, length) % 50
        net.zero_grad()
        y = net(tokens)
        F.cross_entropy(y, T).backward()
        teaching = (error(y) @ learner.feedback["e"]).repeat_interleave(length, 0)
        wanted = torch.zeros(50, 12, dtype=torch.float64).index_add(0, tokens.flatten(), teaching)
        torch.testing.assert_close(net.e.weight.grad, wanted, rtol=1e-9, atol=1e-12)


def test_another_length_is_refused_with_the_structure_that_takes_it():
    net = made(Text)
    attached(net, x=torch.arange(72).reshape(8, 9) % 50)
    with pytest.raises(ValueError, match=r"structures\.PerPosition\(\) teaches positions and places of any number"):
        net(torch.arange(56).reshape(8, 7) % 50)


class Video(nn.Module):
    """Frames through one network, then an LSTM over time."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.r, self.o = (
            nn.Linear(5, 6),
            nn.Linear(6, 7),
            nn.LSTM(7, 9, batch_first=True),
            nn.Linear(9, 3),
        )

    def forward(self, x):
        h = torch.tanh(self.c2(torch.tanh(self.c1(x.flatten(0, 1)))))
        return self.o(self.r(h.unflatten(0, x.shape[:2]))[0][:, -1])


@pytest.mark.parametrize("frames", [4, 8])
def test_frames_that_were_flattened_belong_to_their_sample(frames):
    x = torch.randn(8, frames, 5, dtype=torch.float64)
    net = made(Video)
    learner = attached(net, x=x)
    y = net(x)
    F.cross_entropy(y, T).backward()
    B = learner.feedback["c1"]
    assert B.shape == (3, frames, 6)
    h = torch.tanh(F.linear(x, net.c1.weight, net.c1.bias)).detach()
    delta = torch.einsum("nc,ctd->ntd", error(y), B) * (1 - h**2)
    torch.testing.assert_close(net.c1.weight.grad, torch.einsum("ntd,nti->di", delta, x), rtol=1e-9, atol=1e-12)


class TimeFirst(nn.Module):
    def __init__(self, batch_first=False, last=True):
        super().__init__()
        self.i, self.r, self.o = nn.Linear(4, 6), nn.GRU(6, 7, batch_first=batch_first), nn.Linear(7, 3)
        self.batch_first, self.last = batch_first, last

    def forward(self, x):
        h = self.r(torch.tanh(self.i(x)))[0]
        return self.o((h[:, -1] if self.batch_first else h[-1]) if self.last else h)


@pytest.mark.parametrize("length", [5, 8])
def test_ids_count_the_samples_of_a_time_first_input(length):
    """The same numbers as the batch first, also where as many positions came as samples."""
    x, found = torch.randn(8, length, 4, dtype=torch.float64), []
    for net, inputs in ((made(TimeFirst), x.transpose(0, 1)), (made(lambda: TimeFirst(batch_first=True)), x)):
        learner = attached(net, sb.f3(memory=20), x=inputs)
        for order in (torch.arange(8), torch.arange(8).flip(0)):  # a sample at another place is the same sample
            net.zero_grad()
            learner(inputs[:, order] if inputs is not x else x[order], target=T[order], ids=order + 3)
            y = learner(inputs, target=T, ids=torch.arange(8) + 3)
            F.cross_entropy(y, T).backward()
        found.append(grads(net))
    for name, g in found[0].items():
        torch.testing.assert_close(g, found[1][name], rtol=1e-9, atol=1e-12)


def test_a_delayed_signal_refuses_an_output_that_counts_time_first():
    x = torch.randn(8, 8, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"output \(8, 8, 3\) counts time in its first dimension"):
        attached(made(lambda: TimeFirst(last=False)), sb.f3(memory=20), x=x)
    attached(made(lambda: TimeFirst(batch_first=True, last=False)), sb.f3(memory=20), x=x)
    attached(made(lambda: TimeFirst(last=False)), x=x)  # which teaches each position by its own error


class OfPacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.r, self.h, self.o = nn.LSTM(4, 9, batch_first=True), nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, packed):
        return self.o(torch.tanh(self.h(torch.tanh(self.r(packed)[1][0][-1]))))


@pytest.mark.parametrize("method", [sb.dfa, lambda: sb.f3(memory=8)])
def test_packed_data_needs_no_cut(method):
    lengths, x = torch.tensor([5, 2, 3, 5, 1, 4, 2, 5]), torch.randn(8, 5, 4, dtype=torch.float64)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    net = made(OfPacked)
    learner = sb.attach(net, method(), example=(packed,), show=None)
    with torch.no_grad():
        e = error(net(packed)) if method is sb.dfa else None
    F.cross_entropy(learner(packed, target=T, ids=torch.arange(8)), T).backward()
    if e is None:
        assert all(p.grad is not None for p in net.parameters())
        return
    states = [torch.tanh(net.r(x[n : n + 1, :length])[1][0][-1]) for n, length in enumerate(lengths)]
    (expected,) = torch.autograd.grad(torch.cat(states), net.r.weight_hh_l0, e @ learner.feedback["r"])
    torch.testing.assert_close(net.r.weight_hh_l0.grad, expected, rtol=1e-9, atol=1e-12)


def test_packed_sequences_are_refused_in_words():
    class Packed(Text):
        def forward(self, tokens):
            lengths = torch.full((len(tokens),), tokens.shape[1])
            packed = nn.utils.rnn.pack_padded_sequence(self.e(tokens), lengths, batch_first=True)
            return self.o(self.r(packed)[1][-1])

    with pytest.raises(ValueError, match=r"block 'r' receives a PackedSequence.*pad the sequences"):
        attached(made(Packed), x=torch.arange(72).reshape(8, 9) % 50)


SIZES = """
import resource, torch, skipback as sb
from torch import nn
from skipback import structures as S
net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 128 * 128, 6))
x = torch.randn(1, 3, 128, 128)
net(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sb.attach(net, sb.dfa(feedback=S.{0}()), example=x, show=None)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1))
x = torch.randn(1, 3, 512, 512)
dense(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sb.attach(dense, sb.dfa(feedback=S.{0}()), example=x, show=None)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("structure", ["LowRank", "Seeded"])
def test_no_matrix_is_made_to_print_its_shape(structure):
    run = subprocess.run([sys.executable, "-c", SIZES.format(structure)], capture_output=True, text=True, check=True)
    assert all(float(mib) < 50 for mib in run.stdout.split()), run.stdout


def two(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, c=4):
        super().__init__()
        self.d, self.m, self.u = two(3, c), two(c, 2 * c), nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.c, self.o = two(2 * c, c), nn.Conv2d(c, 2, 1)

    def forward(self, x):
        a = self.d(x)
        return self.o(self.c(torch.cat([self.u(self.m(F.max_pool2d(a, 2))), a], 1)))


def test_a_unet_is_taught_place_by_place():
    net, x, t = made(UNet).float(), torch.randn(2, 3, 128, 128), torch.randint(2, (2, 128, 128))
    learner = attached(net, x=x)
    assert {B.shape[0] for B in learner.feedback.values()} == {2}
    assert sum(B.numel() for B in learner.feedback.values()) < 1000
    F.cross_entropy(net(x), t).backward()
    assert all(g is not None and g.isfinite().all() for g in grads(net).values())


def test_a_place_of_half_the_resolution_hears_the_errors_that_it_covers():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 2, stride=2), nn.ConvTranspose2d(4, 3, 2, 2)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    x, t = torch.randn(5, 1, 6, 6, dtype=torch.float64), torch.arange(180).reshape(5, 6, 6) % 3
    net = made(Half)
    learner = attached(net, x=x)
    y = net(x)
    F.cross_entropy(y, t).backward()
    e = ((torch.softmax(y, 1) - F.one_hot(t, 3).movedim(-1, 1)) / t.numel()).detach()
    pooled = e.unflatten(2, (3, 2)).unflatten(4, (3, 2)).sum((3, 5))
    h = torch.tanh(F.conv2d(x, net.a.weight, net.a.bias, stride=2))
    (wanted,) = torch.autograd.grad(h, net.a.weight, torch.einsum("nchw,cd->ndhw", pooled, learner.feedback["a"]))
    torch.testing.assert_close(net.a.weight.grad, wanted, rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------- words


def test_two_networks_that_share_a_trunk_are_told_so():
    trunk = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()).double()
    actor, critic = (nn.Sequential(trunk, nn.Linear(16, k).double()) for k in (3, 1))
    sb.attach(actor, sb.dfa(), show=None)
    sb.attach(critic, sb.dfa(), show=None)
    actor(X)
    with pytest.raises(RuntimeError, match="belongs to two networks with a method each"):
        critic(X)


class Stopped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.left = nn.Linear(10, 8), nn.Linear(8, 3), None

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self.b(h)


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("name", [n for n in sb.methods.TABLE if n not in ("f3",)])
def test_an_interrupted_pass_leaves_nothing_behind(name, passes):
    net = made(Stopped)
    learner = attached(net, getattr(sb, name)())
    net.left = passes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(KeyboardInterrupt):
            F.cross_entropy(learner(X, target=T), T).backward()
    net.left = None
    assert torch.is_grad_enabled()
    other = nn.Linear(10, 3).double()
    F.cross_entropy(other(X), T).backward()
    attached(mlp())
    learner.zero_grad()
    F.cross_entropy(learner(X, target=T), T).backward()  # this one trains on
    assert net.b.weight.grad is not None


def test_an_interrupted_loss_in_step_leaves_nothing_behind():
    def loss(y, t):
        raise KeyboardInterrupt

    learner = attached(mlp())
    with pytest.raises(KeyboardInterrupt):
        learner.step(X, T, loss=loss, update=sb.update.adam())
    learner.step(X, T, loss=F.cross_entropy, update=sb.update.adam())
    F.cross_entropy(learner(X), T).backward()


class AllHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


def test_a_network_that_is_all_head_is_refused():
    x = torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match=r"cannot be cut between its weights 'cell\.weight_.* all head"):
        sb.attach(AllHead(), sb.dfa(), example=x)
    sb.attach(AllHead(), sb.bp(), example=x)  # cuts nothing, and need not
    sb.attach(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), sb.dfa(), example=x)  # one weight: its delta rule


class Normed(nn.Module):
    """A block that begins with its norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.conv(self.norm(x))


def test_a_group_norm_in_channels_last_memory_does_not_crash():
    """Backward of torch's group norm did, without the gradient of its input."""
    layers = nn.Conv2d(3, 8, 3), Normed(), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    net, x = nn.Sequential(*layers).double(), torch.randn(8, 3, 6, 6, dtype=torch.float64)
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        learner = attached(net.to(memory_format=form), sb.dfa(), x=x.to(memory_format=form))
        assert learner.layout.places["1"].contiguous
        net.zero_grad()
        F.cross_entropy(net(x.to(memory_format=form)), T).backward()
        found.append([p.grad.clone() for p in net.parameters()])
        learner.detach()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
