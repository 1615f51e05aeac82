"""A learner on a network of the contract, and what autograd says."""

import warnings

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import difference, gradients, logits, made

import skipback as sb


@pytest.fixture
def attached():
    """A learner, on a network with the weights of seed 0."""

    def build(method, make=nets.mlp, x=None, *, dtype=torch.float64, **options):
        x = torch.randn(8, 6, dtype=dtype) if x is None else x
        return sb.attach(made(make, dtype=dtype), method, x, show=None, **options), x

    return build


@pytest.fixture
def labels():
    """Classes of a batch of 8."""
    return torch.arange(8) % nets.C


@pytest.fixture
def taught():
    """All gradients after a pass, the input's among them, for a loss in which every output counts differently."""

    def run(net, *inputs):
        inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
        net.zero_grad()
        torch.manual_seed(5)
        with warnings.catch_warnings():  # here the input's gradient is meant to be the one that feedback makes
            warnings.filterwarnings("ignore", "an input of the network requires grad", sb.SkipbackWarning)
            y = logits(net(*inputs))
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
        grads = {f"input {k}": x.grad for k, x in enumerate(inputs) if x.requires_grad}
        return {**gradients(net), **grads}

    return run


@pytest.fixture
def as_backprop(taught):
    """How far the gradients are from backprop's, when B is a copy of W."""

    def check(make, *inputs, dtype=torch.float64):
        expected = taught(made(make, dtype=dtype), *inputs)
        learner = sb.attach(made(make, dtype=dtype), sb.methods.page("fa").as_published(), inputs, show=None)
        return difference(expected, taught(learner.net, *inputs))

    return check


@pytest.fixture
def cross_entropy(labels):
    """One pass, and its loss's backward."""

    def run(learner, x, **given):
        loss = F.cross_entropy(logits(learner(x, **given)), labels[: len(x)])
        loss.backward()
        return loss.item()

    return run
