"""Identities: equations that hold exactly, whatever the network learns."""

import copy
import itertools
from dataclasses import dataclass
from typing import ClassVar

import nets
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import C, batch, difference, gradients, linear_mlp, logits, made, same, teach
from torch import nn
from torch.func import jacrev

import skipback as sb
from skipback import signals
from skipback.blocks import behind
from skipback.core.method import Direct
from skipback.core.records import Needs, SignalInputs
from skipback.estimate import Space
from skipback.routes.perturbed import Perturbed
from skipback.signals import Delayed, LossGradient, Masked, OutputError, Scaled, Signal, Signed, Zero

PAPER = sb.methods.page("dfa").PAPER


def by(signal):
    """A direct method that sends this signal."""
    return Direct(paper=PAPER, signal=signal)


def attached(method, case=nets.CASES["mlp"], **options):
    x, t, ids = batch(case.shape, **options)
    return sb.attach(made(case.build), method, x, show=None), x, t, ids


def set_feedback(learner, **values):
    with torch.no_grad():
        for block, B in learner.feedback.items():
            B.copy_(values[f"_{block}"])


def exact_gradients(learner, x, t, loss=F.cross_entropy):
    learner.zero_grad()
    torch.manual_seed(5)
    with learner.exact():
        loss(logits(learner(x)), t).backward()
    result = gradients(learner.net)
    learner.zero_grad()
    return result


def hidden(learner, found):
    """Without the head's."""
    names = {id(p): name for name, p in learner.net.named_parameters()}
    head = {names[id(p)] for p in learner.layout.segments[-1].parameters}
    return {name: g for name, g in found.items() if name not in head}


# ------------------------------------------------------------------- a linear network with the right B is backprop


def products_of_later_weights(net):
    """B_l = W_L ... W_{l+1}, of shape (C, D_l), so that e B_l = dL/dh_l."""
    B, after = {}, None
    layers = [(name, m) for name, m in net.named_children() if isinstance(m, nn.Linear)]
    for (below, _), (_, layer) in reversed(list(itertools.pairwise(layers))):
        after = layer.weight.detach() if after is None else after @ layer.weight.detach()
        B[f"_{below}"] = after
    return B


LOSSES = {
    "ce": (F.cross_entropy, lambda t: t),
    "mse": (F.mse_loss, lambda t: F.one_hot(t, C).double()),
    "bce": (F.binary_cross_entropy_with_logits, lambda t: F.one_hot(t, C).double()),
}


@pytest.mark.parametrize("sizes", [(6, 7, C), (6, 7, 4, C), (6, 3, 9, 5, 8, C)])
@pytest.mark.parametrize("loss", LOSSES)
def test_linear_dfa_with_the_product_of_later_weights_is_backprop(sizes, loss):
    (loss, of), (x, t, _) = LOSSES[loss], batch()
    learner = sb.attach(made(lambda: linear_mlp(*sizes)), sb.dfa(), x, show=None)
    assert len(learner.feedback) == len(sizes) - 2
    set_feedback(learner, **products_of_later_weights(learner.net))
    expected = exact_gradients(learner, x, of(t), loss)
    loss(learner(x), of(t)).backward()
    assert difference(expected, gradients(learner.net)) < 1e-10


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    n=st.integers(1, 7),
    outputs=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_linear_dfa_is_backprop_at_any_depth_width_and_batch(widths, n, outputs, seed):
    x = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    t = torch.arange(n) % outputs
    learner = sb.attach(made(lambda: linear_mlp(4, *widths, outputs), seed=seed), sb.dfa(), x, show=None)
    set_feedback(learner, **products_of_later_weights(learner.net))
    expected = exact_gradients(learner, x, t)
    teach(learner, x, t, None)
    assert difference(expected, gradients(learner.net)) < 1e-10


def test_linear_convolutions_with_the_jacobian_as_feedback_are_backprop():
    """B has the shape of the port (C, channels, height, width)."""
    net = made(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.Conv2d(3, 6, 3, groups=3, stride=2),
            nn.AvgPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(24, C),
        )
    )
    x, t, _ = batch(nets.IMAGE)
    learner = sb.attach(net, sb.dfa(), x, show=None)
    shapes = {block: B.shape[1:] for block, B in learner.feedback.items()}
    assert list(shapes.values()) == [(3, 8, 8), (24,)]
    rest = {"0": net[1:], "1": net[4:]}
    with learner.exact(), torch.no_grad():
        B = {f"_{name}": jacrev(rest[name])(torch.zeros(1, *shape).double())[0, :, 0] for name, shape in shapes.items()}
    set_feedback(learner, **B)
    expected = exact_gradients(learner, x, t)
    teach(learner, x, t, None)
    assert difference(expected, gradients(learner.net)) < 1e-10


def test_the_transposed_product_would_not_do():
    """So that the identities above can fail."""
    x, t, _ = batch()
    learner = sb.attach(made(lambda: linear_mlp(6, C, C, C)), sb.dfa(), x, show=None)
    set_feedback(learner, **{k: B.T for k, B in products_of_later_weights(learner.net).items()})
    expected = exact_gradients(learner, x, t)
    teach(learner, x, t, None)
    assert difference(expected, gradients(learner.net)) > 0.1


# ----------------------------------------------------------------------------------------------- the head is exact


def test_the_gradient_of_the_head_is_that_of_backprop_to_the_bit(method, case):
    if isinstance(method, Perturbed) and method.estimate.space is Space.WEIGHTS:
        pytest.skip("the head is perturbed, too")
    if getattr(getattr(method, "transport", None), "decay", 0):
        pytest.skip("its decay is part of every gradient")
    learner, x, t, ids = attached(method, case)
    if learner.layout is None:
        learner.discover(x)  # bp cuts nothing, but has a head as well
    expected = exact_gradients(learner, x, t)
    head = {id(p) for p in learner.layout.segments[-1].parameters}
    names = [name for name, p in learner.net.named_parameters() if id(p) in head]
    assert names
    torch.manual_seed(5)
    teach(learner, x, t, ids)
    found = gradients(learner.net)
    for name in names:
        assert torch.equal(expected[name], found[name]), name
        assert found[name].abs().max() > 0


# ------------------------------------------------------------------------------------ no gradient crosses a port


def test_the_graph_is_a_star(direct, case):
    """One node joins all segments, and no parameter is reached by two ways."""
    learner, x, t, ids = attached(direct, case)
    y = logits(learner(x, target=t, ids=ids))
    feedback = {id(B) for B in learner.direct.parameters()}  # learned feedback gets its lesson from the same node
    arms = [node for node, _ in y.grad_fn.next_functions if node is not None]
    arms = [node for node in arms if id(getattr(node, "variable", None)) not in feedback]
    assert len(arms) == len(learner.layout.segments)
    found = []
    for arm in arms:
        stub = type("Stub", (), {"grad_fn": arm})  # what `behind` looks at
        found.append({id(p) for p in behind([stub]).parameters})
    sizes = [len(one) for one in found]
    assert len(set.union(*found)) == sum(sizes)
    assert set.union(*found) == {id(p) for p in learner.net.parameters()}
    expected = [{id(p) for p in segment.parameters} for segment in learner.layout.segments]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def segments_of(learner):
    """Names of parameters, by segment, in the order of the forward pass."""
    names = {id(p): name for name, p in learner.net.named_parameters()}
    return [[names[id(p)] for p in segment.parameters] for segment in learner.layout.segments]


def with_fixed_error(learner, x, t, ids, e):
    """Gradients when dL/dy is e, whatever y is."""
    learner.zero_grad()
    torch.manual_seed(5)
    logits(learner(x, target=t, ids=ids)).backward(e)
    return gradients(learner.net)


@pytest.mark.parametrize("name", ["dfa", "sdfa"])
def test_deeper_weights_do_not_matter_where_the_output_error_is_held_fixed(name, case):
    learner, x, t, ids = attached(getattr(sb, name)(), case)
    e = torch.randn(8, C, dtype=torch.float64)
    before = with_fixed_error(learner, x, t, ids, e)
    order = segments_of(learner)
    for k in range(1, len(order)):
        changed = copy.deepcopy(learner)
        with torch.no_grad():
            for parameter in (name for names in order[k:] for name in names):
                changed.net.get_parameter(parameter).mul_(-1.7)
        after = with_fixed_error(changed, x, t, ids, e)
        for parameter in (name for names in order[:k] for name in names):
            assert torch.equal(before[parameter], after[parameter]), parameter


def test_under_backprop_deeper_weights_do_matter():
    learner, x, t, ids = attached(sb.bp())
    e = torch.randn(8, C, dtype=torch.float64)
    before = with_fixed_error(learner, x, t, ids, e)
    with torch.no_grad():
        learner.net[4].weight.mul_(-1.7)
    after = with_fixed_error(learner, x, t, ids, e)
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_early_methods_do_not_depend_on_later_blocks_at_all(early, case):
    """Not through the loss either: the signal is known before the output."""
    learner, x, t, ids = attached(early, case)
    order = segments_of(learner)
    for k in range(1, len(order)):
        results = []
        for factor in (1.0, -1.7):
            one = copy.deepcopy(learner)
            with torch.no_grad():
                for parameter in (name for names in order[k:] for name in names):
                    one.net.get_parameter(parameter).mul_(factor)
            torch.manual_seed(5)
            teach(one, x, t, ids)
            results.append(gradients(one.net))
        for parameter in (name for names in order[:k] for name in names):
            assert torch.equal(results[0][parameter], results[1][parameter]), parameter
        assert not same(*results)  # the head does see its own weights


# --------------------------------------------------------------------- F3 whose memory holds this error is DFA

EXACT_CASES = {
    "ce": (signals.softmax, F.cross_entropy, lambda t: t),
    "bce_sum": (
        signals.sigmoid,
        lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="sum") / len(y),
        lambda t: F.one_hot(t, C).double(),
    ),
    "half_mse_sum": (
        signals.identity,
        lambda y, t: F.mse_loss(y, t, reduction="sum") / (2 * len(y)),
        lambda t: torch.randn(len(t), C, generator=torch.Generator().manual_seed(3)).double(),
    ),
}


@pytest.mark.parametrize("name", EXACT_CASES)
@pytest.mark.parametrize("case", ["mlp", "conv", "functional_residual"])
def test_f3_without_delay_is_dfa(name, case):
    link, loss, of = EXACT_CASES[name]
    case = nets.CASES[case]
    signal = Delayed(8, of=OutputError(link), dtype=torch.float64)
    f3, x, t, ids = attached(sb.f3(memory=8, signal=signal), case)
    t = of(t)
    dfa, *_ = attached(sb.dfa(feedback=f3.method.feedback), case)
    assert same(f3.feedback, dfa.feedback)
    f3(x, target=t, ids=ids)  # fills the memory; the weights stay, so the next visit has no delay
    loss(f3(x, target=t, ids=ids), t).backward()
    loss(dfa(x), t).backward()
    assert difference(gradients(dfa.net), gradients(f3.net)) < 1e-12


def test_f3_with_a_delay_is_not_dfa():
    f3, x, t, ids = attached(sb.f3(memory=8, signal=Delayed(8, dtype=torch.float64)))
    dfa, *_ = attached(sb.dfa(feedback=f3.method.feedback))
    teach(f3, x, t, ids)  # the memory is that of an untrained output
    teach(dfa, x, t, ids)
    assert difference(gradients(dfa.net), gradients(f3.net)) > 0.01


def test_the_first_epoch_of_published_f3_is_drtp():
    page = sb.methods.page
    f3, x, t, ids = attached(page("f3").as_published(memory=8))
    drtp, *_ = attached(page("drtp").as_published(feedback=f3.method.feedback))
    for part in (slice(0, 4), slice(4, 8)):
        for one in (f3, drtp):
            teach(one, x[part], t[part], ids[part])
    assert difference(gradients(drtp.net), gradients(f3.net)) < 1e-14


def test_late_output_error_is_the_gradient_of_cross_entropy():
    """dfa as published, with the link of the loss and a mean, is dfa."""
    published, x, t, ids = attached(by(Scaled(OutputError(signals.softmax), mean=True)))
    ours, *_ = attached(by(LossGradient()))
    for one in (published, ours):
        teach(one, x, t, ids)
    assert difference(gradients(ours.net), gradients(published.net)) < 1e-12


# ------------------------------------------------------------------------------------------- the floor: no signal


def test_a_zero_signal_gives_the_gradients_of_shallow(case):
    zero, x, t, ids = attached(by(Zero()), case)
    shallow, *_ = attached(sb.shallow(), case)
    for one in (zero, shallow):
        torch.manual_seed(5)
        teach(one, x, t, ids)
    for name, expected in gradients(shallow.net).items():
        found = gradients(zero.net)[name]
        if expected is None:
            assert not found.any(), name
        else:
            assert torch.equal(expected, found), name


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_zero_signal_and_shallow_have_one_trajectory(optimizer):
    zero, x, t, ids = attached(by(Zero()))
    shallow, *_ = attached(sb.shallow())
    start = copy.deepcopy(shallow.net.state_dict())
    for one in (zero, shallow):
        opt = optimizer(one.parameters(), lr=0.05)
        for _ in range(4):
            opt.zero_grad()
            teach(one, x, t, ids)
            opt.step()
    assert same(zero.net.state_dict(), shallow.net.state_dict())
    moved = [name for name, value in start.items() if not torch.equal(value, shallow.net.state_dict()[name])]
    assert moved == ["4.weight", "4.bias"]


# ---------------------------------------------------------------------------- hidden gradients follow the signal


@dataclass(frozen=True)
class BatchContext(Signal):
    """A signal of these values: what a user may write."""

    values: torch.Tensor
    needs: ClassVar[Needs] = Needs.TARGET

    def __call__(self, step: SignalInputs) -> torch.Tensor:
        return self.values


def test_hidden_gradients_are_linear_in_the_signal(case):
    a, b = torch.randn(2, 8, C, dtype=torch.float64)
    found = []
    for values in (a, b, 2 * a - 3 * b):
        learner, x, t, ids = attached(by(BatchContext(values)), case)
        torch.manual_seed(5)
        teach(learner, x, t, ids)
        found.append({k: g for k, g in hidden(learner, gradients(learner.net)).items() if k not in case.dead})
    assert difference({k: 2 * found[0][k] - 3 * found[1][k] for k in found[0]}, found[2]) < 1e-10


@pytest.mark.parametrize("factor", [2.0, -0.5, 1024.0])
def test_scaled_scales_hidden_gradients_to_the_bit_and_leaves_the_head(direct, factor):
    if not direct.feedback.homogeneous:
        pytest.skip("this feedback says that it does not grow with the signal")
    plain, x, t, ids = attached(direct)
    scaled, *_ = attached(Direct(paper=PAPER, signal=Scaled(direct.signal, factor), feedback=direct.feedback))
    for one in (plain, scaled):
        teach(one, x, t, ids)
    before, after = gradients(plain.net), gradients(scaled.net)
    for name in before:
        expected = before[name] * (1.0 if name.startswith("4") else factor)
        assert torch.equal(after[name], expected), name


def test_scaled_by_another_number(direct):
    if not direct.feedback.homogeneous:
        pytest.skip("this feedback says that it does not grow with the signal")
    plain, x, t, ids = attached(direct)
    scaled, *_ = attached(Direct(paper=PAPER, signal=Scaled(direct.signal, -0.3), feedback=direct.feedback))
    for one in (plain, scaled):
        teach(one, x, t, ids)
    expected = {k: -0.3 * g for k, g in hidden(plain, gradients(plain.net)).items()}
    assert difference(expected, hidden(scaled, gradients(scaled.net))) < 1e-12


def test_the_scale_of_the_loss_reaches_a_late_signal():
    learner, x, t, ids = attached(sb.dfa())
    other = copy.deepcopy(learner)
    teach(learner, x, t, ids)
    teach(other, x, t, ids, weight=0.25)
    assert same({k: 0.25 * g for k, g in gradients(learner.net).items()}, gradients(other.net))


def test_scale_reaches_an_early_signal(early):
    learner, x, t, ids = attached(early)
    other = copy.deepcopy(learner)
    teach(learner, x, t, ids)
    teach(other, x, t, ids, weight=0.25, scale=0.25)
    assert same({k: 0.25 * g for k, g in gradients(learner.net).items()}, gradients(other.net))


def test_sign_signal():
    """What reaches the ports is the sign of e, computed here."""
    learner, x, t, ids = attached(by(Signed(LossGradient())))
    y = logits(learner.net(x)).detach()
    e = (torch.softmax(y, 1) - F.one_hot(t, C)) / len(x)
    expected, *_ = attached(by(BatchContext(e.sign())))
    for one in (learner, expected):
        one.zero_grad()
        teach(one, x, t, ids)
    assert same(gradients(learner.net), gradients(expected.net))


@pytest.mark.parametrize("late", [True, False])
def test_masked_signal(late):
    inner = LossGradient() if late else OutputError(signals.softmax)
    learner, x, t, ids = attached(by(Masked(inner)))
    y = torch.softmax(plain(learner, x), 1)
    error = (y - F.one_hot(t, C)) / (len(x) if late else 1)
    expected, *_ = attached(by(BatchContext(error * F.one_hot(t, C))))
    for one in (learner, expected):
        teach(one, x, t, ids)
    assert difference(gradients(expected.net), gradients(learner.net)) < 1e-12


def plain(learner, x):
    with learner.exact(), torch.no_grad():
        return logits(learner(x))


# ------------------------------------------------------------------------------------------ samples do not mix


def test_teaching_of_a_sample_does_not_depend_on_its_company(direct):
    """Hidden gradients of a batch are the sum of those of its samples (times n/N where the signal is a mean)."""
    learner, x, t, ids = attached(direct)
    whole = copy.deepcopy(learner)
    e = torch.randn(8, C, dtype=torch.float64)
    total = hidden(whole, with_fixed_error(whole, x, t, ids, e))
    parts = {name: torch.zeros_like(g) for name, g in total.items()}
    mean = 1 / 8 if getattr(direct.signal, "mean", False) else 1.0
    for i in range(8):
        one = slice(i, i + 1)
        for name, g in hidden(learner, with_fixed_error(learner, x[one], t[one], ids[one], e[one])).items():
            parts[name] += mean * g
    assert difference(total, parts) < 1e-12
