"""`learner.step(watch=)` sees what the loss gets, once, before the update; and training is the same with it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb

X, T, IDS = torch.randn(8, 1, 4, 4), torch.randint(3, (8,)), torch.arange(8)
NETS = {
    "a chain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)),
    "hooked": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)),
}
METHODS = {
    "dfa": sb.dfa,
    "f3": lambda: sb.f3(memory=8),
    "fdfa": sb.fdfa,
    "bp": sb.bp,
    "fa": sb.fa,
    "shallow": sb.shallow,
    "drtp": sb.drtp,
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("method", METHODS)
def test_what_the_loss_gets_is_seen_once(kind, method):
    torch.manual_seed(0)
    net = NETS[kind]()
    twin = copy.deepcopy(net)
    ours, plain = (sb.attach(n, METHODS[method](), example=X[:2], show=None) for n in (net, twin))
    updates, seen = [sb.update.adam(1e-2), sb.update.adam(1e-2)], []

    def watch(y, t):
        assert not torch.is_grad_enabled()
        seen.append((y.detach().clone(), t))

    for _ in range(2):
        with torch.no_grad(), plain.exact():
            expected = twin(X)
        ours.step(X, T, loss=F.cross_entropy, update=updates[0], ids=IDS, watch=watch)
        plain.step(X, T, loss=F.cross_entropy, update=updates[1], ids=IDS)
        torch.testing.assert_close(seen[-1][0], expected)
        assert seen[-1][1] is T
    assert len(seen) == 2
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), plain.parameters(), strict=True))


def test_many_sees_all_members_at_once():
    torch.manual_seed(0)
    members = [sb.attach(NETS["a chain"](), sb.dfa(), example=X[:2], show=None) for _ in range(3)]
    seen = []
    with torch.no_grad():
        expected = torch.stack([member(X) for member in members])
    many = sb.Many(members)
    many.step(
        X.expand(3, *X.shape), T.expand(3, 8), loss=F.cross_entropy, update=sb.update.adam(),
        watch=lambda y, t: seen.append((y.clone(), t)),
    )  # fmt: skip
    torch.testing.assert_close(seen[0][0], expected)
    assert seen[0][1].shape == (3, 8)


def test_the_parameters_of_feedback_are_those_beside_the_network():
    learned = sb.attach(NETS["a chain"](), sb.fdfa(), example=X[:2], show=None)
    fixed = sb.attach(NETS["a chain"](), sb.dfa(), example=X[:2], show=None)
    own = {id(p) for p in learned.net.parameters()}
    assert [p.shape for p in learned.feedback_parameters()] == [B.shape for B in learned.feedback.values()]
    assert not own & {id(p) for p in learned.feedback_parameters()}
    assert len(own) + len(learned.feedback_parameters()) == len(list(learned.parameters()))
    assert fixed.feedback_parameters() == []
