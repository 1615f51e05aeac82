"""An epoch of captured steps is the loop of `learner.step`, to the bit: on the CPU, and from a tape of one step."""

import copy

import nets
import pytest
import torch
import torch.nn.functional as F
from loops import EPOCHS, M, N, data, different, loop, orders, state, twins
from tape import AskedError, Tape

import skipback as sb
from skipback import update
from skipback.engine.capture.steps import WARM_UP

METHODS = {
    "f3": lambda: sb.f3(memory=M),
    "drtp": sb.drtp,
    "dfa": sb.dfa,
    "dkp": sb.dkp,
    "shallow": sb.shallow,
    "bp": sb.bp,
    "fdfa": sb.fdfa,
}
UPDATES = {
    "sgd": lambda: update.sgd(0.1),
    "momentum": lambda: update.momentum(0.1),
    "adam": lambda: update.adam(0.01),
    "adamw": lambda: update.adamw(0.01),
}


def train(method, make, recorder, *, build=nets.mlp, shape=(6,), between=lambda learner, update, epoch: None):
    """Train both. Returns what differs at the end."""
    one, other = twins(method, build, shape)
    ours, theirs, rows = make(), make(), data(shape)
    steps = sb.captured(one, *rows, batch=N, loss=F.cross_entropy, update=ours, recorder=recorder)
    before = [p.detach().clone() for p in one.net.parameters()]
    apart = []
    for epoch, order in enumerate(orders()):
        torch.manual_seed(epoch)  # of dropout
        mean = steps.epoch(order)
        torch.manual_seed(epoch)
        if not torch.equal(mean, loop(other, theirs, rows, order)):
            apart.append(f"loss of epoch {epoch}")
        between(one, ours, epoch)
        between(other, theirs, epoch)
    assert not torch.equal(list(one.net.parameters())[-1], before[-1])  # it has trained
    return [*apart, *different(state(one, ours), state(other, theirs))]


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("name", METHODS)
def test_on_the_cpu_an_epoch_is_a_loop_of_steps(name, kind):
    assert train(METHODS[name](), UPDATES[kind], None) == []


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "fdfa"])
def test_from_a_recording_an_epoch_is_a_loop_of_steps(name, kind):
    tape = Tape()
    assert train(METHODS[name](), UPDATES[kind], tape) == []
    full = M // N * EPOCHS
    again = 1 if name == "f3" else 0  # once its memory is complete
    warm = WARM_UP * (1 + again)
    assert [tape.log.count(what) for what in ("warm", "record", "replay")] == [warm, 1 + again, full - warm]


@pytest.mark.parametrize("net", ["conv", "inplace", "batchnorm", "dropout"])
def test_blocks_without_a_closed_form_are_recorded_too(net):
    shape = (1, 8, 8) if net in ("conv", "inplace") else (6,)
    tape = Tape()
    assert train(sb.f3(memory=M), UPDATES["adam"], tape, build=getattr(nets, net), shape=shape) == []
    assert tape.log.count("replay") == M // N * EPOCHS - 2 * WARM_UP


# ------------------------------------------------------------------------------------------ when it is recorded anew


def _rate(learner, update, epoch):
    update.optimizer.param_groups[0]["lr"] *= 0.5


def _freeze(learner, update, epoch):
    learner.net[0].requires_grad_(epoch == 1)


def _load(learner, update, epoch):
    update.optimizer.load_state_dict(copy.deepcopy(update.optimizer.state_dict()))  # other tensors, the same numbers


def _replace(learner, update, epoch):
    learner.net[2].weight.data = learner.net[2].weight.data.clone()


@pytest.mark.parametrize("change", [_rate, _freeze, _load, _replace])
def test_what_is_baked_and_changes_is_recorded_anew(change):
    tape = Tape()
    assert train(sb.dfa(), UPDATES["adam"], tape, between=change) == []
    assert tape.log.count("record") == EPOCHS


def test_what_is_not_baked_is_not_recorded_anew():
    def look(learner, update, epoch):
        learner.eval()(torch.zeros(2, 6))
        learner.train()

    tape = Tape()
    assert train(sb.drtp(), UPDATES["adam"], tape, between=look) == []
    assert tape.log.count("record") == 1


def test_a_recording_that_was_not_made_anew_would_be_wrong():
    """The trap, and that the tape shows it: the rate of the recording goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skipback.engine.capture.steps.baked", lambda *_: None)
        assert train(sb.dfa(), UPDATES["adam"], Tape(), between=_rate) != []


def test_an_unfinished_memory_is_read_without_asking():
    """Recorded in the first epoch, when some samples are unseen; the tape refuses whatever asks."""
    one, _ = twins(sb.f3(memory=M))
    tape = Tape()
    steps = sb.captured(one, *data(), batch=2, loss=F.cross_entropy, update=update.adam(), recorder=tape)
    steps.epoch(torch.arange(12))
    assert tape.log.count("record") == 1
    assert not one.memory.all_seen
    assert one.memory.may_sync
    assert one.memory.input_checks_left > 0


def test_parts_of_an_epoch_are_an_epoch():
    (one, other), rows, order = twins(sb.f3(memory=M)), data(), orders()[0]
    ours, theirs = update.adam(), update.adam()
    steps = sb.captured(one, *rows, batch=N, loss=F.cross_entropy, update=ours, recorder=Tape())
    for part in (*order.split(2 * N), order[:1], order[1:4], order):
        steps.epoch(part)
        loop(other, theirs, rows, part)
    assert different(state(one, ours), state(other, theirs)) == []


def test_a_transform_maps_the_rows_as_they_are_taken():
    (one, other), (x, t), order = twins(sb.dfa()), data(), orders()[0]
    ours, theirs, raw = update.adam(), update.adam(), (x * 20 + 100).to(torch.uint8)
    kinds = {"loss": F.cross_entropy, "update": ours, "transform": lambda rows: rows.float() / 255}
    sb.captured(one, raw, t, batch=N, recorder=Tape(), **kinds).epoch(order)
    loop(other, theirs, (raw.float() / 255, t), order)
    assert different(state(one, ours), state(other, theirs)) == []


def test_the_blocks_are_found_if_they_are_not_known():
    learner = sb.attach(nets.made(nets.mlp, dtype=torch.float32), sb.f3(memory=M), show=None)
    steps = sb.captured(learner, *data(), batch=N, loss=F.cross_entropy, update=update.adam(), recorder=Tape())
    assert torch.isfinite(steps.epoch(orders()[0]))
    assert learner.memory.seen.all()


def test_the_state_of_the_optimizer_goes_on_in_a_loop_with_backward():
    (one, other), rows, order = twins(sb.dfa()), data(), orders()[0]
    ours = update.adam(0.01)
    sb.captured(one, *rows, batch=N, loss=F.cross_entropy, update=ours, recorder=Tape()).epoch(order)
    plain = torch.optim.Adam(other.parameters(), 0.01, fused=True)
    for ids in order.split(N):
        F.cross_entropy(other(rows[0][ids]), rows[1][ids]).backward()
        plain.step()
        plain.zero_grad()
    a, b = ours.optimizer.state_dict()["state"], plain.state_dict()["state"]
    assert all(torch.equal(a[k][name], b[k][name]) for k in b for name in b[k])
    assert a.keys() == b.keys()
    plain.load_state_dict(ours.optimizer.state_dict())


# --------------------------------------------------------------------------------------------------------- the tape


def test_the_tape_is_a_graph():
    """It does nothing while it notes, repeats what it noted with what lies there now, and refuses what asks."""
    a, b, scale = torch.ones(3), torch.zeros(3), [2.0]
    replay = Tape().record(lambda: b.add_(a * scale[0]))
    assert torch.equal(b, torch.zeros(3))
    a.fill_(5)
    scale[0] = 100.0
    replay()
    replay()
    assert torch.equal(b, torch.full((3,), 20.0))
    with pytest.raises(AskedError):
        Tape().record(lambda: b.sum().item())
    with pytest.raises(AskedError):
        Tape().record(lambda: b + torch.tensor([1.0, 2.0, 3.0]))
