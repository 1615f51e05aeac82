"""Feedback of its own for each port: each port is taught by what stands under its name, and nothing else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb
from skipback.core.feedback import Fixed
from skipback.draws import Constant, Gaussian, Uniform, ternary
from skipback.methods import dkp, fdfa
from skipback.structures import PerPort, Sliced


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers)


def attached(feedback, method=sb.dfa):
    return sb.attach(net(), method(feedback=feedback), example=torch.randn(2, 4), seed=3, show=None)


BLOCKS = ("0", "2", "4")


def test_the_blocks_of_these_tests():
    assert tuple(attached(Fixed()).feedback) == BLOCKS


def test_each_port_is_taught_by_its_own_matrix():
    """Against NumPy: dW_1 = ((e B_1) * (1 - h_1^2))^T x, with B_1 = 0.5 everywhere; B_2 from {-2, 0, 2}."""
    learner = attached({"0": Fixed(Constant(0.5)), "2": Fixed(ternary()), "4": Fixed(Gaussian(1.0))})
    x, t = torch.randn(7, 4), torch.randint(3, (7,))
    F.cross_entropy(learner(x), t).backward()
    B = {name: part.numpy() for name, part in learner.feedback.items()}
    assert np.all(B["0"] == 0.5)
    assert set(np.unique(B["2"])) <= {-1.0, 0.0, 1.0}
    W = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in learner.net if isinstance(m, nn.Linear)]
    h = [x.numpy()]
    for weight, bias in W[:-1]:
        h.append(np.tanh(h[-1] @ weight.T + bias))
    y = h[-1] @ W[-1][0].T + W[-1][1]
    p = np.exp(y - y.max(1, keepdims=True))
    e = (p / p.sum(1, keepdims=True) - np.eye(3)[t.numpy()]) / len(x)
    for k, name in enumerate(BLOCKS):
        wanted = ((e @ B[name]) * (1 - h[k + 1] ** 2)).T @ h[k]
        np.testing.assert_allclose(learner.net[2 * k].weight.grad.numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_step_and_backward_agree():
    feedback = {"0": Fixed(Constant(0.5)), "2": Fixed(ternary()), "4": Fixed(Gaussian(1.0))}
    one, other = attached(feedback), attached(feedback)
    x, t = torch.randn(7, 4), torch.randint(3, (7,))
    one.step(x, t, loss=F.cross_entropy, update=sb.update.sgd(0.1))
    F.cross_entropy(other(x), t).backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_structure_is_shared_by_its_own_ports_alone():
    shared = Sliced(Gaussian(1.0))
    learner = attached({"0": shared, "2": Fixed(), "4": shared})
    B = learner.feedback
    assert torch.equal(B["0"], B["4"])
    assert B["2"].shape == (3, 6)


def test_the_others():
    learner = attached(PerPort({"2": Fixed(Constant(2.0))}, other=Fixed(Constant(1.0))))
    assert [part.unique().item() for part in learner.feedback.values()] == [1.0, 2.0, 1.0]


def test_learned_feedback_of_each_port_starts_where_it_was_told():
    start = {"0": dkp.Correlation(draw=Constant(1.0)), "2": dkp.Correlation(), "4": dkp.Correlation(draw=Constant(2.0))}
    learner = attached(start, sb.dkp)
    assert [part.unique().tolist() for part in learner.feedback.values()] == [[1.0], [0.0], [2.0]]
    before = [part.clone() for part in learner.feedback.values()]
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    F.cross_entropy(learner(torch.randn(7, 4)), torch.randint(3, (7,))).backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, learner.feedback.values(), strict=True))


def test_state_is_loaded_back():
    one, other = (attached({name: Fixed(Uniform(bound)) for name in BLOCKS}) for bound in (1.0, 2.0))
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(one.feedback[name], other.feedback[name]) for name in BLOCKS)


@pytest.mark.parametrize(
    ("feedback", "kind", "said"),
    [
        ([Fixed(), Fixed()], TypeError, "a list does not say which port each is for: write a dict"),
        ((Fixed(),), TypeError, "a tuple does not say which port"),
        (Uniform(1.0), TypeError, r"Uniform\(bound=1.0\) is a draw: write Fixed\(Uniform\(bound=1.0\)\)"),
        ("uniform", TypeError, "must be a Feedback, .* not str"),
        (None, TypeError, "not NoneType"),
        ({}, ValueError, "name at least one block"),
        ({"0": Uniform()}, TypeError, "feedback of block '0': .* is a draw"),
        ({"0": Fixed(), "2": dkp.Correlation()}, ValueError, "all of them learn, or none does"),
        ({"0": fdfa.MeanJacobian()}, ValueError, "forward mode, which runs for all ports at once"),
    ],
)
def test_what_is_no_feedback_is_refused_in_words(feedback, kind, said):
    with pytest.raises(kind, match=said):
        sb.dfa(feedback=feedback)


def test_names_that_do_not_fit_the_network():
    with pytest.raises(ValueError, match="names block '9', and the blocks are '0', '2', '4'"):
        attached(PerPort({"9": Fixed()}, other=Fixed()))
    with pytest.raises(ValueError, match=r"block '2' has no feedback: there is one for '0'"):
        attached({"0": Fixed()})
