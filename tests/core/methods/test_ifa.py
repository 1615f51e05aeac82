"""ifa against NumPy: the first port by feedback, later ones by the forward tangents of the network."""

import nets
import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb
from skipback.core.route import Call


def relayed(net, hs, first):
    """u_1 = e B_1; u_l = (1 - h_l^2) * (W_l u_{l-1})."""
    found = [first]
    for k in range(1, len(net.W) - 1):
        found.append((1 - hs[k + 1] ** 2) * (found[-1] @ net.W[k].T))
    return found


def test_one_step(pair, agree, feedback_of):
    net = pair.oracle(oracles.softmax)
    learner = sb.attach(pair.net, sb.ifa(), pair.x, show=None)
    (B,) = feedback_of(learner)
    _, x, t = pair.numpy_batches()[0]
    hs, _, y = net.forward(x)
    e = oracles.head_error_ce(y, t)
    agree(pair.one_step(learner, F.cross_entropy), oracles.direct(net, hs, relayed(net, hs, e @ B), e))


def test_in_a_linear_network_it_is_the_paper_s():
    """delta_1 = e B_1, delta_l = W_l delta_{l-1}: f' is 1, so deviation 1 is none."""
    net = nets.made(lambda: nets.linear_mlp(6, 7, 5, 4))
    x, t, _ = nets.batch()
    t = t % 4
    learner = sb.attach(net, sb.ifa(), x, show=None)
    (B,) = [b.numpy() for b in learner.feedback.values()]
    F.cross_entropy(y := learner(x), t).backward()
    e = (torch.softmax(y.detach(), 1) - F.one_hot(t, 4)).numpy() / len(x)
    delta = [e @ B]
    delta.append(delta[0] @ net[1].weight.detach().numpy().T)
    h = [x.numpy(), net[0](x).detach().numpy()]
    for layer, d, inputs in zip(net[:2], delta, h, strict=True):
        np.testing.assert_allclose(layer.weight.grad.numpy(), d.T @ inputs, rtol=1e-10, atol=1e-14)


def test_with_one_hidden_layer_it_is_dfa():
    x, t, _ = nets.batch()
    found = []
    for method in (sb.ifa(), sb.dfa()):
        learner = sb.attach(
            nets.made(lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))), method, x, show=None
        )
        F.cross_entropy(learner(x), t).backward()
        found.append(nets.gradients(learner.net))
    assert nets.difference(*found) < 1e-12


def test_only_the_first_port_has_feedback(pair):
    learner = sb.attach(pair.net, sb.ifa(), pair.x, show=None)
    assert list(learner.feedback) == ["0"]
    assert list(learner.direct.ports) == ["0", "2"]
    assert "relayed" in learner.summary()


def test_batch_norm_is_refused_in_training():
    x, t, _ = nets.batch()
    learner = sb.attach(nets.made(nets.batchnorm), sb.ifa(), x, show=None)
    with pytest.raises(ValueError, match="module '0' is a batch norm: it joins the samples"):
        learner(x)
    learner.eval()
    F.cross_entropy(learner(x), t).backward()
    assert all(p.grad.any() for p in learner.net.parameters())


def test_positions_are_refused():
    net = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 5), nn.Linear(5, 11))
    with pytest.raises(ValueError, match="ifa cannot teach the positions of a sequence"):
        sb.attach(net, sb.ifa(), torch.zeros(2, 3, dtype=torch.int64), show=None)


def test_a_port_that_does_not_follow_the_first_one_is_refused():
    """Its teaching would be 0, without a word."""
    x, _, _ = nets.batch()
    learner = sb.attach(nets.made(nets.Branches), sb.ifa(), x, show=None)
    with pytest.raises(ValueError, match="port 'b' is not reached from the first port 'a'"):
        learner(x)


def test_a_block_that_is_called_again_has_the_tangents_of_its_last_call():
    """u = B at the first call of the first block, and only there; then J u."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.Linear(6, 6), nn.Linear(6, 5)

        def forward(self, x):
            return self.out(torch.tanh(self.cell(torch.tanh(self.cell(x)))))

    x, _, _ = nets.batch()
    learner = sb.attach(nets.made(Twice), sb.ifa(), x, show=None)
    B = learner.feedback["cell"]
    (tangents,) = learner.direct.forward_mode(Call(learner.net.forward, (x,), {})).values()
    with learner.exact():
        h = torch.tanh(learner.net.cell(torch.tanh(learner.net.cell(x))))  # the port of the second call
    torch.testing.assert_close(tangents, (1 - h**2) * (B[:, None] @ learner.net.cell.weight.T))


def test_an_in_place_activation_does_not_write_over_the_tangents():
    x, t, _ = nets.batch(nets.IMAGE)
    found = []
    for in_place in (True, False):
        net = nets.made(nets.inplace)
        net[1].inplace = net[4].inplace = in_place
        learner = sb.attach(net, sb.ifa(), x, blocks=["0", "3"], show=None)
        F.cross_entropy(learner(x), t).backward()
        found.append(nets.gradients(net))
    assert nets.same(*found)
