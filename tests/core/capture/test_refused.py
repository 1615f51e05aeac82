"""What cannot be captured, and data that do not fit, are refused in words: at once, or after whole steps."""

import pytest
import torch
import torch.nn.functional as F
from loops import M, N, data, different, loop, orders, state, twins
from tape import Tape

import skipback as sb
from skipback import update
from skipback.engine.capture.guard import Guard
from skipback.engine.capture.steps import WARM_UP
from skipback.step import fit, traits

MEMORY = 16
"""Samples that the methods of the table are made for, see conftest."""


def capture(method=None, make=update.adam, *, learner=None, loss=F.cross_entropy, batch=N, rows=None, recorder=None):
    learner = learner or twins(method or sb.dfa())[0]
    recorder = recorder or Tape()
    return sb.captured(learner, *(rows or data()), batch=batch, loss=loss, update=make(), recorder=recorder)


def _amsgrad():
    return update.FusedAdam(lambda ps: torch.optim.Adam(ps, fused=True, amsgrad=True))


def _tensor():
    return update.Update(lambda ps: torch.optim.Adam(ps, lr=torch.tensor(0.1), foreach=False))


@pytest.mark.parametrize(
    ("method", "make", "words"),
    [
        (sb.fdfa(), update.adam, "a stream that the host seeds"),
        (sb.grape(), update.adam, "a stream that the host seeds"),
        (sb.brsf(), update.adam, "a stream that the host seeds"),
        (sb.fg_w(), update.adam, "a stream that the host seeds"),
        (sb.ifa(), update.adam, "not seen to record"),
        (sb.anchored(sb.dfa(), every=3), update.adam, "the host counts its passes"),
        (sb.dfa(), update.rmsprop, "RMSprop counts its steps on the host: make it with capturable=True"),
        (sb.dfa(), _amsgrad, "Adam counts its steps on the host"),
        (sb.dfa(), _tensor, "is a tensor, which the step would read: pass a number"),
        (sb.dfa(), lambda: update.Update(torch.optim.Adagrad), "Adagrad counts its steps on the host"),
    ],
)
def test_a_reason_that_is_known_is_said_at_once(method, make, words):
    with pytest.raises(ValueError, match=words):
        capture(method, make)


def test_an_optimizer_that_counts_on_the_device_is_taken():
    make = lambda: update.Update(lambda ps: torch.optim.RMSprop(ps, capturable=True))  # noqa: E731
    learner = twins(sb.dfa())[0]
    assert fit.missing("captured", traits.Traits(learner, make())) is None


def test_several_processes_and_autocast_are_refused(monkeypatch):
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="inside autocast"):
        capture()
    steps = capture()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="inside autocast"):
        steps.epoch(orders()[0])
    monkeypatch.setattr(traits, "world", lambda: 2)
    with pytest.raises(ValueError, match="several processes"):
        capture()


def test_on_the_cpu_nothing_is_captured_and_all_of_it_trains():
    for method in (sb.fdfa(), sb.anchored(sb.dfa(), every=3), sb.ifa()):
        steps = sb.captured(
            twins(method)[0], *data(), batch=N, loss=F.cross_entropy, update=update.rmsprop(), recorder=None
        )
        assert torch.isfinite(steps.epoch(orders()[0]))
        assert steps.why == "the data lie on cpu, and only CUDA captures"


# ---------------------------------------------------------------------------------------------- found by watching


def _item(y, t):
    return F.cross_entropy(y, t) * (1 if F.cross_entropy(y, t).item() > 0 else 2)


def _branch(y, t):
    return F.cross_entropy(y, t) if (t >= 0).all() else y.sum()


def _made(y, t):
    return F.cross_entropy(y, t, weight=torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0]))


def _masked(y, t):
    return (y[t > 0] ** 2).mean()


def _where(y, t):
    return (y.index_select(0, (t > 0).nonzero()[:, 0]) ** 2).mean()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (_item, ".item()"),
        (_branch, "asks the device"),
        (_made, "torch.tensor"),
        (_masked, r"x\[mask\]"),
        (_where, "nonz"),
    ],
)
def test_a_loss_that_asks_the_host_is_refused_by_its_line_after_whole_steps(loss, words):
    (one, other), rows = twins(sb.dfa()), data()
    ours, theirs, order = update.sgd(), update.sgd(), orders()[0]
    steps = sb.captured(one, *rows, batch=N, loss=loss, update=ours, recorder=Tape())
    line = f"{__file__}:{loss.__code__.co_firstlineno + 1}"
    with pytest.raises(ValueError, match=words) as caught:
        steps.epoch(order)
    assert line in str(caught.value)
    loop(other, theirs, rows, order[: WARM_UP * N], loss=loss)
    assert different(state(one, ours), state(other, theirs)) == []
    with pytest.raises(ValueError, match=words):  # it is not forgotten
        steps.epoch(order)


@pytest.mark.parametrize(("method", "loss"), [(sb.f3(memory=M), _item), (sb.fdfa(), F.cross_entropy)])
def test_what_is_not_refused_runs_one_by_one_to_the_same_numbers(method, loss):
    (one, other), rows, tape = twins(method), data(), Tape()
    kinds = {"batch": N, "loss": loss, "update": update.adam()}
    steps, theirs = sb.captured(one, *rows, **kinds, refuse=False, recorder=tape), update.adam()
    for order in orders():
        assert torch.equal(steps.epoch(order), loop(other, theirs, rows, order, loss=loss))
    assert different(state(one, kinds["update"]), state(other, theirs)) == []
    assert ".item()" in steps.why if loss is _item else "the host seeds" in steps.why
    assert "record" not in tape.log


class _Deaf(Tape):
    """A device on which recording fails, as CUDA's does on what it does not permit."""

    def record(self, call):
        raise RuntimeError("operation not permitted when stream is capturing")


def test_what_the_device_does_not_record_is_refused_or_runs_one_by_one():
    with pytest.raises(ValueError, match=r"the device did not record it \(operation not permitted"):
        capture(recorder=_Deaf()).epoch(orders()[0])
    (one, other), rows = twins(sb.dfa()), data()
    kinds = {"batch": N, "loss": F.cross_entropy, "update": update.sgd()}
    steps, theirs = sb.captured(one, *rows, **kinds, refuse=False, recorder=_Deaf()), update.sgd()
    for order in orders():
        assert torch.equal(steps.epoch(order), loop(other, theirs, rows, order))
    assert different(state(one, kinds["update"]), state(other, theirs)) == []
    assert "operation not permitted" in steps.why


def test_a_loss_that_asks_nothing_is_not_refused():
    steps = capture()
    assert torch.isfinite(steps.epoch(orders()[0]))
    assert steps.why is None


def test_tensors_elsewhere_are_seen_and_lone_numbers_that_are_read_are_not():
    """Watched on a device without numbers: what lies on the CPU is elsewhere."""
    there, row, number = torch.empty(3, device="meta"), torch.ones(3), torch.ones(())
    with Guard(there.device) as guard:
        there * number
    assert not guard.found
    for call in (
        lambda: number.add_(1),
        lambda: torch._foreach_add_([number], 1),
        lambda: number * 2,
        lambda: row.sum(),
    ):
        with Guard(there.device) as guard:
            call()
        assert "uses a tensor on cpu, not on meta" in guard.said
        assert __file__ in guard.said
    for call in (lambda: number.to("meta"), lambda: there.copy_(row), lambda: there[0].copy_(number)):
        with Guard(there.device) as guard:
            call()
        assert guard.found


class _Late(update.Update):
    """An optimizer that makes state at its fourth step."""

    def __init__(self):
        super().__init__(lambda ps: torch.optim.SGD(ps, 0.1))
        self.calls = 0

    def apply(self, parameters, gradients):
        self.calls += 1
        if self.calls > WARM_UP * 3:  # three blocks
            self.optimizer.state[parameters[0]].setdefault("late", torch.zeros_like(parameters[0]))
        super().apply(parameters, gradients)


def test_state_that_is_made_while_it_is_recorded_is_refused():
    with pytest.raises(RuntimeError, match="made new state while it was recorded"):
        capture(make=_Late).epoch(orders()[0])


def test_a_memory_asks_again_when_an_epoch_has_failed():
    learner = twins(sb.f3(memory=M))[0]
    with pytest.raises(ValueError, match="cannot be captured"):
        capture(learner=learner, loss=_item).epoch(orders()[0])
    assert learner.memory.may_sync
    assert learner.memory.input_checks_left > 0


# ------------------------------------------------------------------------------------------- data that do not fit


def test_data_that_do_not_fit_are_refused():
    x, t = data()
    with pytest.raises(ValueError, match=r'x lies on meta, the network on cpu: pass x.to\("cpu"\)'):
        capture(rows=(x.to("meta"), t))
    with pytest.raises(ValueError, match="t lies on meta"):
        capture(rows=(x, t.to("meta")))
    with pytest.raises(ValueError, match="x has 22 samples and t 21"):
        capture(rows=(x, t[1:]))
    for batch in (0, M + 1):
        with pytest.raises(ValueError, match=f"batch is {batch}: it must lie in 1 to 22"):
            capture(batch=batch)
    with pytest.raises(ValueError, match="made for 21 samples, and there are 22: pass memory=22"):
        capture(sb.f3(memory=M - 1))


@pytest.mark.parametrize("recorder", [None, Tape()])
@pytest.mark.parametrize(
    ("order", "words"),
    [
        (torch.tensor([0, M]), "ids reach from 0 to 22, but the data has samples 0 to 21"),
        (torch.tensor([-1, 3]), "ids reach from -1 to 3"),
        (torch.zeros(0, dtype=torch.int64), "a row of 1 to 22 ids"),
        (torch.arange(M + 1) % M, r"shape \(23,\)"),
        (torch.zeros(3), "dtype torch.float32"),
        (torch.zeros(2, 2, dtype=torch.int64), r"shape \(2, 2\)"),
    ],
)
def test_an_order_that_is_none_changes_nothing(order, words, recorder):
    learner = twins(sb.dfa())[0]
    before = [p.detach().clone() for p in learner.parameters()]
    steps = sb.captured(learner, *data(), batch=N, loss=F.cross_entropy, update=update.sgd(), recorder=recorder)
    with pytest.raises(ValueError, match=words):
        steps.epoch(order)
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters(), before, strict=True))


def test_a_network_in_eval_mode_is_refused_even_where_all_is_recorded():
    learner = twins(sb.dfa())[0]
    steps, order = capture(learner=learner), orders()[0][: 4 * N]
    steps.epoch(order)
    learner.eval()
    with pytest.raises(ValueError, match=r"call train\(\) first"):
        steps.epoch(order)


def test_a_learner_that_was_taken_off_is_refused_even_where_all_is_recorded():
    learner = twins(sb.dfa())[0]
    steps, order = capture(learner=learner), orders()[0][: 4 * N]
    steps.epoch(order)
    learner.detach()
    with pytest.raises(RuntimeError, match="taken off"):
        steps.epoch(order)


# --------------------------------------------------------------------------------------- every method of the table


def test_every_step_that_is_not_refused_asks_nothing(method):
    """From the second step on, watched and on the tape; a memory is complete only after the first epoch."""
    learner, tape = twins(method)[0], Tape()
    if fit.missing("captured", traits.Traits(learner, update.adam())) is not None:
        pytest.skip("refused, see above")
    steps = capture(learner=learner, recorder=tape, batch=3, rows=[part[:MEMORY] for part in data()])
    for _ in range(2):
        steps.epoch(torch.randperm(MEMORY))
    assert "replay" in tape.log
