"""What happens before and in a step: a summed loss, adversarial batches, caps of norms. Each against its loop."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import skipback as sb
from skipback.lab import data
from skipback.lab.building import check_changing
from skipback.lab.config import Run
from skipback.lab.data.base import Split
from skipback.lab.errors import LabError
from skipback.lab.trainer import Trainer

SIZE = {"net": "mlp", "width": 8, "depth": 2, "batch_size": 64, "threads": 1, "precision": "float32", "seed": 3}


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits")
    return dataclasses.replace(found, train=Split(x=found.train.x[:300], t=found.train.t[:300]))


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.learner.named_parameters()}


def looped(run, digits, step):
    """An epoch of a run, and of `step(trainer, batch, optimizer)` with plain SGD."""
    ours, loop = Trainer(run, digits), Trainer(run, digits)
    optimizer = torch.optim.SGD(loop.learner.parameters(), lr=run.lr)
    ours.epoch()
    loop.learner.train()
    for batch in loop.feed.epoch(run.batch_size, loop.shuffle):
        step(loop, batch, optimizer)
    return ours, loop


def alike(ours, loop):
    for name, p in weights(ours).items():
        torch.testing.assert_close(p, weights(loop)[name], rtol=1e-5, atol=1e-7, msg=name)


# ------------------------------------------------------------------------------------------------ reduction

TORCH = {
    "ce": lambda y, t: F.cross_entropy(y, t, reduction="sum"),
    "bce": lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="sum"),
    "mse": lambda y, t: F.mse_loss(y, t, reduction="sum"),
}


@pytest.mark.parametrize("loss", TORCH)
@pytest.mark.parametrize("method", ["bp", "dfa", "fa", "fg_w"])
def test_a_sum_is_torchs_sum(method, loss, digits):
    run = Run(method=method, loss=loss, reduction="sum", optimizer="sgd", lr=1e-4, **SIZE)

    def step(trainer, batch, optimizer):
        TORCH[loss](trainer.learner(batch.x, target=batch.t), batch.t).backward()
        optimizer.step()
        optimizer.zero_grad()

    alike(*looped(run, digits, step))


@pytest.mark.parametrize("method", ["drtp", "f3", "dkp", "fdfa", "lg_fg_a"])
def test_what_cannot_see_a_sum_is_told(method, digits):
    """An early signal, learned feedback and local losses: K times the mean's, K = 64 rows of classes."""
    mean = Trainer(Run(method=method, optimizer="sgd", lr=64e-4, **SIZE | {"batch_size": 75}), digits)
    summed = Trainer(
        Run(method=method, reduction="sum", optimizer="sgd", lr=64e-4 / 75, **SIZE | {"batch_size": 75}), digits
    )
    assert mean.epoch() == pytest.approx(summed.epoch(), rel=1e-4)  # reported as a mean
    if method in ("dkp", "fdfa"):  # their feedback's own gradient has another degree in the error
        return
    alike(mean, summed)


def test_a_published_sum_is_summed_once(digits):
    """dfa-torch under bce: sigmoid(y) - t, summed, at every layer and at the head."""
    run = Run(method="dfa", as_published=True, loss="bce", reduction="sum", optimizer="sgd", lr=1e-4, **SIZE)
    trainer = Trainer(run, digits)
    batch = trainer.feed.first(64)
    before, net = weights(trainer), trainer.learner.net
    with trainer.learner.exact(), torch.no_grad():
        h1 = torch.tanh(net[1](batch.x.flatten(1)))
        h2 = torch.tanh(net[3](h1))
        e = torch.sigmoid(net[5](h2)) - batch.t
    B1, B2 = (B.detach().double().numpy() for B in trainer.learner.feedback.values())
    x, h1, h2, e = (v.detach().double().flatten(1).numpy() for v in (batch.x, h1, h2, e))
    trainer.learner.train()
    trainer.step(batch)
    expected = {
        "net.5.weight": e.T @ h2,
        "net.3.weight": ((e @ B2) * (1 - h2**2)).T @ h1,
        "net.1.weight": ((e @ B1) * (1 - h1**2)).T @ x,
    }
    for name, g in expected.items():
        moved = (before[name] - weights(trainer)[name]).double().numpy() / 1e-4
        np.testing.assert_allclose(moved, g, rtol=2e-2, atol=2e-3 * np.abs(g).max(), err_msg=name)


# ------------------------------------------------------------------------------------------------ adversarial


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("method", ["dfa", "bp", "fa", "drtp"])
def test_adversarial_training_is_the_loop_of_dfa_torch(method, keep, digits):
    run = Run(method=method, adversarial=0.1, keep_clean_gradients=keep, optimizer="sgd", lr=0.05, **SIZE)
    wrong = [0, 0]

    def step(trainer, batch, optimizer):
        learner, t = trainer.learner, batch.t
        x = batch.x.clone().requires_grad_()
        with learner.exact():
            y = learner(x)
            F.cross_entropy(y, t).backward()
        wrong[0] += int((y.argmax(1) != t).sum())
        if not keep:
            optimizer.zero_grad()
        y = learner((x + 0.1 * x.grad.sign()).detach(), target=t)
        F.cross_entropy(y, t).backward()
        wrong[1] += int((y.argmax(1) != t).sum())
        optimizer.step()
        optimizer.zero_grad()

    ours, loop = looped(run, digits, step)
    alike(ours, loop)
    row = ours.row(1, None)
    assert row["train_clean_accuracy_percent"] == pytest.approx(100 - wrong[0] / 3)
    assert row["train_accuracy_percent"] == pytest.approx(100 - wrong[1] / 3)
    assert ours.backprop_share == {("bp", False): 1.0, ("bp", True): 1.0}.get((method, keep), 0.5 if keep else 0.0)


def test_a_memory_is_not_trained_on_inputs_that_change():
    with pytest.raises(LabError, match=r"--adversarial 0\.1: method 'f3' stores one error per sample"):
        check_changing(Run(method="f3", adversarial=0.1))
    check_changing(Run(method="dfa", adversarial=0.1))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"keep_clean_gradients": True}, "--keep-clean-gradients says nothing without --adversarial"),
        ({"keep_clean_gradients": True, "adversarial": 0.1, "compile": True}, "--compile: not with --keep-clean"),
        ({"keep_clean_gradients": True, "adversarial": 0.1, "precision": "bf16"}, "--precision bf16: not with"),
        ({"adversarial": 0.0}, "greater than 0"),
        ({"max_in_norm": -1.0}, "greater than 0"),
        ({"reduction": "some"}, "unknown reduction 'some'"),
    ],
)
def test_what_says_nothing_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        Run(**said)


# ------------------------------------------------------------------------------------------------ norms


@pytest.mark.parametrize(("out", "into"), [(0.4, None), (None, 0.3), (0.4, 0.3)])
def test_norms_are_capped_before_each_step(out, into, digits):
    """dpnn: first the rows of a matrix (of the weights into a unit), then its columns; no bias."""
    trainer = Trainer(Run(method="dfa", max_out_norm=out, max_in_norm=into, lr=1e-9, **SIZE), digits)
    before = {name: p.double().numpy() for name, p in weights(trainer).items()}
    trainer.learner.train()
    trainer.step(trainer.feed.first(64))
    for name, w in before.items():
        for axis, limit in ((1, out), (0, into)):
            if w.ndim == 2 and limit is not None:
                norms = np.sqrt((w**2).sum(axis, keepdims=True))
                w = w * np.where(norms > limit, limit / norms, 1)
        np.testing.assert_allclose(weights(trainer)[name].numpy(), w, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_convolution_is_capped_by_its_channels(digits):
    large = [Split(x=F.interpolate(part.x, scale_factor=2), t=part.t) for part in (digits.train, digits.test)]
    images = dataclasses.replace(digits, train=large[0], test=large[1])
    size = {**SIZE, "net": "lenet", "width": None, "depth": None}
    trainer = Trainer(Run(method="bp", max_in_norm=0.2, **size), images)
    trainer.step.cap()
    kernels = [p for p in trainer.learner.net.parameters() if p.dim() == 4]
    assert kernels
    for p in kernels:
        assert float(p.detach().transpose(0, 1).flatten(1).norm(dim=1).max()) < 0.2001


def test_biases_and_feedback_are_left_alone(digits):
    trainer = Trainer(Run(method="fdfa", max_out_norm=1e-3, feedback="uniform", **SIZE), digits)
    before = weights(trainer)
    trainer.step.cap()
    changed = {name for name, p in weights(trainer).items() if not torch.equal(p, before[name])}
    assert changed == {"net.1.weight", "net.3.weight", "net.5.weight"}


def test_the_library_function_is_the_one_that_is_used(digits):
    trainer = Trainer(Run(method="dfa", adversarial=0.1, **SIZE), digits)
    assert trainer.step.eps == 0.1
    assert sb.adversarial.__module__ == "skipback.adversaries"
