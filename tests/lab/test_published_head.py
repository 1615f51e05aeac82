"""What the head of a published method is taught by: the sum of the loss, or its mean, as its own code has it."""

import numpy as np
import pytest
import torch

from skipback.lab.config import Run, usual
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.report import words
from skipback.lab.trainer import Trainer

N, D, H, C = 6, 5, 4, 3


def step(method, **settings):
    """One step of SGD with rate 1 on the whole set. Returns x, t, and the weights before and after it, in float64."""
    torch.manual_seed(0)
    part = Split(x=torch.randn(N, D), t=torch.arange(N) % C)
    data = Dataset(name="random", task=Task.CLASSIFICATION, outputs=C, train=part, test=part)
    given = {"device": "cpu", "batch_size": N, "depth": 1, "width": H, "optimizer": "sgd", "lr": 1.0, **settings}
    run = Trainer(Run(method=method, as_published=True, **given), data)
    before = [p.detach().double().numpy().copy() for p in run.learner.net.parameters()]
    B = next(iter(run.learner.feedback.values())).double().numpy().copy() if run.learner.feedback else None
    run.epoch()
    after = [p.detach().double().numpy() for p in run.learner.net.parameters()]
    return part.x.double().numpy(), np.eye(C)[part.t.numpy()], before, after, B


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


def softmax(y):
    e = np.exp(y - y.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("method", "settings", "error", "share"),
    [
        ("dfa", {"loss": "bce"}, sigmoid, 1.0),  # dfa-torch: the head's gradient is (sigma(y) - t)^T h, as summed
        ("fa", {"loss": "bce"}, sigmoid, 1.0),
        ("dfa", {"loss": "ce"}, softmax, 1.0),
        ("dfa", {"loss": "bce", "reduction": "mean"}, sigmoid, 1 / (N * C)),
        ("f3", {"loss": "bce"}, sigmoid, 1 / (N * C)),
        ("principled_dfa", {"loss": "ce"}, softmax, 1 / N),
        ("bp", {"loss": "bce"}, sigmoid, 1 / (N * C)),
    ],
)
def test_the_gradient_of_the_head(method, settings, error, share):
    x, t, (W1, b1, W2, b2), after, _ = step(method, **settings)
    h = np.tanh(x @ W1.T + b1)
    e = error(h @ W2.T + b2) - t
    assert abs((W2 - after[2]) - share * e.T @ h).max() < 1e-6
    assert abs((b2 - after[3]) - share * e.sum(0)).max() < 1e-6


def test_hidden_layers_of_published_dfa_are_taught_by_the_sum_once():
    """The factor of a summed loss is not applied to what is a sum already."""
    x, t, (W1, b1, W2, b2), after, B = step("dfa", loss="bce")
    h = np.tanh(x @ W1.T + b1)
    delta = ((sigmoid(h @ W2.T + b2) - t) @ B) * (1 - h**2)
    assert abs((W1 - after[0]) - delta.T @ x).max() < 1e-6


def test_the_reduction_is_in_the_configuration():
    assert Run(method="dfa").reduction == "mean"
    assert Run(method="dfa", as_published=True).reduction == Run(method="fa", as_published=True).reduction == "sum"
    assert Run(method="f3", as_published=True).reduction == "mean"
    assert Run(method="dfa", as_published=True, reduction="mean").reduction == "mean"
    assert usual()["reduction"] == "mean"  # what every older run had


def test_a_sum_beside_means_is_told():
    class Arm:
        def __init__(self, label, reduction):
            self.label, self.settings = label, {"reduction": reduction}

    arms = [Arm("dfa", "sum"), Arm("fa", "sum"), Arm("bp", "mean")]
    assert words._reductions(arms) == [
        "The loss of dfa and fa is a sum over batch and outputs, that of the others a mean: so is each step."
    ]
    assert words._reductions(arms[:2]) == words._reductions(arms[2:]) == []
