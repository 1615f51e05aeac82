"""The step writes activations over what they take, and delta over the teaching, where that is surely nobody else's."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb
from skipback.core.feedback import Fixed
from skipback.signals import LossGradient
from skipback.step import rules


@dataclass(frozen=True)
class Same(Fixed):
    """Feedback that hands out one tensor again and again."""

    handed: list = field(default_factory=list)

    def project(self, lesson, parts):
        if not self.handed:
            self.handed.append(super().project(lesson, parts))
        return self.handed[0]


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.ReLU])
def test_a_teaching_that_somebody_else_has_is_left_alone(act):
    feedback = Same()
    net = nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 6), act(), nn.Linear(6, 3))
    x, t = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    learner = sb.attach(net, sb.Direct(paper=None, signal=LossGradient(), feedback=feedback), example=x, show=None)
    feedback.handed.clear()
    learner.step(x, t, loss=F.cross_entropy, update=sb.update.sgd())
    (handed,) = feedback.handed
    before = handed.clone()
    learner.step(x, t, loss=F.cross_entropy, update=sb.update.sgd())
    assert torch.equal(handed, before)
    assert before.abs().sum() > 0


def weights(build, make, x, *, stepped):
    """Of a network after three steps, or three rounds of the loop that a user writes."""
    torch.manual_seed(0)
    net, t = build(), torch.arange(len(x)) % 3
    learner = sb.attach(net, make(), example=x, show=None)
    update, plain = sb.update.adam(lr=0.01), torch.optim.Adam(learner.parameters(), lr=0.01, fused=True)
    for _ in range(3):
        if stepped:
            learner.step(x, t, loss=F.cross_entropy, update=update)
            continue
        plain.zero_grad()
        F.cross_entropy(learner(x, target=t), t).backward()
        plain.step()
    return [p.detach().clone() for p in net.parameters()]


def same_bits(build, make, x):
    found = [weights(build, make, x, stepped=stepped) for stepped in (True, False)]
    return all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.Identity])
@pytest.mark.parametrize("make", [sb.dfa, sb.drtp, sb.fdfa])
def test_in_place_or_not_the_bits_are_those_of_backward(act, make):
    def build():
        return nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 6), act(), nn.Linear(6, 3))

    assert same_bits(build, make, torch.randn(8, 5))


class Doubled(nn.Tanh):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, Doubled])
@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm2d(4)])
@pytest.mark.parametrize("make", [sb.dfa, sb.drtp])
def test_activations_of_a_block_by_autograd_are_written_in_place(act, norm, make):
    def build():
        conv = nn.Sequential(nn.Conv2d(1, 4, 3), norm(), act(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), norm(), act())
        return nn.Sequential(conv, nn.Flatten(), nn.Linear(16, 3))

    assert same_bits(build, make, torch.randn(8, 1, 8, 8))


def test_an_activation_leaves_alone_what_somebody_else_has():
    graph = rules.ModulesBlock([nn.Flatten(), nn.Tanh()])
    x = torch.randn(2, 3)
    before = x.clone()
    graph.run(x)
    assert torch.equal(x, before)


def test_an_activation_of_a_dense_block_takes_no_memory_of_its_own():
    dense = rules.rule([nn.Linear(3, 4), nn.Tanh()], rows=True)
    with torch.no_grad():
        y = dense.run(torch.randn(2, 3))
    assert dense.saved[1] is y
    assert y._version == 1  # tanh_ over the product
