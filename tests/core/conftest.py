"""Every method, from the table, so that a new line in it is under contract at once; and an MLP next to its oracle."""

import inspect
from dataclasses import replace

import nets
import numpy as np
import oracles
import pytest
import torch

from skipback import draws, methods, signals

MEMORY = 16
"""Training samples of the tests; a batch has 8."""


def _build(name, kind):
    """The method of a page for cross-entropy: `kind` is the page's own name, or as_published."""
    constructor = getattr(methods.page(name), kind)
    possible = {"memory": MEMORY, "link": signals.softmax}
    wanted = inspect.signature(constructor).parameters
    method = constructor(**{key: value for key, value in possible.items() if key in wanted})
    if getattr(method, "feedback", None) is not None and method.feedback.learns:
        # learned feedback starts at 0, which teaches nothing at the first step: the contract starts later
        method = replace(method, feedback=replace(method.feedback, draw=draws.Gaussian()))
    return method


ALL = {name: _build(name, name) for name in methods.TABLE}
PUBLISHED = {f"{name}-published": _build(name, "as_published") for name in methods.TABLE}
# where the published update is that of the library, one of them is enough
ALL |= {name: method for name, method in PUBLISHED.items() if method != ALL[name.removesuffix("-published")]}


def _kind(method):
    """What of a direct method meets what is special in a network: not its constants, draw or scale."""
    signal, feedback = method.signal, method.feedback
    return signal.needs, signal.scales, feedback.learns, feedback.sees, feedback.homogeneous


DIRECT = {name: _kind(method) for name, method in ALL.items() if hasattr(method, "signal")}
FIRST = {name for name, kind in DIRECT.items() if name == next(n for n, k in DIRECT.items() if k == kind)}
"""One direct method of each kind."""
FOR_ALL = {"mlp", "conv", "functional_residual", "batchnorm"}
"""Networks of the contract on which every method is; one of each kind is on all of them."""


def pytest_collection_modifyitems(items):
    """On the other networks, other methods of a kind are left to `make slow`."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        names = [value for value in params.values() if isinstance(value, str) and value in DIRECT]
        if params.get("case", "mlp") not in FOR_ALL and any(name not in FIRST for name in names):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=ALL)
def method(request):
    """Every method, in the library's convention and as published."""
    return ALL[request.param]


@pytest.fixture(params=[name for name, method in ALL.items() if hasattr(method, "signal")])
def direct(request):
    """Those that send a signal."""
    return ALL[request.param]


@pytest.fixture(
    params=[name for name, method in ALL.items() if hasattr(method, "signal") and method.signal.needs.early]
)
def early(request):
    """Those whose signal is known before the output."""
    return ALL[request.param]


@pytest.fixture(params=nets.CASES)
def case(request):
    """Every network of the contract."""
    params = request.node.callspec.params
    if request.param == "batchnorm" and params.get("method", params.get("direct", "")).startswith("ifa"):
        pytest.skip("ifa carries teaching forwards sample by sample, and refuses batch norm (test_ifa)")
    return nets.CASES[request.param]


# ------------------------------------------------------------------------- an MLP on both sides: torch and NumPy


class Pair:
    """The same MLP and data for skipback and for the oracles; float64 on both sides.

    Attributes:
        net: the torch network; it returns logits.
        x, labels, ids: one epoch of 11 samples in shuffled order.
        batches: positions in that order, of five steps: epochs of a batch of 6 and a shorter one of 5.
    """

    def __init__(self, *, outputs=nets.C, regression=False):
        self.net = nets.made(lambda: nets.mlp(outputs=outputs), seed=3)
        generator = torch.Generator().manual_seed(4)
        self.x = torch.randn(11, 6, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(0, outputs, (11,), generator=generator)
        self.t = torch.eye(outputs, dtype=torch.float64)[self.labels]
        if regression:
            self.t = torch.randn(11, outputs, generator=generator, dtype=torch.float64)
        orders = [torch.randperm(11, generator=generator) for _ in range(3)]
        self.batches = [part for order in orders for part in (order[:6], order[6:])][:5]

    def oracle(self, link):
        """The network in NumPy, with the weights of this moment."""
        layers = [m for m in self.net if isinstance(m, torch.nn.Linear)]
        return oracles.MLP(
            [m.weight.detach().numpy().copy() for m in layers], [m.bias.detach().numpy().copy() for m in layers], link
        )

    def numpy_batches(self):
        """(ids, x, t) of each step."""
        return [(b.numpy(), self.x[b].numpy(), self.t[b].numpy()) for b in self.batches]

    def train(self, learner, loss, *, lr):
        """Five Adam steps, by the loop that a user writes."""
        opt = torch.optim.Adam(learner.parameters(), lr=lr)
        for ids in self.batches:
            y = learner(self.x[ids], target=self.t[ids], ids=ids)
            opt.zero_grad()
            loss(y, self.t[ids]).backward()
            opt.step()

    def one_step(self, learner, loss):
        """Gradients of the first batch, in the order of `MLP.parameters`."""
        ids = self.batches[0]
        learner.zero_grad()
        loss(learner(self.x[ids], target=self.t[ids], ids=ids), self.t[ids]).backward()
        return [p.grad for p in self.net.parameters()]

    def difference(self, mlp):
        """The largest difference between the weights of the two sides."""
        return max(
            abs(p.detach().numpy() - q).max() for p, q in zip(self.net.parameters(), mlp.parameters(), strict=True)
        )


@pytest.fixture
def pair():
    """Classes."""
    return Pair()


@pytest.fixture
def regression():
    """Two standardised targets."""
    return Pair(outputs=2, regression=True)


@pytest.fixture
def feedback_of():
    """The feedback matrices of a learner in NumPy, (C, d_k)."""
    return lambda learner: [B.double().numpy().copy() for B in learner.feedback.values()]


@pytest.fixture
def agree():
    """Compare gradients of torch with those of NumPy, each to a relative 1e-10 of its largest entry."""

    def check(found, expected):
        for f, e in zip(found, expected, strict=True):
            f = np.zeros_like(e) if f is None else f.numpy()
            assert abs(f - e).max() <= 1e-10 * max(abs(e).max(), 1e-300)

    return check
