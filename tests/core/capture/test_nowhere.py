"""A step on a device without numbers (meta): from the second on it asks for none, and touches no tensor of the host.

What a tape on the CPU cannot show is traffic between host and device, as all lies on the host there.
"""

import contextlib

import nets
import pytest
import torch
import torch.nn.functional as F
from loops import M, twins
from test_captured import METHODS, UPDATES

import skipback as sb
from skipback import update
from skipback.engine.capture.guard import Guard

NOWHERE = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Autocast does not know this device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def second_step(method, make, *, build=nets.mlp, shape=(6,), loss=F.cross_entropy):
    """What the guard sees of it. The first looks at values (the guards of the method): it is told that it has."""
    learner = twins(method, build, shape)[0].to(NOWHERE)
    if learner.direct is not None:
        learner.direct.targets_seen = learner.direct.error_seen = True
    if learner.memory is not None:
        learner.memory.may_sync, learner.memory.input_checks_left = False, 0
    x, t = torch.empty(M, *shape, device=NOWHERE), torch.empty(M, dtype=torch.int64, device=NOWHERE)
    kinds = {"loss": loss, "update": make(), "ids": torch.arange(M, device=NOWHERE)}
    learner.step(x, t, **kinds)
    with Guard(NOWHERE) as guard:
        assert learner.step(x, t, **kinds).device == NOWHERE
    return guard.found


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "fdfa"])
def test_a_step_stays_on_its_device(name, kind):
    if kind == "sgd" and name in ("dkp", "bp"):
        pytest.skip("torch has no fused SGD for this device")
    assert second_step(METHODS[name](), UPDATES[kind]) == {}


@pytest.mark.parametrize("net", ["conv", "batchnorm", "dropout"])
def test_so_does_a_step_with_hooks(net):
    shape = (1, 8, 8) if net == "conv" else (6,)
    assert second_step(sb.f3(memory=M), update.adam, build=getattr(nets, net), shape=shape) == {}


def test_what_comes_from_the_host_is_seen():
    """So that the tests above can fail."""
    weights = torch.ones(nets.C)

    def loss(y, t):
        return F.cross_entropy(y * weights.to(y.device), t)

    assert any("uses a tensor on cpu, not on meta" in what for what in second_step(sb.dfa(), update.adam, loss=loss))
    with pytest.raises(RuntimeError, match="meta"):
        second_step(sb.dfa(), update.adam, loss=lambda y, t: F.cross_entropy(y, t) * y.sum().item())
