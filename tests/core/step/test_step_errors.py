"""The closed forms of a loss and its gradient: bits and refusals are those of autograd."""

import pytest
import torch
from torch.nn import functional as F

import skipback as sb
from skipback.step import errors


def autograd(loss, y, t):
    leaf = y.clone().requires_grad_()
    value = loss(leaf, t)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def data(loss, dtype, n=50, c=10):
    y = torch.randn(n, c, dtype=dtype) * 3
    return y, torch.randint(c, (n,)) if loss is F.cross_entropy else torch.randn(n, c, dtype=dtype)


@pytest.mark.parametrize("loss", errors.CLOSED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_closed_form_has_the_bits_of_autograd(loss, dtype, monkeypatch):
    y, t = data(loss, dtype)
    want = autograd(loss, y, t)
    monkeypatch.setattr(errors, "by_autograd", None)  # so that it was the closed form
    value, e = errors.error(loss, y, t, 1.0)
    assert torch.equal(value, want[0])
    assert torch.equal(e, want[1])


@pytest.mark.parametrize(
    ("loss", "y", "t", "scale"),
    [
        (F.cross_entropy, torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), 2.0),
        (F.cross_entropy, torch.randn(4, 3), torch.randn(4, 3).softmax(1), 1.0),
        (F.cross_entropy, torch.randn(4, 3, 2), torch.ones(4, 2, dtype=torch.int64), 1.0),
        (F.cross_entropy, torch.randn(4, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 1]), 1.0),
        (F.mse_loss, torch.randn(4, 3), torch.randn(4, 3, dtype=torch.float64), 1.0),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), 1.0),
    ],
)
def test_what_has_no_closed_form_goes_by_autograd(loss, y, t, scale):
    value, e = errors.error(loss, y, t, scale)
    want = autograd(loss, y, t)
    assert torch.equal(value, want[0])
    torch.testing.assert_close(e, want[1] * scale, rtol=0, atol=1e-7)


def test_a_loss_without_a_hash_is_a_loss_all_the_same():
    class Loss:
        __hash__ = None

        def __call__(self, y, t):
            return F.cross_entropy(y, t)

    y, t = data(F.cross_entropy, torch.float32)
    assert torch.equal(errors.error(Loss(), y, t, 1.0)[1], autograd(F.cross_entropy, y, t)[1])


def test_a_wrong_class_is_refused_as_ever():
    with pytest.raises(IndexError, match="out of bounds"):
        errors.error(F.cross_entropy, torch.randn(2, 3), torch.tensor([0, 3]), 1.0)


def test_another_number_of_targets_is_refused_in_the_words_of_torch():
    with pytest.raises(ValueError, match="batch_size"):
        errors.error(F.cross_entropy, torch.randn(2, 3), torch.tensor([0, 1, 2]), 1.0)


@pytest.mark.parametrize(
    ("loss", "what", "says"),
    [
        (lambda y, t: F.cross_entropy(y, t).item(), TypeError, "a tensor of one number"),
        (lambda y, t: None, TypeError, "a tensor of one number"),
        (lambda y, t: F.cross_entropy(y, t, reduction="none"), ValueError, r"shape \(6,\): take its mean"),
        (lambda y, t: F.cross_entropy(y.detach(), t), ValueError, "does not depend on the output"),
    ],
)
@pytest.mark.parametrize("method", [sb.dfa, sb.bp])
def test_what_is_no_loss_is_refused_in_words(loss, what, says, method):
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    x, t, before = torch.randn(6, 5), torch.arange(6) % 3, [p.detach().clone() for p in net.parameters()]
    with sb.attach(net, method(), example=x, show=None) as learner, pytest.raises(what, match=says):
        learner.step(x, t, loss=loss, update=sb.update.adam())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
