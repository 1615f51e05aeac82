"""fwm against NumPy: factors of the weights that the network has."""

import itertools

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb
from skipback import draws
from skipback.core.records import PortSpec
from skipback.methods.fwm import Matched


def chain(*sizes, seed=1):
    torch.manual_seed(seed)
    layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def test_the_factors_are_those_of_the_weights():
    """B_{L-1} = W_L; B_{l-1} = (B_l^T)^+ W_l, so B_l^T B_{l-1} is W_l projected on the columns of B_l^T."""
    net = chain(6, 9, 8, 7, 4)
    learner = sb.attach(net, sb.fwm(), torch.randn(5, 6, dtype=torch.float64), show=None)
    W = [m.weight.detach().numpy() for m in net if isinstance(m, nn.Linear)]
    third = W[3]
    second = np.linalg.pinv(third.T) @ W[2]
    first = np.linalg.pinv(second.T) @ W[1]
    for B, expected in zip(learner.feedback.values(), (first, second, third), strict=True):
        np.testing.assert_allclose(B.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_weights_of_low_rank_are_matched_exactly():
    """Where W_l already is a product of such factors, the product is W_l."""
    net = chain(6, 9, 8, 4)
    with torch.no_grad():
        head, hidden = net[4].weight, net[2].weight
        hidden.copy_(head.T @ torch.randn(4, 9, dtype=torch.float64))
    learner = sb.attach(net, sb.fwm(), torch.randn(5, 6, dtype=torch.float64), show=None)
    first, second = learner.feedback.values()
    torch.testing.assert_close(second.T @ first, hidden.detach(), rtol=1e-9, atol=1e-12)


def test_it_is_aligned_from_the_first_step_at_the_last_port():
    """B_{L-1} = W_L is backprop's own."""
    net = chain(6, 9, 8, 4)
    x, t = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 4
    learner = sb.attach(net, sb.fwm(), x, show=None)
    cosines = [one.cosine for one in sb.alignment(learner, x, t, F.cross_entropy)]
    assert cosines[-1] > 1 - 1e-12
    assert cosines[0] > 0.5


def test_ports_without_a_dense_reader_keep_a_draw():
    """The last port of the conv net is read by its head; the first by a convolution."""
    net = nets.made(nets.conv)
    x, _, _ = nets.batch(nets.IMAGE)
    learner = sb.attach(net, sb.fwm(), x, seed=4, show=None)
    drawn = sb.attach(nets.made(nets.conv), sb.dfa(), x, seed=4, show=None)
    first, second = learner.feedback.values()
    assert torch.equal(second.flatten(1), net[-1].weight)
    assert first.shape == next(iter(drawn.feedback.values())).shape
    assert first.abs().max() <= first[0].numel() ** -0.5
    assert draws.Uniform() == sb.fwm().feedback.draw


def test_the_feedback_is_a_copy_and_fixed():
    net = chain(6, 9, 4)
    x = torch.randn(5, 6, dtype=torch.float64)
    learner = sb.attach(net, sb.fwm(), x, show=None)
    (B,) = learner.feedback.values()
    before = B.clone()
    with torch.no_grad():
        net[2].weight.add_(1.0)
    assert torch.equal(B, before)
    assert not list(learner.direct.parameters())
    assert all(port.reader is None for port in learner.direct.ports.values())


def test_matched_weights_are_products_of_the_feedback():
    """W_l = B_l^T B_{l-1}; the first layer, biases and the head stay what they are."""
    net = chain(6, 9, 8, 7, 4)
    x = torch.randn(5, 6, dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    learner = sb.attach(net, sb.fwm(), x, show=None)
    assert sb.init.matched(learner) == ["2", "4", "6"]
    first, second, third = learner.feedback.values()
    torch.testing.assert_close(net[2].weight, second.T @ first)
    torch.testing.assert_close(net[4].weight, third.T @ second)
    torch.testing.assert_close(net[6].weight, third)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == (name not in ("2.weight", "4.weight")), name
    assert torch.linalg.matrix_rank(net[2].weight) == 4


def test_after_matching_every_port_of_a_linear_chain_is_aligned():
    """B_1 ~ B_2 W_2 where the rows of B_2 = W_3 are orthonormal."""
    net = nets.made(lambda: nets.linear_mlp(6, 9, 8, 4))
    with torch.no_grad():
        net[2].weight.copy_(torch.linalg.qr(net[2].weight.T).Q.T)
    x, t = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 4
    learner = sb.attach(net, sb.fwm(), x, show=None)
    sb.init.matched(learner)
    assert min(one.cosine for one in sb.alignment(learner, x, t, F.cross_entropy)) > 1 - 1e-12


def test_what_cannot_be_matched():
    x, _, _ = nets.batch(nets.IMAGE)
    with pytest.raises(ValueError, match="matched to the feedback of a direct method"):
        sb.init.matched(sb.attach(nets.made(nets.conv), sb.bp(), x, show=None))
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="no dense layer stands between two ports"):
        sb.init.matched(sb.attach(net.double(), sb.dfa(), x, show=None))


def specs(*readers, widths, outputs=4, dtype=torch.float64):
    """Ports whose readers are these."""
    return [
        PortSpec(name=str(k), shape=(width,), outputs=outputs, dtype=dtype, device=torch.device("cpu"), reader=reader)
        for k, (reader, width) in enumerate(zip(readers, widths, strict=True))
    ]


def matched(ports):
    """Which of the ports got factors: a draw of ones has nothing else in it."""
    feedback = Matched(draw=draws.Constant())
    found = [B for (B,) in feedback.init(ports, torch.Generator().manual_seed(0))]
    assert [B.shape for B in found] == [(port.outputs, *port.shape) for port in ports]
    return [not torch.equal(B, torch.ones_like(B)) for B in found]


def weight(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_what_does_not_fit_is_drawn():
    """A reader that takes more than the port, or makes something else than the output or the next port."""
    assert matched(specs(weight(6, 9), weight(4, 6), widths=(9, 6))) == [True, True]
    assert matched(specs(weight(6, 9), weight(4, 12), widths=(9, 6))) == [False, False]
    assert matched(specs(weight(6, 9), weight(3, 6), widths=(9, 6))) == [False, False]
    assert matched(specs(weight(5, 9), weight(4, 6), widths=(9, 6))) == [False, True]
    assert matched(specs(weight(6, 9), None, widths=(9, 6))) == [False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_have_the_dtype_of_the_weights(dtype):
    ports = specs(weight(6, 9).to(dtype), weight(4, 6).to(dtype), widths=(9, 6), dtype=dtype)
    assert {B.dtype for (B,) in Matched().init(ports, torch.Generator())} == {dtype}
