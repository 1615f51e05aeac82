"""Guards: warn of what is known to collapse, and of nothing else."""

import warnings

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, made
from torch import nn

import skipback as sb
from skipback import draws, signals
from skipback.core.feedback import Fixed
from skipback.signals import Delayed, Masked, OutputError, OutputGradient, ScaledTarget

C, WIDTH = nets.C, 40
PUBLISHED = sb.methods.page("f3").as_published


def warned(method, target, *, outputs=C, width=WIDTH):
    """The warnings of the first two training steps."""
    x, _, ids = batch()
    net = made(lambda: nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, outputs)))
    learner = sb.attach(net, method, x, show=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            learner(x, target=target, ids=ids)
    assert all(w.category is sb.SkipbackWarning for w in caught)
    return [str(w.message) for w in caught]


CLASSES = torch.arange(8) % C
VALUES = torch.randn(8, C, generator=torch.Generator().manual_seed(1)).double()
ONE_VALUE = VALUES[:, :1]


def one(messages, *parts):
    """Exactly one warning, with these words."""
    assert len(messages) == 1, messages
    assert all(part in messages[0] for part in parts), messages[0]


# ---------------------------------------------------------------------------------------- softmax on a regression


def test_softmax_over_one_output():
    one(warned(sb.f3(memory=8), ONE_VALUE, outputs=1), "softmax over one output is always 1", "link=identity")


def test_softmax_on_values():
    one(warned(sb.f3(memory=8), VALUES), "targets are not class probabilities", "link=identity")


@pytest.mark.parametrize(
    "method",
    [
        PUBLISHED(memory=8, link=signals.softmax),
        sb.methods.page("dfa").as_published(link=signals.softmax),
        sb.methods.page("sdfa").as_published(link=signals.softmax),
        sb.f3(memory=8, signal=signals.OutputGradient(F.mse_loss, signals.softmax)),
    ],
)
def test_softmax_on_values_is_seen_inside_wrappers(method):
    messages = warned(method, VALUES)
    assert any("targets are not class probabilities" in m for m in messages)


@pytest.mark.parametrize("table", ["published_signals", "signals"])
@pytest.mark.parametrize("name", ["delayed_error_softmax", "delayed_loss_softmax"])
def test_the_softmax_signals_of_f3_on_values(table, name):
    table = getattr(sb.methods.page("f3"), table)
    signal = table(memory=8, link=signals.identity, loss=F.mse_loss)[name]
    assert any("softmax" in message for message in warned(sb.f3(memory=8, signal=signal), VALUES))


# ----------------------------------------------------------------------------------------- one-hot on a regression


@pytest.mark.parametrize(
    "inner", [Delayed(8, of=OutputError(signals.identity)), OutputError(signals.identity), OutputGradient(F.mse_loss)]
)
def test_a_masked_signal_on_values(inner):
    one(warned(sb.f3(memory=8, signal=Masked(inner)), VALUES), "masked (one-hot) signal multiplies by the target")


# --------------------------------------------------------------------------- one-signed columns, one-signed signal

ONE_SIGNED = [
    draws.binomial(),
    draws.Constant(),
    draws.AlternateNegative(),
    draws.ChunkedNegative(),
    draws.IdentityFillZero(),
    draws.IdentityRepeat(),
    draws.IdentityRepeatPM(),
]
BOTH_SIGNS = [
    draws.Uniform(),
    draws.KaimingUniform(),
    draws.KaimingUniform(a=0.0),
    draws.Gaussian(),
    draws.ternary(),
    draws.Orthogonal(),
    draws.RepeatLine(),
]


@pytest.mark.parametrize("draw", ONE_SIGNED)
@pytest.mark.parametrize(
    "method",
    [
        sb.drtp,
        sb.methods.page("drtp").as_published,
        lambda *, feedback: PUBLISHED(memory=8, feedback=feedback),
        lambda *, feedback: sb.f3(memory=8, feedback=feedback, signal=Delayed(8, initial=ScaledTarget(1 / 500))),
        lambda *, feedback: sb.f3(memory=8, feedback=feedback, signal=Masked(Delayed(8))),
    ],
    ids=["drtp", "drtp published", "f3 published", "f3 from scaled targets", "f3 one-hot"],
)
def test_one_signed_feedback_with_a_one_signed_signal(draw, method):
    one(
        warned(method(feedback=Fixed(draw)), CLASSES),
        "of the units of block '0' have feedback of one sign",
        "saturates",
    )


@pytest.mark.parametrize("draw", ONE_SIGNED)
@pytest.mark.parametrize(
    "method",
    [
        sb.dfa,
        sb.sdfa,
        lambda *, feedback: sb.f3(memory=8, feedback=feedback),
        lambda *, feedback: sb.f3(memory=8, feedback=feedback, signal=Delayed(8, initial=signals.zeros)),
        lambda *, feedback: sb.f3(
            memory=8, feedback=feedback, signal=Delayed(8, initial=ScaledTarget(1.0, shift=1 / C))
        ),
        lambda *, feedback: sb.methods.page("dfa").as_published(feedback=feedback, link=signals.softmax),
    ],
    ids=["dfa", "sdfa", "f3", "f3 from zeros", "f3 from shifted targets", "dfa published"],
)
def test_one_signed_feedback_with_a_signal_of_both_signs(draw, method):
    """Measured: these learn from the first epoch on."""
    assert warned(method(feedback=Fixed(draw)), CLASSES) == []


@pytest.mark.parametrize("draw", ONE_SIGNED)
def test_one_signed_feedback_with_targets_of_both_signs(draw):
    """A standardised regression target: the signal that is never negative is so for classes only."""
    assert warned(sb.drtp(feedback=Fixed(draw)), VALUES) == []


@pytest.mark.parametrize("draw", BOTH_SIGNS)
@pytest.mark.parametrize(
    "method", [sb.drtp, lambda *, feedback: PUBLISHED(memory=8, feedback=feedback)], ids=["drtp", "f3 published"]
)
def test_feedback_of_both_signs(draw, method):
    # RepeatLine has both signs as well, though all its columns are one and the same
    assert warned(method(feedback=Fixed(draw)), CLASSES) == []


# ------------------------------------------------------------------------------------------------ sane combinations


@pytest.mark.parametrize(
    ("method", "target", "outputs"),
    [
        (sb.f3(memory=8), CLASSES, C),
        (sb.f3(memory=8), torch.full((8, C), 1 / C), C),  # soft labels
        (sb.f3(memory=8, link=signals.sigmoid), CLASSES, C),
        (sb.f3(memory=8, link=signals.sigmoid), torch.randint(0, 2, (8, C)), C),  # several labels
        (sb.f3(memory=8, link=signals.sigmoid), torch.randint(0, 2, (8, 1)).double(), 1),
        (sb.f3(memory=8, link=signals.identity), VALUES, C),
        (sb.f3(memory=8, link=signals.identity), ONE_VALUE, 1),
        (sb.f3(memory=8, link=signals.identity), ONE_VALUE.squeeze(1), 1),
        (sb.f3(memory=8, signal=Masked(Delayed(8))), CLASSES, C),
        (sb.dfa(), VALUES, C),
        (sb.sdfa(), VALUES, C),
        (sb.shallow(), VALUES, C),
        (sb.bp(), VALUES, C),
        (sb.drtp(), CLASSES, C),
        (PUBLISHED(memory=8), CLASSES, C),
    ],
)
def test_no_warning(method, target, outputs):
    assert warned(method, target, outputs=outputs) == []


def test_no_warning_for_two_classes():
    """A threshold of one half is a coin flip here; the message advises the draw that is in use."""
    seeds = []
    for seed in range(8):
        x, _, _ids = batch()
        net = made(lambda: nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2)))
        learner = sb.attach(net, sb.drtp(), x, seed=seed, show=None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner(x, target=torch.arange(8) % 2)
        seeds += [seed] * len(caught)
    assert seeds == []


def test_the_warning_comes_once():
    messages = warned(sb.drtp(feedback=Fixed(draws.binomial())), CLASSES)
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("method", "loss", "warned"),
    [(sb.dfa(), F.nll_loss, True), (sb.dfa(), F.cross_entropy, False), (sb.drtp(), F.nll_loss, False)],
)
def test_a_network_that_ends_in_log_softmax(method, loss, warned):
    """Once; only where the gradient at the output is sent, and only where there is no prediction in it."""

    def net():
        return nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, C), nn.LogSoftmax(1))

    x, _, _ = batch()
    learner = sb.attach(made(net), method, x, show=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            loss(learner(x, target=CLASSES), CLASSES).backward()
    found = [str(w.message) for w in caught]
    if warned:
        one(found, "the network ends in log-softmax", "cross_entropy")
    else:
        assert found == []


def test_a_port_with_other_samples_than_the_output():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.keep = nn.Linear(6, 7), nn.Linear(7, C), 8

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))[: self.keep]

    x, _, _ = batch()
    learner = sb.attach(made(Net), sb.dfa(), x, show=None)
    learner.net.keep = 4
    with pytest.raises(ValueError, match="the batch must come first and other sizes must not change"):
        learner(x)
