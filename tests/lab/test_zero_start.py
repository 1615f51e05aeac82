"""The zero start means what dfa-torch means by it, method by method, against NumPy written from the equations."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb
from skipback.lab import nets, zero_start
from skipback.lab.config import Run
from skipback.lab.data import Dataset, Split, Task
from skipback.lab.errors import LabError
from skipback.lab.trainer import Trainer
from skipback.methods import fa

N, D, H, C = 6, 5, 4, 3
LR = 0.1


def trainer(method="dfa", **settings):
    """A run on a few random samples, from zero."""
    torch.manual_seed(0)
    part = Split(x=torch.randn(N, D), t=torch.arange(N) % C)
    data = Dataset(name="random", task=Task.CLASSIFICATION, outputs=C, train=part, test=part)
    given = {"depth": 2, "width": H, "loss": "bce", "zero_init": True, **settings}
    return Trainer(Run(device="cpu", batch_size=N, method=method, **given), data)


def drawn(**sizes):
    """The weights that the same seed gives without a zero start."""
    torch.manual_seed(1)
    net = nets.build("mlp", (D,), C, activation="tanh", depth=2, width=H, **sizes)
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def test_dfa_starts_at_zero_everywhere():
    run = trainer("dfa", as_published=True)
    assert run.start == zero_start.ALL
    assert not any(p.any() for p in run.learner.net.parameters())


def test_fa_starts_as_in_dfa_torch():
    """Feedback: the weights as drawn. Then all is 0 but the first layer of the MLP, an ordinary one there."""
    run, before = trainer("fa", as_published=True), drawn()
    assert run.start == zero_start.BUT_FIRST
    for name, p in run.learner.net.named_parameters():
        assert torch.equal(p, before[name] if name.startswith("1.") else torch.zeros_like(p))
    assert run.learner.feedback.keys() == {"1.weight", "3.weight", "5.weight"}
    for name, B in run.learner.feedback.items():
        assert torch.equal(B, before[name])
        assert B.any()


def test_fa_of_a_conv_net_starts_at_zero_everywhere():
    """There the first layer is one with feedback, too."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, C))
    x, t = torch.randn(N, 1, 4, 4), torch.arange(N) % C
    learner = sb.attach(net, fa.as_published(), example=x, show=None)
    batch = zero_start.Batch(x=x, t=t, ids=None)
    assert zero_start.zero_start("fa", learner, batch, F.cross_entropy) == zero_start.ALL
    assert not any(p.any() for p in net.parameters())
    assert all(B.any() for B in learner.feedback.values())


def of(learner):
    """Weights (D_out, D_in) and biases in float64."""
    arrays = [p.detach().double().numpy().copy() for p in learner.net.parameters()]
    return arrays[::2], arrays[1::2]


def passed(W, b, x):
    """Activities of the input and both hidden layers, and the output."""
    hs = [x]
    for Wl, bl in zip(W[:2], b[:2], strict=True):
        hs.append(np.tanh(hs[-1] @ Wl.T + bl))
    return hs, hs[-1] @ W[2].T + b[2]


def descend(W, b, hs, deltas):
    for k, delta in enumerate(deltas):
        W[k] -= LR * delta.T @ hs[k]
        b[k] -= LR * delta.sum(0)


@pytest.mark.parametrize("method", ["fa", "dfa"])
def test_five_steps_of_dfa_torch_from_zero(method):
    """Every layer, the head too, gets sigma(y) - t summed; SGD. FA: delta_l = (delta_{l+1} B_{l+1}) f'."""
    torch.manual_seed(3)
    x, t = torch.randn(N, D, dtype=torch.float64), F.one_hot(torch.arange(N) % C, C).double()
    net = nets.build("mlp", (D,), C, activation="tanh", depth=2, width=H).double()
    learner = sb.attach(net, fa.as_published() if method == "fa" else sb.dfa(), example=x, seed=5, show=None)

    def loss(y, t):
        return F.binary_cross_entropy_with_logits(y, t, reduction="sum")

    zero_start.zero_start(method, learner, zero_start.Batch(x=x, t=t, ids=None), loss)
    (W, b), B = of(learner), [M.double().numpy().copy() for M in learner.feedback.values()]
    assert bool(W[0].any()) == (method == "fa")
    assert not W[1].any()
    assert not W[2].any()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    for _ in range(5):
        optimizer.zero_grad()
        loss(learner(x, target=t), t).backward()
        optimizer.step()
        hs, y = passed(W, b, x.numpy())
        e = 1 / (1 + np.exp(-y)) - t.numpy()
        f = [1 - h**2 for h in hs]
        second = (e @ B[2] if method == "fa" else e @ B[1]) * f[2]
        first = (second @ B[1] if method == "fa" else e @ B[0]) * f[1]
        descend(W, b, hs, [first, second, e])
    ours = of(learner)
    for mine, theirs in zip((*ours[0], *ours[1]), (*W, *b), strict=True):
        assert abs(mine - theirs).max() < 1e-12
        assert theirs.any()  # every layer has left 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("method", ["bp", "fdfa", "dkp", "shallow", "fg_a", "fg_w"])
def test_what_cannot_leave_zero_keeps_its_random_start(method):
    with pytest.warns(sb.SkipbackWarning, match=f"method '{method}' keeps its random start"):
        run = trainer(method)
    assert run.start == zero_start.RANDOM
    before = drawn()
    assert all(torch.equal(p, before[name]) for name, p in run.learner.net.named_parameters())


def test_the_linear_net_starts_at_zero_by_itself_and_bp_is_not_dead_there():
    """In the notebook it is 0 for DFA; backprop would stay there for ever."""
    settings = {"net": "linear", "depth": 1, "width": 4, "zero_init": False, "loss": "ce"}
    assert trainer("dfa", **settings).start == zero_start.ALL
    with pytest.warns(sb.SkipbackWarning, match="random start"):
        run = trainer("bp", **settings)
    assert run.start == zero_start.RANDOM
    before = [p.detach().clone() for p in run.learner.net.parameters()]
    run.epoch()
    assert all(not torch.equal(p, old) for p, old in zip(run.learner.net.parameters(), before, strict=True))


def test_a_run_that_starts_as_drawn_says_nothing_of_its_start(recwarn):
    assert trainer("bp", zero_init=False).start is None
    assert not recwarn.list


def test_relu_is_refused():
    with pytest.raises(LabError, match=r"--zero-init: zeros: '2' \(ReLU\), '4' \(ReLU\): its slope at 0 is 0"):
        trainer("dfa", activation="relu")


def test_a_copy_of_zeros_is_no_feedback():
    """The other order of the two starts: zeros first, then the copy."""
    net = nets.build("mlp", (D,), C, activation="tanh", depth=2, width=H)
    sb.init.zeros(net)
    with pytest.raises(ValueError, match=r"copy of weights that are all 0 .* attach first"):
        sb.attach(net, fa.as_published(), example=torch.randn(2, D), show=None)


def test_layers_can_be_kept():
    net = nets.build("mlp", (D,), C, activation="tanh", depth=1, width=H)
    sb.init.zeros(net, kept=["1"])
    assert net[1].weight.any()
    assert not net[3].weight.any()
    with pytest.raises(ValueError, match="no dense or convolution layer '9' to keep; there are 1, 3"):
        sb.init.zeros(net, kept=["9"])
