"""The gradient bottleneck, against NumPy: its three gradients are masked, its output is not, on every way to them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb
from skipback.bottleneck import MaskedLinear
from skipback.core.feedback import Fixed
from skipback.draws import Gaussian


def layer(passing=0.4, rows=6):
    torch.manual_seed(2)
    return MaskedLinear(7, 5, passing=passing, rows=rows).double()


def test_the_output_is_that_of_a_linear_layer():
    one, x = layer(), torch.randn(6, 7, dtype=torch.float64)
    assert torch.equal(one(x), F.linear(x, one.weight, one.bias))


def test_each_gradient_is_masked():
    one, x, g = layer(), torch.randn(6, 7, dtype=torch.float64, requires_grad=True), torch.randn(6, 5).double()
    one(x).backward(g)
    m = {name: mask.numpy() for name, mask in one.named_buffers()}
    assert 0 < m["weight_mask"].mean() < 1
    W, h, e = one.weight.detach().numpy(), x.detach().numpy(), g.numpy()
    np.testing.assert_allclose(one.weight.grad.numpy(), m["weight_mask"] * (e.T @ h), rtol=1e-12)
    np.testing.assert_allclose(one.bias.grad.numpy(), m["bias_mask"] * e.sum(0), rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), m["input_mask"] * (e @ W), rtol=1e-12)


def test_a_larger_batch_repeats_the_rows_and_a_smaller_one_takes_the_first():
    one = layer(rows=3)
    for count in (2, 3, 8):
        x = torch.randn(count, 7, dtype=torch.float64, requires_grad=True)
        one(x).sum().backward()
        mask = one.input_mask[torch.arange(count) % 3]
        assert torch.equal(x.grad != 0, mask)


def test_the_share_that_passes():
    one = MaskedLinear(400, 300, passing=0.25, rows=128, generator=torch.Generator().manual_seed(1))
    assert one.weight_mask.double().mean().item() == pytest.approx(0.25, abs=0.005)
    assert one.input_mask.double().mean().item() == pytest.approx(0.25, abs=0.01)
    again = MaskedLinear(400, 300, passing=0.25, rows=128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one.weight_mask, again.weight_mask)
    assert all(mask.all() for mask in layer(passing=1.0).buffers())


def net():
    torch.manual_seed(4)
    middle = MaskedLinear(8, 8, passing=0.5, rows=10)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), middle, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


X, T = torch.randn(10, 6, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 3


def gradients(learner):
    F.cross_entropy(learner(X), T).backward()
    return [p.grad.clone() for p in learner.net.parameters()]


def test_direct_feedback_teaches_past_it_and_trains_a_share_of_its_weights():
    """Against the same network without masks: only the middle layer's gradients differ, by its masks."""
    method = sb.dfa(feedback=Fixed(Gaussian(1.0)))
    one = sb.attach(net(), method, X, seed=1, show=None)
    plain = net()
    plain[2] = nn.Linear(8, 8)
    plain.load_state_dict({k: v for k, v in one.net.state_dict().items() if "mask" not in k})
    other = sb.attach(plain, method, X, seed=1, show=None)
    assert list(one.feedback) == list(other.feedback) == ["0", "2", "4"]
    masks = {2: one.net[2].weight_mask, 3: one.net[2].bias_mask}
    for k, (g, wanted) in enumerate(zip(gradients(one), gradients(other), strict=True)):
        torch.testing.assert_close(g, wanted * masks[k] if k in masks else wanted)


def test_backprop_reaches_the_first_layer_through_the_mask():
    learner = sb.attach(net(), sb.bp(), X, show=None)
    found = gradients(learner)
    W = {k: m.weight.detach().double().numpy() for k, m in learner.net.named_children() if isinstance(m, nn.Linear)}
    b = {k: m.bias.detach().double().numpy() for k, m in learner.net.named_children() if isinstance(m, nn.Linear)}
    h = [X.double().numpy()]
    for k in ("0", "2", "4"):
        h.append(np.tanh(h[-1] @ W[k].T + b[k]))
    y = h[-1] @ W["6"].T + b["6"]
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    g = (p - np.eye(3)[T.numpy()]) / len(X)
    g = (g @ W["6"]) * (1 - h[3] ** 2)
    g = (g @ W["4"]) * (1 - h[2] ** 2)
    g = (learner.net[2].input_mask.numpy() * (g @ W["2"])) * (1 - h[1] ** 2)
    np.testing.assert_allclose(found[0].numpy(), g.T @ h[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [sb.bp(), sb.dfa(), sb.dkp(), sb.shallow()], ids=["bp", "dfa", "dkp", "shallow"])
def test_a_step_is_the_loop_with_backward(method):
    """The closed forms of a plain layer must not be taken for this one."""
    one, other = (sb.attach(net(), method, X, seed=1, show=None) for _ in range(2))
    update, optimizer = sb.update.sgd(0.5, inside=False), torch.optim.SGD(other.parameters(), lr=0.5)
    for _ in range(3):
        one.step(X, T, loss=F.cross_entropy, update=update)
        F.cross_entropy(other(X), T).backward()
        optimizer.step()
        optimizer.zero_grad()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_its_mask_stops_never_moves():
    learner = sb.attach(net(), sb.dfa(), X, seed=1, show=None)
    before = learner.net[2].weight.detach().clone()
    update = sb.update.adam(0.1)
    for _ in range(5):
        learner.step(X, T, loss=F.cross_entropy, update=update)
    moved = learner.net[2].weight.detach() != before
    assert torch.equal(moved, learner.net[2].weight_mask)


def test_networks_with_it_are_not_batched_in_silence():
    learners = [sb.attach(net(), sb.dfa(), X, seed=k, show=None) for k in range(2)]
    with pytest.raises(ValueError, match="member 0"):
        sb.Many(learners)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"passing": 0.0, "rows": 2}, "passing must be above 0 and at most 1, got 0"),
        ({"passing": 1.5, "rows": 2}, "passing must be above 0 and at most 1, got 1.5"),
        ({"passing": 0.5, "rows": 0}, "rows must be at least 1, got 0"),
    ],
)
def test_what_is_out_of_range(options, said):
    with pytest.raises(ValueError, match=said):
        MaskedLinear(3, 2, **options)
    with pytest.raises(ValueError, match=r"x must be \(N, 7\), got \(2, 3, 7\)"):
        layer()(torch.zeros(2, 3, 7))
