"""A golden trace: DFA learns a random matrix with a linear network, to the digits that a notebook printed in 2017.

Source: `dfa-linear-net.ipynb` of iacolippo/Direct-Feedback-Alignment (48216f3), run under seed 1234 of NumPy's legacy
generator. y = W2 W1 x with 10-1000-10 units and no bias learns t = M x, by full batches and plain gradient descent:

    dW1 = (B e) x^T    dW2 = e (W1 x)^T    e = y - t, summed over 1000 samples; both with the weights from before
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import skipback as sb
from skipback.core.feedback import Fixed

pytestmark = pytest.mark.slow  # six seconds; tests/lab/test_linear.py has the same trace of the same notebook

LR, TOLERANCE, LAST = 1e-6, 1e-3, 460
COSTS = {
    1: "1637494.94138",
    11: "892520.567695",
    21: "121899.748981",
    101: "168.315018756",
    201: "14.7248426103",
    451: "0.00136595841628",
}
COSINES = {
    1: "0.892324676656",
    11: "0.90507314825",
    21: "0.869021030984",
    51: "0.941085830391",
    101: "0.512413657815",
    201: "0.802655470926",
    451: "0.849679952515",
}
D = 0.009528188480031091
"""Sum |M - W2 W1| at the end, by the notebook's code on one thread of a Haswell or Zen core (it printed ...848004)."""
ROUNDING = 100 * 10 * 2**-52
"""What the last digits of D depend on: its 100 entries are differences of numbers as large as 10. The notebook's code
ends in ...03359 with OpenBLAS on two threads, and in ...058989 with its AVX-512 kernels."""


def near(printed, rounded):
    """Within half a unit of the last digit that was printed, and what float64 rounds on the way (relative)."""
    digits = len(printed.split(".")[1])
    return pytest.approx(float(printed), rel=rounded, abs=0.5 * 10.0**-digits)


def rounded(cost):
    """Relative rounding of the mean error that a cosine is taken of: outputs of size 50 leave 50 * 2^-52 in it.

    A cost is the sum of 10,000 squares, and the mean of 1,000 independent errors is smaller than one by sqrt(1000).
    """
    return 50 * 2**-52 / math.sqrt(2 * cost / 10_000 / 1000)


@dataclass(frozen=True)
class Matrix:
    """A draw that is this matrix (C, D)."""

    values: torch.Tensor

    def __call__(self, C, D, generator):
        assert self.values.shape == (C, D)
        return self.values.clone()


@dataclass
class Trace:
    """What was seen on the way, and where it ended."""

    costs: dict
    cosines: dict
    stop: int
    product: np.ndarray


def task():
    """M (10, 10), the samples (1000, 10) and B (1000, 10), drawn in the notebook's order."""
    random = np.random.RandomState(1234)
    M = random.randint(low=-10, high=10, size=(10, 10))
    x = np.array([random.randn(10) for _ in range(1000)])
    return M, x, random.randn(1000, 10)


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.fixture(scope="module")
def oracle():
    """The notebook's loop in NumPy. Products are associated so that none is 1000 x 1000: 50 times as fast."""
    M, x, B = task()
    t, W1, W2, costs, cosines = x @ M.T, np.zeros((1000, 10)), np.zeros((10, 1000)), {}, {}
    for k in range(4000):
        e = x @ (W2 @ W1).T - t
        cost, ex = 0.5 * (e**2).sum(), e.T @ x
        W1, W2 = W1 - LR * (B @ ex), W2 - LR * (ex @ W1.T)
        if k % 10 == 1:
            costs[k], cosines[k] = cost, cosine(B @ e.mean(0), W2.T @ e.mean(0))
        if cost <= TOLERANCE:
            break
    return Trace(costs, cosines, k, W2 @ W1)


class Run:
    """The same by skipback, in float64."""

    def __init__(self):
        M, x, B = task()
        self.x, self.t = torch.from_numpy(x), torch.from_numpy(x @ M.T)
        self.net = nn.Sequential(nn.Linear(10, 1000, bias=False), nn.Linear(1000, 10, bias=False)).double()
        for p in self.net.parameters():
            nn.init.zeros_(p)
        method = sb.dfa(feedback=Fixed(Matrix(torch.from_numpy(B.T))))
        self.learner = sb.attach(self.net, method, self.x, show=None)
        self.optimizer = torch.optim.SGD(self.learner.parameters(), lr=LR)

    def cost(self, y, t):
        return 0.5 * (y - t).square().sum()

    def step(self):
        """One update. Returns the cost and the error (N, C) from before it."""
        y = self.learner(self.x)
        cost = self.cost(y, self.t)
        cost.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return cost.item(), (y - self.t).detach()

    def alignment(self, e):
        """Of this error (from before the update, as in the notebook) and the weights of now."""
        (one,) = sb.alignment(self.learner, self.x, self.t, lambda y, t: (y * e).sum())
        return one


@pytest.fixture(scope="module")
def trace():
    """The whole training; `aligned` holds the alignment at the iterations of COSINES and at the end."""
    run, costs, aligned = Run(), {}, {}
    for k in range(4000):
        cost, e = run.step()
        if k % 10 == 1:
            costs[k] = cost
        if k in COSINES or cost <= TOLERANCE:
            aligned[k] = run.alignment(e)
        if cost <= TOLERANCE:
            break
    product = (run.net[1].weight @ run.net[0].weight).detach().numpy()
    found = Trace(costs, {k: one.batch_cosine for k, one in aligned.items()}, k, product)
    found.aligned = aligned
    return found


@pytest.fixture(params=["oracle", "skipback"])
def either(request, oracle, trace):
    return oracle if request.param == "oracle" else trace


def test_the_costs_are_those_that_were_printed(either):
    assert {k: either.costs[k] for k in COSTS} == {k: near(printed, 1e-12) for k, printed in COSTS.items()}


def test_the_cosines_are_those_that_were_printed(either):
    expected = {k: near(printed, rounded(either.costs[k])) for k, printed in COSINES.items()}
    assert {k: either.cosines[k] for k in COSINES} == expected


def test_it_stops_at_the_same_iteration_with_the_same_matrix(either):
    M, _, _ = task()
    assert either.stop == LAST
    assert np.abs(M - either.product).sum() == pytest.approx(D, rel=0, abs=ROUNDING)


def test_every_tenth_cost_is_that_of_the_oracle(oracle, trace):
    """Over nine orders of magnitude."""
    assert list(trace.costs) == list(oracle.costs)
    assert list(trace.costs.values()) == pytest.approx(list(oracle.costs.values()), rel=1e-11)


def test_the_alignment_per_sample(trace):
    """Another rewriting of the notebook found 0.569 +- 0.092 at iteration 101 and 0.8497 +- 0.0001 at the end."""
    on_the_way, end = trace.aligned[101], trace.aligned[LAST]
    assert (on_the_way.cosine, on_the_way.cosine_std) == pytest.approx((0.569, 0.092), abs=5e-4)
    assert (end.cosine, end.cosine_std) == pytest.approx((0.8497, 0.0001), abs=5e-5)
    assert end.degrees == pytest.approx(31.8, abs=0.05)
