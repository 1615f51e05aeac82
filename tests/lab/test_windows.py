"""Texts as windows: every token once with the one that follows, scores by hand, and runs of every kind of signal."""

import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.autograd.graph import get_gradient_edge

from skipback.lab import data
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.data import DataError, Text, windows
from skipback.lab.errors import LabError
from skipback.lab.trainer import Trainer

RANDOM = np.random.default_rng(0)
V, T = 5, 6
LETTERS = tuple(bytes([97 + k]) for k in range(V))


def piece(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, V, size, dtype=np.uint8))


def random_text(valid=33):
    return Text(name="tiny", vocabulary=LETTERS, train=piece(100), valid=piece(valid, 1), test=piece(95, 2))


def cycle():
    """abcdeabcde...: who looks at the last letter knows the next one."""
    parts = [torch.arange(size, dtype=torch.uint8) % V for size in (601, 50, 60)]
    return Text(name="cycle", vocabulary=LETTERS, train=parts[0], valid=parts[1], test=parts[2])


def run(**settings):
    usual = {"net": "transformer-lm", "depth": 1, "width": 8, "context": T, "device": "cpu", "batch_size": 4}
    return Run(**{"dataset": "tiny-shakespeare", "method": "dfa", **usual, **settings})


def trainer(text=None, **settings):
    return Trainer(run(**settings), windows.feeds(text or random_text(), T))


def pairs(tokens, length=T):
    """The oracle: windows and targets from the definition, token by token."""
    tokens = tokens.tolist()
    count = (len(tokens) - 1) // length
    x = [[tokens[k * length + i] for i in range(length)] for k in range(count)]
    t = [[tokens[k * length + i + 1] for i in range(length)] for k in range(count)]
    return np.array(x), np.array(t)


def log_softmax(y):
    y = y.astype(np.float64)
    y = y - y.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


def logits(one, tokens):
    x, t = pairs(tokens)
    with torch.no_grad():
        return one.learner.eval()(torch.from_numpy(x)).numpy(), t


# ------------------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("size", [T + 1, 2 * T, 2 * T + 1, 2 * T + 2, 40])
def test_windows_are_consecutive_and_targets_the_tokens_that_follow(size):
    tokens = piece(size)
    feed = windows.windows(tokens, T, "tiny")
    x, t = pairs(tokens)
    batch = feed.first(1000)
    assert len(feed) == len(x) == (size - 1) // T
    assert np.array_equal(batch.x, x)
    assert np.array_equal(batch.t, t)
    assert batch.x.dtype == batch.t.dtype == torch.int64
    assert batch.ids.tolist() == list(range(len(x)))


def test_an_epoch_draws_the_order_of_the_windows_and_nothing_else():
    feed, (x, t) = windows.windows(piece(100), T, "tiny"), pairs(piece(100))
    batches = list(feed.epoch(5, torch.Generator().manual_seed(3)))
    ids = torch.cat([batch.ids for batch in batches])
    assert torch.equal(ids, torch.randperm(16, generator=torch.Generator().manual_seed(3)))
    assert np.array_equal(torch.cat([batch.x for batch in batches]), x[ids])
    assert np.array_equal(torch.cat([batch.t for batch in batches]), t[ids])
    assert batches[0].x.dtype == batches[0].t.dtype == torch.int64
    taken = feed.take(ids[:3])
    assert torch.equal(taken.x, batches[0].x[:3])
    assert torch.equal(taken.t, batches[0].t[:3])


def test_windows_share_the_storage_of_the_text():
    tokens = piece(100)
    feed = windows.windows(tokens, T, "tiny")
    assert feed.x.untyped_storage().data_ptr() == feed.t.untyped_storage().data_ptr() == tokens.data_ptr()


def test_long_windows_are_scored_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(windows, "SCORED", 3 * T + 1)
    feed = windows.windows(piece(100), T, "tiny")
    assert [len(batch) for batch in feed.ordered(1000)] == [3] * 5 + [1]
    assert [len(batch) for batch in feed.ordered(2)] == [2] * 8
    monkeypatch.setattr(windows, "SCORED", 1)
    assert [len(batch) for batch in feed.ordered(1000)] == [1] * 16


def test_a_piece_without_a_window_is_refused():
    with pytest.raises(DataError, match=r"tiny: a piece of 6 tokens has no window of 6 .* smaller --context"):
        windows.windows(piece(T), T, "tiny")


# ------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("net", ["transformer-lm", "lstm"])
def test_scores_are_those_of_every_position(net, monkeypatch):
    monkeypatch.setattr(windows, "SCORED", 2 * T)  # a last batch that is smaller
    text = random_text()
    one = trainer(text, net=net)
    found = one.evaluate()
    for split, tokens in (("test", text.test), ("valid", text.valid)):
        y, t = logits(one, tokens)
        loss = -np.take_along_axis(log_softmax(y), t[..., None], -1).mean()
        assert found[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)
        assert found[f"{split}_bits_per_character"] == pytest.approx(loss / math.log(2), rel=1e-5)
        assert found[f"{split}_perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        assert found[f"{split}_accuracy_percent"] == pytest.approx(100 * (y.argmax(-1) == t).mean())


def test_the_training_loss_is_the_mean_over_all_positions():
    one = trainer(lr=1e-12, optimizer="sgd")
    y, t = logits(one, piece(100))
    expected = -np.take_along_axis(log_softmax(y), t[..., None], -1).mean()
    assert one.epoch() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ methods


def test_f3_remembers_the_error_of_every_position_of_every_window():
    one = trainer(method="f3", lr=1e-12, optimizer="sgd")
    one.epoch()
    y, t = logits(one, piece(100))
    error = np.exp(log_softmax(y)) - np.eye(V)[t]
    assert one.learner.memory.rows.shape == (16, T * V)
    assert np.allclose(one.learner.memory.rows, error.reshape(16, T * V), atol=1e-6)


def gradients(method, **settings):
    one = trainer(method=method, feedback="uniform", **settings)
    batch = one.feed.first(8)
    loss = one.loss.of_output(one.learner(*batch.inputs, target=batch.t, ids=batch.ids), batch.t)
    loss.backward()
    return [p.grad for p in one.learner.net.parameters()]


def test_an_error_that_travels_with_the_input_teaches_as_the_gradient_does():
    pairs = zip(gradients("f3", signal="current_error"), gradients("dfa"), strict=True)
    assert all(torch.allclose(a, b, atol=1e-7) and b.any() for a, b in pairs)


def test_each_position_is_taught_through_one_feedback():
    one = trainer(method="dfa")
    assert {block: tuple(B.shape) for block, B in one.learner.feedback.items()} == {
        "embedding": (V, 8),
        "layers.0": (V, 8),
    }


@pytest.mark.parametrize(
    ("net", "method"), [("lstm", "bp"), ("transformer-lm", "dfa"), ("lstm", "drtp"), ("lstm", "f3")]
)
def test_a_cycle_is_learned(net, method):
    one = trainer(cycle(), net=net, method=method, lr=1e-2, width=16)
    before = one.evaluate()["test_perplexity"]
    for _ in range(8):
        one.epoch()
    after = one.evaluate()
    assert before > 4
    assert after["test_perplexity"] < 2
    assert after["test_accuracy_percent"] > 90


def test_a_run_goes_on_to_the_same_bits():
    whole, first, second = (trainer(method="f3", lr=1e-2) for _ in range(3))
    for _ in range(3):
        whole.epoch()
    first.epoch()
    second.restore(first.state())
    for _ in range(2):
        second.epoch()
    assert all(torch.equal(a, b) for a, b in zip(whole.learner.parameters(), second.learner.parameters(), strict=True))
    assert torch.equal(whole.learner.memory.rows, second.learner.memory.rows)


def test_alignment_is_that_of_the_positions_of_the_first_windows():
    one = trainer(method="dfa")
    batch = one.feed.first(256)
    outputs, ports = one.learner.eval().observe(*batch.inputs)
    y = outputs.y
    e, *exact = torch.autograd.grad(one.loss.of_output(y, batch.t), [get_gradient_edge(y), *ports.values()])
    for row, B, g in zip(one.measure(), one.learner.feedback.values(), exact, strict=True):
        a, g = (e.reshape(-1, V) @ B).double(), g.reshape(-1, 8).double()
        one_a, one_g = a / a.norm(dim=1, keepdim=True), g / g.norm(dim=1, keepdim=True)
        assert row["cosine"] == pytest.approx((one_a * one_g).sum(1).mean().item(), abs=1e-6)
        assert row["null_band"] == pytest.approx(2 * (one_a.T @ one_g / len(a)).norm().item() / 8**0.5, rel=1e-5)


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(data, "text", lambda name: random_text(valid=81))


def test_train_audit_and_the_record_of_a_text(small, tmp_path, capsys):
    sizes = "tiny-shakespeare --net transformer-lm --depth 1 --width 8 --device cpu --context 9 --batch-size 3".split()
    assert main(["train", *sizes, "--epochs", "2", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "dfa-seed1"
    assert json.loads((folder / "config.json").read_text())["context"] == 9
    summary = json.loads((folder / "summary.json").read_text())
    for split in ("test", "valid"):
        assert {
            f"{split}_{name}" for name in ("loss", "bits_per_character", "perplexity", "accuracy_percent")
        } <= summary.keys()
    assert main(["audit", *sizes, "--methods", "dfa,drtp,f3", "--json"]) == 0
    found = [json.loads(line)["blocks"] for line in capsys.readouterr().out.splitlines()[-3:]]
    for blocks in found:
        assert [b["block"] for b in blocks] == ["head", "layers.0", "embedding"]
        assert [b["weight_transport"] for b in blocks] == [None, False, False]
    assert [blocks[1]["forward_lock"] for blocks in found] == [True, False, False]
    assert [blocks[1]["target"] for blocks in found] == [False, True, True]  # F3: the memory starts at what it says
    assert [blocks[1]["earlier_visits"] for blocks in found] == [False, False, True]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--net", "mlp"],
            "net 'mlp' takes numbers, and this data set gives tokens: choose one of transformer-lm, lstm",
        ),
        (["--net", "lstm", "--loss", "mse"], "--loss mse: here a network is trained with ce"),
        (["--net", "lstm", "--method", "lg_fg_a"], "method 'lg_fg_a' gives each block a classifier of whole samples"),
        (["--net", "lstm", "--context", "90"], "tiny: a piece of 81 tokens has no window of 90"),
        (["--net", "lstm", "--method", "fa", "--context", "8"], "parameter 'layers.0.lstm.weight_ih_l0' takes part in"),
        (["--net", "lstm", "--method", "ifa", "--context", "8"], "ifa cannot teach the positions of a sequence"),
        (["--net", "lstm", "--context", "0"], "--context: must be greater than or equal to 1, got 0"),
    ],
)
def test_what_a_text_cannot_have_is_one_line(small, tmp_path, capsys, argv, message):
    assert main(["train", "tiny-shakespeare", *argv, "--out", str(tmp_path)]) == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_a_context_is_for_texts(verb, tmp_path, capsys):
    assert main([verb, "digits", "--context", "8", "--out", str(tmp_path)]) == 2
    assert "--context: data set 'digits' is no text" in capsys.readouterr().err


def test_the_context_is_filled_for_texts_alone():
    assert Run(dataset="tiny-shakespeare", net="lstm").context == 64
    assert Run(dataset="tiny-shakespeare", net="lstm", context=7).context == 7
    assert Run().context is None
    with pytest.raises((ValidationError, LabError), match="no text"):
        Run(dataset="cora", context=64)
