"""The linear-net notebook (Poli 2017): a deep linear network learns a matrix, and the theorem is watched at work.

    y = W2 W1 x,  10-1000-10, no bias, from zero weights;  t = M x with M of whole numbers -10 .. 9, 1000 samples
    dW1 = sum_n (B e_n) x_n^T    dW2 = sum_n e_n (W1 x_n)^T    e = y - t    B ~ N(0, 1)    rate 1e-6

by full batches, until the cost, half the sum of squares, is at most 1e-3. M, the samples and B are those of NumPy's
legacy generator under seed 1234, so the trace comes back to the digits that the notebook printed: cost 1637494.94,
892520.568, 121899.749, 168.315 and 0.00136596 at iterations 1, 11, 21, 101 and 451, the end at 460 with
sum |M - W2 W1| = 0.0095281885.

What is measured every ten iterations, of means over the samples (`docs/theory.md` says what it means):

    dh = mean_n B e_n    c = mean_n W2^T e_n    L_k = dh . c / |dh|    cos beta = L_k / |c|

with the error from before an update and W2 from after it, as the notebook does. Code:
https://github.com/iacolippo/Direct-Feedback-Alignment, dfa-linear-net.ipynb.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

import skipback
from skipback.core.feedback import Fixed
from skipback.draws import Draw
from skipback.lab.nets.mlp import linear
from skipback.learner import Learner

RATE, TOLERANCE, MOST, EVERY = 1e-6, 1e-3, 4000, 10
UNITS, SAMPLES, HIDDEN = 10, 1000, 1000


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement.

    Attributes:
        iteration: counted from 0; what is measured is of this update.
        cost: half the sum of squared errors over all samples, before the update.
        criterion: L_k = dh . c / |dh|, the length of the backpropagated c along the teaching dh.
        next_criterion: L_{k+1} = e . (W2 dh) / |e| of the output layer, of means too.
        cosine: cos beta, between dh and c; nan where one of them is 0.
        degrees: beta.
    """

    iteration: int
    cost: float
    criterion: float
    next_criterion: float
    cosine: float
    degrees: float


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The whole training.

    Attributes:
        points: every tenth iteration, 1, 11, 21 ...
        stop: the iteration at which the cost was at most the tolerance, or the last one.
        cost: before the update of that iteration.
        distance: sum |M - W2 W1| over the 100 entries, at the end.
    """

    points: tuple[Measurement, ...]
    stop: int
    cost: float
    distance: float


@dataclass(frozen=True, eq=False)
class Given(Draw):
    """The draw that is this matrix."""

    values: Tensor

    def __call__(self, C: int, D: int, generator: Generator) -> Tensor:
        """B, which must be (C, D)."""
        assert self.values.shape == (C, D)
        return self.values.clone()


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """M (10, 10), the samples x (1000, 10) and B (10, 1000), float64, in the order in which the notebook draws them."""
    random = np.random.RandomState(1234)
    M = random.randint(-10, 10, (UNITS, UNITS)).astype(float)
    x, B = random.randn(SAMPLES, UNITS), random.randn(HIDDEN, UNITS)
    return torch.from_numpy(M), torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(B.T))


def trace(*, tolerance: float = TOLERANCE, most: int = MOST, every: int = EVERY) -> Trace:
    """Train the network and measure. Takes ten seconds or more.

    Args:
        tolerance: the cost at which to stop.
        most: iterations at most, above 0.
        every: iterations between measurements, the first at iteration 1.
    """
    M, x, B = problem()
    t, net = x @ M.T, linear((UNITS,), UNITS, width=HIDDEN).double()
    learner = skipback.attach(net, skipback.dfa(feedback=Fixed(Given(B))), x, show=None)
    optimizer = torch.optim.SGD(learner.parameters(), lr=RATE)
    points = []
    for k in range(most):
        cost, e = _update(learner, optimizer, x, t)
        if k % every == 1 % every:
            points.append(_point(k, cost, e.mean(0), learner))
        if cost <= tolerance:
            break
    W1, W2 = _weights(net)
    return Trace(points=tuple(points), stop=k, cost=cost, distance=(M - W2 @ W1).abs().sum().item())


def _update(learner: Learner, optimizer: torch.optim.Optimizer, x: Tensor, t: Tensor) -> tuple[float, Tensor]:
    """One update. Returns the cost and the error (N, C) from before it."""
    y: Tensor = learner(x)
    cost = 0.5 * (y - t).square().sum()
    cost.backward()
    optimizer.step()
    optimizer.zero_grad()
    return cost.item(), (y - t).detach()


@torch.no_grad()
def _point(k: int, cost: float, e: Tensor, learner: Learner) -> Measurement:
    (B,) = learner.feedback.values()
    _, W2 = _weights(learner.net)
    dh, c = e @ B, e @ W2
    criterion = _along(c, dh)
    cosine = criterion / c.norm().item() if c.any() else math.nan
    return Measurement(
        iteration=k,
        cost=cost,
        criterion=criterion,
        next_criterion=_along(dh @ W2.T, e),
        cosine=cosine,
        degrees=math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
    )


def _along(a: Tensor, b: Tensor) -> float:
    """The length of a along b; nan where b is 0."""
    return float(a @ b / b.norm())


def _weights(net: nn.Module) -> tuple[Tensor, Tensor]:
    first, second = (m.weight.detach() for m in net.modules() if isinstance(m, nn.Linear))
    return first, second


def figure(found: Trace) -> bytes:
    """Three panels against the iteration, as PNG: the cost, the angle beta, and the criteria of both layers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from skipback.lab.report.figures import STYLE

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE, use_default_template=False))
        canvas = Figure((7.0, 7.2), layout="constrained")
        cost, angle, criteria = canvas.subplots(3, sharex=True)
        k = [point.iteration for point in found.points]
        cost.semilogy(k, [point.cost for point in found.points])
        cost.set_ylabel("cost")
        angle.plot(k, [point.degrees for point in found.points])
        angle.axhline(90, linestyle=":", linewidth=1)
        angle.set_ylabel("angle beta (degrees)")
        criteria.semilogy(k, [point.criterion for point in found.points], label="hidden layer, L_k")
        criteria.semilogy(k, [point.next_criterion for point in found.points], "--", label="output layer, L_k+1")
        criteria.set_ylabel("alignment criterion")
        criteria.set_xlabel("iteration")
        criteria.legend()
        for axes in (cost, criteria):
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        file = io.BytesIO()
        canvas.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()
