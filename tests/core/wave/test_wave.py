"""The wavefront: the numbers of the plain order, over all combinations, and clear refusals of all else."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb
from skipback.engine.wave.counts import shared_step_counts
from skipback.engine.wave.wavefront import wavefront
from skipback.signals import Delayed, Masked, OutputError, Signed, Target, identity, minus_target, sigmoid

INPUTS, WIDTH, OUTPUTS, SAMPLES = 5, 7, 4, 50
UPDATES = {
    "sgd": lambda: sb.update.sgd(lr=0.1),
    "sgd, decay": lambda: sb.update.sgd(lr=0.1, weight_decay=0.1),
    "momentum": lambda: sb.update.momentum(lr=0.1),
    "adam": lambda: sb.update.adam(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    "adamw": lambda: sb.update.adamw(lr=0.01, weight_decay=0.1),
    "rmsprop": lambda: sb.update.rmsprop(lr=0.01),
}
DELAYED = Delayed(SAMPLES, dtype=torch.float64)
PUBLISHED = replace(DELAYED, of=OutputError(sigmoid), initial=minus_target)
METHODS = {
    "drtp": sb.drtp(),
    "f3": sb.f3(memory=SAMPLES, signal=DELAYED),
    "f3, published": sb.methods.f3.as_published(memory=SAMPLES, signal=PUBLISHED),
}


def network(layers=5, activation=nn.Tanh, bias=True, first=WIDTH, dtype=torch.float64):
    torch.manual_seed(1)
    stack = [m for _ in range(layers) for m in (nn.Linear(WIDTH, WIDTH, bias=bias), activation())]
    return nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, first), nn.Tanh(), *stack, nn.Linear(WIDTH, OUTPUTS)).to(dtype)


def attached(net, method):
    x = torch.zeros(2, INPUTS, dtype=next(net.parameters()).dtype)
    return sb.attach(net, method, example=x, show=None)


def epochs(*sizes, count=2, dtype=torch.float64):
    """Epochs of minibatches of these sizes, over the same samples in another order each."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(SAMPLES, INPUTS, generator=generator, dtype=dtype)
    t = torch.randint(OUTPUTS, (SAMPLES,), generator=generator)
    orders = [torch.randperm(SAMPLES, generator=generator)[: sum(sizes)] for _ in range(count)]
    return [[(x[ids], t[ids], ids) for ids in order.split(list(sizes))] for order in orders]


def plain(learner, update, batches, loss=F.cross_entropy):
    return torch.stack([learner.step(x, t, loss=loss, update=update, ids=ids) for x, t, ids in batches])


class Sides:
    """The same learner twice: one for the wave, one for the plain order."""

    def __init__(self, net, method, update):
        self.wave, self.plain = attached(copy.deepcopy(net), method), attached(copy.deepcopy(net), method)
        self.ours, self.theirs = update(), update()
        self.start = [p.clone() for p in net.parameters()]

    def train(self, runs, loss=F.cross_entropy):
        """Train both, and compare the losses."""
        wave = wavefront(self.wave, update=self.ours)
        for batches in runs:
            close(wave.epoch(iter(batches), loss=loss), plain(self.plain, self.theirs, batches, loss))
        return self

    def agree(self):
        """All weights have moved, and all there is agrees."""
        assert all(not torch.equal(p, q) for p, q in zip(self.wave.net.parameters(), self.start, strict=True))
        found, expected = self.wave.state_dict(), self.plain.state_dict()
        for name, value in expected.items():
            close(found[name], value)
        found, expected = self.ours.optimizer.state_dict(), self.theirs.optimizer.state_dict()
        assert found["param_groups"] == expected["param_groups"]
        assert found["state"].keys() == expected["state"].keys()
        for key, state in expected["state"].items():
            assert found["state"][key].keys() == state.keys()
            for name, value in state.items():
                assert (value is None) == (found["state"][key][name] is None)
                if value is not None:
                    close(found["state"][key][name], value)


def close(found, expected):
    """Batched and single products may round otherwise at some sizes, and on some machines."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.numel() and found.is_floating_point():
        assert (found - expected).abs().max() <= 1e-12
    else:
        assert torch.equal(found, expected)


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


# --------------------------------------------------------------------------------------- the numbers of the plain order


@pytest.mark.parametrize("update", UPDATES)
def test_equals_the_plain_order_with_every_update(method, update):
    Sides(network(), method, UPDATES[update]).train(epochs(*[5] * 9, 4)).agree()


@pytest.mark.parametrize("settings", [{"lr": 0.05}, {"maximize": True}, {"fused": False}, {"amsgrad": True}], ids=str)
@pytest.mark.parametrize("update", ["adam", "adamw"])
def test_settings_of_the_optimizer_count_from_the_next_epoch(update, settings):
    sides = Sides(network(), METHODS["drtp"], UPDATES[update])
    for learner, one in ((sides.wave, sides.ours), (sides.plain, sides.theirs)):
        one.bind(learner.parameters()).param_groups[0].update(settings)
    sides.train(epochs(*[5] * 9)).agree()


def test_an_optimizer_that_is_not_fused_is_called_itself():
    learner, update = attached(network(), METHODS["drtp"]), UPDATES["adam"]()
    group = update.bind(learner.parameters()).param_groups[0]
    parameters = list(learner.net.parameters())
    assert shared_step_counts(update, parameters) is not None
    group["fused"] = False
    assert shared_step_counts(update, parameters) is None


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.GELU, nn.SiLU, lambda: nn.LeakyReLU(0.2)])
def test_equals_the_plain_order_with_every_activation(activation):
    Sides(network(activation=activation), METHODS["f3"], UPDATES["adam"]).train(epochs(*[5] * 9, 4)).agree()


@pytest.mark.parametrize("update", ["sgd", "adam"])
def test_equals_the_plain_order_without_biases(update):
    Sides(network(bias=False), METHODS["drtp"], UPDATES[update]).train(epochs(*[5] * 9)).agree()


def test_equals_the_plain_order_with_one_parameter_in_each_layer():
    """While a wave fills and drains, one layer is idle: the count of its one parameter stays."""
    net = network(bias=False)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.bias = None
    Sides(net, METHODS["drtp"], UPDATES["adam"]).train(epochs(*[5] * 9)).agree()


@pytest.mark.parametrize("sizes", [(6,), (6, 6), (6, 6, 6), (6, 6, 2), (3, 6, 6, 1, 6)], ids=str)
@pytest.mark.parametrize("update", ["sgd", "adam"])
def test_fewer_minibatches_than_layers_and_any_sizes(method, update, sizes):
    Sides(network(layers=8), method, UPDATES[update]).train(epochs(*sizes)).agree()


@pytest.mark.parametrize("layers", [1, 2])
def test_short_stacks(method, layers):
    Sides(network(layers=layers), method, UPDATES["adam"]).train(epochs(*[5] * 9)).agree()


@pytest.mark.parametrize("signal", [Signed(Target()), Masked(DELAYED)], ids=["signed", "masked"])
def test_other_early_signals(signal):
    Sides(network(), sb.Direct(paper=METHODS["f3"].paper, signal=signal), UPDATES["sgd"]).train(
        epochs(*[5] * 9)
    ).agree()


def test_values_as_targets_and_another_loss():
    method = sb.f3(memory=SAMPLES, signal=replace(DELAYED, of=OutputError(identity)))
    runs = [[(x, F.one_hot(t, OUTPUTS).double(), ids) for x, t, ids in run] for run in epochs(*[5] * 9)]
    Sides(network(), method, UPDATES["adam"]).train(runs, loss=F.mse_loss).agree()


def products_round_alike(width, batch):
    """Whether the kernels give the same bits, of one layer alone and in a batch."""
    h, g, W, b = (
        torch.randn(6, batch, width),
        torch.randn(6, batch, 10),
        torch.randn(6, width, width),
        torch.randn(6, width),
    )
    B, delta = torch.randn(6, 10, width), torch.randn(6, batch, width)
    many = [torch.baddbmm(b.unsqueeze(1), h, W.mT), torch.bmm(g, B), torch.bmm(delta.mT, h), delta.sum(1)]
    many.append(W.clone().baddbmm_(delta.mT, h, alpha=-0.1))
    one = [[F.linear(h[i], W[i], b[i]), g[i] @ B[i], delta[i].t() @ h[i], delta[i].sum(0)] for i in range(6)]
    one = [[*found, W[i].clone().addmm_(delta[i].t(), h[i], alpha=-0.1)] for i, found in enumerate(one)]
    return all(torch.equal(many[k][i], one[i][k]) for k in range(5) for i in range(6))


@pytest.mark.parametrize(("width", "batch"), [(16, 16), (32, 50)])
@pytest.mark.parametrize("update", ["sgd", "adam"])
def test_the_shapes_of_the_benchmark_agree_to_the_last_bit_in_single_precision(width, batch, update):
    torch.manual_seed(0)
    if not products_round_alike(width, batch):
        pytest.skip("the batched products of this machine round otherwise than the single ones")
    stack = [m for _ in range(6) for m in (nn.Linear(width, width), nn.Tanh())]
    net = nn.Sequential(nn.Linear(width, width), nn.Tanh(), *stack, nn.Linear(width, 10))
    x, t = torch.randn(9 * batch, width), torch.randint(10, (9 * batch,))
    learners = [sb.attach(copy.deepcopy(net), sb.f3(memory=len(x)), example=x[:2], show=None) for _ in range(2)]
    updates = [UPDATES[update](), UPDATES[update]()]
    for _ in range(2):
        run = [(x[ids], t[ids], ids) for ids in torch.randperm(len(x)).split(batch)]
        losses = wavefront(learners[0], update=updates[0]).epoch(run, loss=F.cross_entropy)
        assert torch.equal(losses, plain(learners[1], updates[1], run))
    for p, q in zip(*(learner.state_dict().values() for learner in learners), strict=True):
        assert torch.equal(p, q)


# ----------------------------------------------------------------------------------------------------------- the memory


def test_a_sample_that_is_still_on_its_way_waits_for_what_it_left():
    """Samples come again after 1, 3 and 7 minibatches: within the wave of 6 stages, and behind it."""
    (first, second) = epochs(*[5] * 9)
    run = [*first[:4], first[3], first[1], *second, second[2], first[0]]
    Sides(network(), METHODS["f3"], UPDATES["adam"]).train([run]).agree()


def test_what_travels_in_front_of_the_window_costs_no_wait(monkeypatch):
    """Each minibatch once, or again as soon as it has left: 1 tick each, and 6 at the end to run out."""
    from skipback.engine.wave.wavefront import _Wave

    ticks = []
    tick = _Wave._tick
    monkeypatch.setattr(_Wave, "_tick", lambda self, entering: (ticks.append(1), tick(self, entering))[1])
    (batches,) = epochs(*[5] * 9, count=1)
    wave = wavefront(attached(network(layers=5), METHODS["f3"]), update=UPDATES["sgd"]())
    for run, expected in ((batches, 9 + 6), ([*batches[:7], *batches[:2]], 9 + 6), ([batches[0]] * 2, 2 * (1 + 6))):
        ticks.clear()
        wave.epoch(run, loss=F.cross_entropy)
        assert len(ticks) == expected


def test_the_memory_is_written_when_the_epoch_ends():
    (batches,) = epochs(*[5] * 9, count=1)
    learner = attached(network(), METHODS["f3"])
    wavefront(learner, update=UPDATES["sgd"]()).epoch(batches, loss=F.cross_entropy)
    came = torch.cat([ids for _, _, ids in batches])
    assert learner.memory.seen[came].all()
    assert learner.memory.seen.sum() == len(came) < SAMPLES


# ------------------------------------------------------------------------------------------------ what it leaves behind


@pytest.mark.parametrize("update", ["sgd", "adam", "momentum"])
def test_waves_steps_and_a_plain_loop_take_turns(update):
    sides = Sides(network(), METHODS["f3"], UPDATES[update])
    first, second, third = epochs(*[5] * 9, count=3)
    sides.train([first])
    close(plain(sides.wave, sides.ours, second), plain(sides.plain, sides.theirs, second))
    sides.train([third])
    for learner, optimizer in ((sides.wave, sides.ours.optimizer), (sides.plain, sides.theirs.optimizer)):
        x, t, ids = first[0]
        F.cross_entropy(learner(x, target=t, ids=ids), t).backward()
        optimizer.step()
    sides.agree()


def test_parameters_and_counts_keep_their_own_memory():
    learner, update = attached(network(), METHODS["drtp"]), UPDATES["adam"]()
    before = [p.data_ptr() for p in learner.net.parameters()]
    (batches,) = epochs(*[5] * 9, count=1)
    wavefront(learner, update=update).epoch(batches, loss=F.cross_entropy)
    assert [p.data_ptr() for p in learner.net.parameters()] == before
    steps = [state["step"] for state in update.optimizer.state.values()]
    assert [float(step) for step in steps] == [9.0] * len(steps)
    assert {step.untyped_storage().nbytes() for step in steps} == {4}


def test_a_loss_that_fails_leaves_the_network_whole():
    calls = []

    def fails(y, t):
        calls.append(t)
        if len(calls) == 2:
            raise RuntimeError("no such loss")
        return F.cross_entropy(y, t)

    learner = attached(network(), METHODS["drtp"])
    before = [p.data_ptr() for p in learner.net.parameters()]
    (batches,) = epochs(*[5] * 9, count=1)
    with pytest.raises(RuntimeError, match="no such loss"):
        wavefront(learner, update=UPDATES["adam"]()).epoch(batches, loss=fails)
    assert len(calls) == 2  # what was on its way did not move on
    assert [p.data_ptr() for p in learner.net.parameters()] == before
    assert wavefront(learner, update=UPDATES["adam"]()).epoch(batches, loss=F.cross_entropy).isfinite().all()


def test_a_minibatch_that_is_refused_does_not_stop_those_before_it():
    sides = Sides(network(), METHODS["f3"], UPDATES["adam"])
    (batches,) = epochs(*[5] * 9, count=1)
    x, t, ids = batches[8]
    with pytest.raises(IndexError, match="the memory was made for samples 0 to 49"):
        wavefront(sides.wave, update=sides.ours).epoch([*batches[:8], (x, t, ids + SAMPLES)], loss=F.cross_entropy)
    plain(sides.plain, sides.theirs, batches[:8])
    sides.agree()


def test_an_epoch_of_nothing():
    learner = attached(network(), METHODS["drtp"])
    assert wavefront(learner, update=UPDATES["sgd"]()).epoch([], loss=F.cross_entropy).shape == (0,)


# ------------------------------------------------------------------------------------------------------------- refusals


def widths(*sizes):
    pairs = zip((INPUTS, *sizes), sizes, strict=False)
    return nn.Sequential(*(m for d, e in pairs for m in (nn.Linear(d, e), nn.Tanh())), nn.Linear(sizes[-1], OUTPUTS))


def two_activations(second):
    layers = [nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, 7), nn.LeakyReLU(0.1), nn.Linear(7, 7), second]
    return nn.Sequential(*layers, nn.Linear(7, 4))


def with_norm():
    norm = [nn.Linear(7, 7), nn.LayerNorm(7), nn.Tanh()]
    return nn.Sequential(nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), *norm, nn.Linear(7, 4))


def half_biased():
    layers = [nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 7, bias=False), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(7, 4))


def hooked():
    net = network(dtype=None)
    net[3].register_forward_hook(lambda *_: None)
    return net


def frozen():
    net = network(dtype=None)
    net[3].weight.requires_grad_(False)
    return net


def tied():
    net = network(dtype=None)
    net[3].weight = net[5].weight
    return net


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(dtype=None)

    def forward(self, x):
        return self.net(x)


NETS = {
    "another width": lambda: widths(7, 7, 6),
    "a first block of another width": lambda: widths(6, 7),
    "another activation": lambda: two_activations(nn.Tanh()),
    "another setting of it": lambda: two_activations(nn.LeakyReLU(0.2)),
    "a norm": with_norm,
    "half of the biases": half_biased,
    "a hook": hooked,
    "a frozen weight": frozen,
    "one hidden block": lambda: network(layers=0, dtype=None),
    "a shared weight": tied,
    "a first block of another kind": lambda: nn.Sequential(nn.LayerNorm(INPUTS), *network(dtype=None)[1:]),
    "a head of another kind": lambda: network(dtype=None).append(nn.Softmax(1)),
    "no sequence": Wrapped,
}


@pytest.mark.parametrize("net", NETS)
def test_refuses_other_networks(net):
    with pytest.raises(ValueError, match=r"a wavefront needs a plain nn\.Sequential"):
        wavefront(attached(NETS[net](), METHODS["drtp"]), update=UPDATES["sgd"]())


@pytest.mark.parametrize(
    "method",
    [
        sb.dfa(),
        sb.shallow(),
        sb.bp(),
        sb.fa(),
        sb.anchored(sb.drtp(), every=2),
        sb.drtp(feedback=sb.structures.LowRank()),
    ],
    ids=["dfa", "shallow", "bp", "fa", "anchored", "low rank"],
)
def test_refuses_other_methods(method):
    with pytest.raises(ValueError, match="a wavefront needs a signal that is known before the forward pass"):
        wavefront(attached(network(), method), update=UPDATES["sgd"]())


def test_refuses_several_processes(monkeypatch):
    monkeypatch.setattr("skipback.step.traits.world", lambda: 2)
    with pytest.raises(RuntimeError, match="a wavefront runs in one process, and 2 train together"):
        wavefront(attached(network(), METHODS["drtp"]), update=UPDATES["sgd"]())


def test_refuses_a_sample_whose_input_has_changed():
    first, second = epochs(*[5] * 9)
    wave = wavefront(attached(network(), METHODS["f3"]), update=UPDATES["sgd"]())
    wave.epoch(first, loss=F.cross_entropy)
    with pytest.raises(ValueError, match="differs from its last visit"):
        wave.epoch([(-x, t, ids) for x, t, ids in second], loss=F.cross_entropy)


def test_refuses_a_changed_input_of_a_sample_that_is_still_on_its_way():
    (first,) = epochs(*[5] * 9, count=1)
    x, t, ids = first[0]
    with pytest.raises(ValueError, match="differs from its last visit"):
        wavefront(attached(network(), METHODS["f3"]), update=UPDATES["sgd"]()).epoch(
            [(x, t, ids), (-x, t, ids)], loss=F.cross_entropy
        )


def test_refuses_unknown_blocks_evaluation_autocast_and_bad_ids():
    with pytest.raises(ValueError, match="pass example="):
        wavefront(sb.attach(network(), METHODS["drtp"], show=None), update=UPDATES["sgd"]())
    ((batch, *_),) = epochs(5, 5, count=1)
    learner = attached(network(), METHODS["f3"])
    wave = wavefront(learner, update=UPDATES["sgd"]())
    with pytest.raises(IndexError, match=r"the memory was made for samples 0 to 49"):
        wave.epoch([(batch[0], batch[1], batch[2] + SAMPLES)], loss=F.cross_entropy)
    with pytest.raises(ValueError, match="ids=ids"):
        wave.epoch([(batch[0], batch[1], None)], loss=F.cross_entropy)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match=r"leave torch\.autocast"):
        wave.epoch([batch], loss=F.cross_entropy)
    learner.eval()
    with pytest.raises(ValueError, match=r"call train\(\) first"):
        wave.epoch([batch], loss=F.cross_entropy)


def test_pairs_are_enough_where_no_ids_are_needed():
    sides = Sides(network(), METHODS["drtp"], UPDATES["adam"])
    (run,) = epochs(8, 8, 8, count=1)
    wave = wavefront(sides.wave, update=sides.ours)
    close(wave.epoch([(x, t) for x, t, _ in run], loss=F.cross_entropy), plain(sides.plain, sides.theirs, run))


def test_inference_mode_is_refused():
    sides = Sides(network(), METHODS["drtp"], UPDATES["adam"])
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
        wavefront(sides.wave, update=sides.ours).epoch(epochs(8)[0], loss=F.cross_entropy)
    sides.train(epochs(8, 8))


def test_hooks_of_the_optimizer_are_refused():
    """They would see one layer of this minibatch and another one of the next."""
    sides = Sides(network(), METHODS["drtp"], UPDATES["adam"])
    handle = sides.ours.bind(sides.wave).register_step_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="a wavefront steps each block by itself, but this update calls Adam once"):
        wavefront(sides.wave, update=sides.ours).epoch(epochs(8)[0], loss=F.cross_entropy)
    handle.remove()
    sides.train(epochs(8, 8))
