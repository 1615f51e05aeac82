"""Signals, one by one: values against NumPy or autograd, and what each needs to look at."""

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

from skipback import signals
from skipback.core.records import Needs, SignalInputs, as_matrix, matrix_of
from skipback.signals import (
    Delayed,
    LossGradient,
    Masked,
    OutputError,
    OutputGradient,
    Scaled,
    ScaledTarget,
    Signed,
    Target,
    Ternarised,
    Zero,
)

N, C = 6, 4


@pytest.fixture
def step():
    labels = torch.arange(N) % C
    return SignalInputs(
        gradient=torch.randn(N, C, dtype=torch.float64),
        output=torch.randn(N, C, dtype=torch.float64),
        target=F.one_hot(labels, C).double(),
        memory=torch.randn(N, C, dtype=torch.float64),
    )


def close(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b), rtol=1e-12, atol=1e-14)


def test_plain_signals(step):
    assert torch.equal(LossGradient()(step), step.gradient)
    assert torch.equal(Target()(step), step.target)
    assert torch.equal(Delayed(N)(step), step.memory)
    assert torch.equal(Zero()(step), torch.zeros(N, C, dtype=torch.float64))


def test_wrappers(step):
    e, t = step.gradient, step.target
    close(Scaled(LossGradient(), factor=-2.5)(step), -2.5 * e)
    close(Scaled(LossGradient(), factor=3.0, mean=True)(step), 3 * e / N)
    close(Signed(LossGradient())(step), np.sign(e.numpy()))
    close(Masked(LossGradient())(step), t * e)
    close(Scaled(Signed(Masked(Delayed(N))), factor=2.0)(step), 2 * (t * step.memory).sign())
    assert torch.equal(Signed(Zero())(step), torch.zeros(N, C, dtype=torch.float64))


@pytest.mark.parametrize("link", ["identity", "softmax", "sigmoid"])
def test_output_error(step, link):
    expected = getattr(oracles, link)(step.output.numpy()) - step.target.numpy()
    close(OutputError(getattr(signals, link))(step), expected)


@pytest.mark.parametrize(
    ("link", "loss"),
    [
        ("softmax", lambda y, t: F.cross_entropy(y, t)),
        ("sigmoid", lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="sum") / N),
        ("identity", lambda y, t: F.mse_loss(y, t, reduction="sum") / (2 * N)),
    ],
)
def test_output_error_is_the_gradient_of_the_loss_without_its_batch_scaling(step, link, loss):
    y = step.output.clone().requires_grad_()
    (e,) = torch.autograd.grad(loss(y, step.target), y)
    close(OutputError(getattr(signals, link))(step), N * e)


@pytest.mark.parametrize("per_sample", [True, False])
def test_output_gradient(step, per_sample):
    y, t = step.output.numpy(), step.target.numpy()
    factor = N if per_sample else 1
    at_output = OutputGradient(F.mse_loss, per_sample=per_sample)
    close(at_output(step), factor * 2 * (y - t) / (N * C))
    at_prediction = OutputGradient(F.binary_cross_entropy, signals.sigmoid, per_sample=per_sample)
    close(at_prediction(step), -factor * oracles.row_loss_bce(oracles.sigmoid(y), t))


def test_output_gradient_leaves_the_graph_of_the_output_alone(step):
    y = step.output.clone().requires_grad_()
    assert not OutputGradient(F.mse_loss).record(y * 2, step.target).requires_grad


@pytest.mark.parametrize(
    ("signal", "needs", "early"),
    [
        (LossGradient(), Needs.GRADIENT, False),
        (Zero(), Needs.GRADIENT, False),
        (Target(), Needs.TARGET, True),
        (OutputError(), Needs.TARGET | Needs.OUTPUT, False),
        (OutputGradient(F.mse_loss), Needs.TARGET | Needs.OUTPUT, False),
        (Delayed(3), Needs.TARGET | Needs.IDS, True),
        (Masked(LossGradient()), Needs.GRADIENT | Needs.TARGET, False),
        (Masked(Delayed(3)), Needs.TARGET | Needs.IDS, True),
        (Scaled(Signed(Delayed(3))), Needs.TARGET | Needs.IDS, True),
        (Scaled(Signed(LossGradient())), Needs.GRADIENT, False),
    ],
)
def test_needs(signal, needs, early):
    assert signal.needs == needs
    assert signal.needs.early is early


@pytest.mark.parametrize(
    ("signal", "one_signed"),
    [
        (LossGradient(), False),
        (OutputError(), False),
        (Target(), True),
        (Masked(LossGradient()), True),
        (Scaled(Signed(Target()), factor=-1.0), True),
        (Delayed(3), False),
        (Delayed(3, initial=signals.zeros), False),
        (Delayed(3, initial=signals.minus_target), True),
        (Delayed(3, initial=ScaledTarget(0.1)), True),
        (Delayed(3, initial=ScaledTarget(0.1, shift=0.25)), False),
        (Scaled(Delayed(3, initial=signals.minus_target)), True),
    ],
)
def test_one_signed(signal, one_signed):
    assert signal.one_signed is one_signed


@pytest.mark.parametrize(
    ("signal", "scales"),
    [
        (LossGradient(), True),
        (Scaled(LossGradient(), -2.0, mean=True), True),
        (Masked(Scaled(LossGradient())), True),
        (Signed(LossGradient()), False),
        (Ternarised(LossGradient()), False),
        (Scaled(Signed(LossGradient())), False),
        (Signed(Scaled(LossGradient())), False),
        (Target(), False),
        (OutputError(), False),
        (OutputGradient(F.mse_loss), False),
        (Delayed(3), False),
        (Masked(Delayed(3)), False),
    ],
)
def test_scales(signal, scales):
    """Whether it grows with the loss; where not, the engine multiplies it with `scale`."""
    assert signal.scales is scales


@pytest.mark.parametrize("wrap", [Scaled, Signed, Masked, lambda s: Scaled(Signed(Masked(s)))])
def test_wrappers_carry_the_memory_of_what_they_wrap(wrap):
    memory = wrap(Delayed(9)).memory(C)
    assert memory is not None
    assert memory.rows.shape == (9, C)
    assert wrap(LossGradient()).memory(C) is None


@pytest.mark.parametrize("samples", [0, -3])
def test_delayed_refuses_an_empty_training_set(samples):
    with pytest.raises(ValueError, match=f"got {samples}"):
        Delayed(samples)


def test_signals_are_records():
    """Frozen, comparable, hashable: a method can be printed and stored."""
    assert Scaled(Signed(LossGradient()), mean=True) == Scaled(Signed(LossGradient()), mean=True)
    assert len({Delayed(3), Delayed(3), Delayed(4)}) == 2
    with pytest.raises(AttributeError):
        Scaled(Target()).factor = 2.0  # type: ignore[misc]


# ------------------------------------------------------------------------------------------ the target as a matrix


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_indices_become_one_hot(dtype):
    like = torch.zeros(3, 4, dtype=torch.float64)
    expected = oracles.one_hot(np.array([2, 0, 3]), 4)
    matrix = as_matrix(torch.tensor([2, 0, 3], dtype=dtype), like)
    assert matrix.dtype == torch.float64
    assert matrix.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("target", "like"),
    [
        (torch.randn(3), torch.zeros(3, 1)),
        (torch.randn(3, 1), torch.zeros(3, 1)),
        (torch.randn(3, 4), torch.zeros(3, 4)),
        (torch.randn(3, 2, 2), torch.zeros(3, 4)),
        (torch.randint(0, 2, (3, 4)), torch.zeros(3, 4)),
    ],
)
def test_values_keep_their_numbers(target, like):
    matrix = as_matrix(target, like)
    assert matrix.shape == like.shape
    assert matrix.dtype == like.dtype
    assert torch.equal(matrix, target.reshape(like.shape).float())


def test_a_target_of_another_size_is_refused():
    with pytest.raises(ValueError, match="target has 4 samples, the output has 3"):
        as_matrix(torch.tensor([0, 1, 2, 0]), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\(3, 2\) does not match the output of shape \(3, 4\)"):
        as_matrix(torch.zeros(3, 2), torch.zeros(3, 4))


def test_an_entry_at_the_threshold_is_silent():
    """|s| must exceed the share, sample by sample."""
    gradient = torch.tensor([[1.0, -0.5, 0.51, 0.0], [-0.1, 0.04, 0.06, 0.05], [0.0, 0.0, 0.0, 0.0]])
    found = Ternarised(LossGradient(), 0.5)(SignalInputs(gradient=gradient))
    assert found.tolist() == [[1, 0, 1, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]


def test_class_indices_of_a_sequence():
    """(N, T) indices, for rows (N T, V) or (N, T V)."""
    target = torch.tensor([[2, 0], [1, 1]])
    expected = oracles.one_hot(np.array([2, 0, 1, 1]), 3)
    assert as_matrix(target, torch.zeros(4, 3)).tolist() == expected.tolist()


def test_what_a_delayed_signal_cannot_store_is_refused_with_what_to_write_instead():
    with pytest.raises(
        TypeError, match=r"stores an OutputError or an OutputGradient, got Scaled: wrap the delayed signal"
    ):
        Delayed(3, of=Scaled(signals.OutputError(), factor=2.0))


@pytest.mark.parametrize("target", [torch.tensor([2, 0]), torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.randn(2, 3)])
def test_a_target_is_a_matrix_of_the_type_of_the_output(target):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert matrix_of(target, (2, 3), dtype, torch.device("cpu"))[0].dtype == dtype
        assert as_matrix(target, torch.zeros(2, 3, dtype=dtype)).dtype == dtype
