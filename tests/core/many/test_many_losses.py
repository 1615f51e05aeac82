"""The closed form of the members' cross-entropy: the bits of autograd."""

import pytest
import torch
from torch.nn import functional as F

from skipback.engine.many import losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ignored", [0, 3])
def test_cross_entropy_of_classes_has_the_bits_of_autograd(dtype, ignored):
    torch.manual_seed(0)
    y, t = torch.randn(4, 9, 5, dtype=dtype) * 3, torch.randint(5, (4, 9))
    t[1, :ignored] = losses.IGNORED
    leaf = y.clone().requires_grad_()
    values = losses.KNOWN[F.cross_entropy](leaf, t)
    (want,) = torch.autograd.grad(values.sum(), leaf)
    found, e = losses._of_classes(y, t)
    assert torch.equal(found, values)
    assert torch.equal(e, want)
    alone = torch.stack([F.cross_entropy(a, b) for a, b in zip(y, t, strict=True)])
    torch.testing.assert_close(found, alone, rtol=1e-6, atol=0)


def test_probabilities_as_targets_go_by_autograd():
    y, t = torch.randn(2, 3, 4), torch.rand(2, 3, 4).softmax(2)
    values, e = losses.loss_and_gradient(F.cross_entropy, y, t)
    torch.testing.assert_close(values, torch.stack([F.cross_entropy(a, b) for a, b in zip(y, t, strict=True)]))
    torch.testing.assert_close(e, (y.softmax(2) - t) / 3, rtol=0, atol=1e-7)
