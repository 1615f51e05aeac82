"""Graphs: one batch of all nodes, losses and signals of the labelled ones alone, and no test label that leaks."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from skipback.core.records import SignalInputs
from skipback.lab import data
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.data import DataError, Graph, nodes
from skipback.lab.labelled import Labelled, of_labelled
from skipback.lab.trainer import Trainer
from skipback.methods import dfa, drtp
from skipback.routes.anchored import anchored
from skipback.signals import Scaled, Target

N, F, C = 60, 9, 3
SPLITS = ("train", "valid", "test")


def graph(**changed):
    """A ring in which neighbours share their class; words tell the class, with noise. Two nodes are in no split."""
    random = np.random.default_rng(0)
    labels = np.arange(N) * C // N
    words = (random.random((N, F)) < 0.2 + 0.6 * (np.arange(F) % C == labels[:, None])).astype(np.float32)
    words[N - 1] = 0
    ends = np.arange(N), (np.arange(N) + 1) % N
    edges = np.concatenate([np.stack(ends), np.stack(ends[::-1])], 1)
    part = np.arange(N) % 4
    part[[5, 10]] = -1
    masks = {name: torch.from_numpy(part == k) for k, name in enumerate(SPLITS)}
    parts = {"features": torch.from_numpy(words), "edges": torch.from_numpy(edges), "labels": torch.from_numpy(labels)}
    return Graph(**{"name": "ring", "classes": C, **parts, **masks, **changed})


def trainer(one=None, **settings):
    usual = {"dataset": "cora", "net": "gcn", "width": 8, "method": "dfa", "device": "cpu", "lr": 0.02}
    return Trainer(Run(**{**usual, **settings}), nodes.feeds(one or graph()))


def log_softmax(y):
    y = y.astype(np.float64) - y.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


def scores(one, of, split):
    """The oracle: loss and accuracy over the nodes of one split."""
    batch = one.feed.first(1)
    with torch.no_grad():
        y = one.learner.eval()(*batch.inputs).numpy()
    wanted, labels = getattr(of, split).numpy(), of.labels.numpy()
    rows, labels = y[wanted], labels[wanted]
    return -log_softmax(rows)[np.arange(len(rows)), labels].mean(), 100 * (rows.argmax(1) == labels).mean()


# --------------------------------------------------------------------------------------------------------------- feeds


def test_one_batch_has_all_nodes_with_their_edges():
    one = graph()
    feed = nodes.feeds(one).train
    for batches in (feed.epoch(2, torch.Generator()), feed.ordered(2), [feed.first(2)]):
        (batch,) = batches
        x, edges = batch.inputs
        sums = one.features.sum(1, keepdim=True)
        assert torch.allclose(x, one.features / torch.where(sums == 0, 1, sums))
        assert torch.equal(edges, one.edges)
        assert batch.ids.tolist() == list(range(N))
    assert len(feed) == N


@pytest.mark.parametrize("split", SPLITS)
def test_targets_show_the_labels_of_their_own_split_alone(split):
    one = graph()
    t, mask = getattr(nodes.feeds(one), split).t, getattr(one, split)
    assert torch.equal(t[mask], torch.eye(C)[one.labels[mask]])
    assert torch.equal(t[~mask], torch.full((int((~mask).sum()), C), 1 / C))
    assert torch.equal(nodes.labelled(t), mask)


def test_a_graph_without_a_split_is_refused():
    with pytest.raises(DataError, match="ring: no node is in its valid split"):
        nodes.feeds(graph(valid=torch.zeros(N, dtype=torch.bool)))


# -------------------------------------------------------------------------------------------------------------- scores


def test_loss_and_scores_are_those_of_the_nodes_of_a_split():
    one, of = trainer(lr=1e-12, optimizer="sgd"), graph()
    found = one.evaluate()
    for split in ("test", "valid"):
        loss, accuracy = scores(one, of, split)
        assert found[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)
        assert found[f"{split}_accuracy_percent"] == pytest.approx(accuracy)
    assert one.epoch() == pytest.approx(scores(one, of, "train")[0], rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_other_losses_are_over_the_same_nodes(loss):
    one, of = trainer(lr=1e-12, optimizer="sgd", loss=loss), graph()
    with torch.no_grad():
        y = one.learner.eval()(*one.feed.first(1).inputs)[of.train].double().numpy()
    t = np.eye(C)[of.labels[of.train].numpy()]
    p = 1 / (1 + np.exp(-y))
    expected = ((y - t) ** 2).mean() if loss == "mse" else -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert one.epoch() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- methods


def trained(of, **settings):
    one = trainer(of, **settings)
    for _ in range(3):
        one.epoch()
    return one


@pytest.mark.parametrize("method", ["bp", "dfa", "drtp", "f3", "sdfa", "fa", "fdfa", "fg_a"])
def test_no_method_sees_a_label_that_is_scored(method):
    """With other labels outside the training split, training ends at the same bits."""
    of = graph()
    other = dataclasses.replace(of, labels=torch.where(of.train, of.labels, (of.labels + 1) % C))
    a, b = trained(of, method=method), trained(other, method=method)
    assert all(torch.equal(p, q) for p, q in zip(a.learner.parameters(), b.learner.parameters(), strict=True))
    assert a.evaluate() != b.evaluate()


def gradients(method, **settings):
    one = trainer(method=method, feedback="uniform", **settings)
    batch = one.feed.first(1)
    y = one.learner.train()(*batch.inputs, target=batch.t, ids=batch.ids)
    one.loss.of_output(y, batch.t).backward()
    return one, {name: p.grad for name, p in one.learner.net.named_parameters()}


def test_an_error_that_travels_with_the_input_teaches_as_the_gradient_of_the_masked_loss():
    (_, early), (_, late) = gradients("f3", signal="current_error"), gradients("dfa")
    assert all(torch.allclose(early[name], g, atol=1e-7) and g.any() for name, g in late.items())


def test_drtp_teaches_the_labelled_nodes_by_their_targets():
    """The gradient at the first bias is sum over nodes of f'(h) * teaching, with teaching -t B / n, by hand."""
    (one, found), of = gradients("drtp"), graph()
    (B,) = one.learner.feedback.values()
    t = torch.eye(C)[of.labels] * of.train[:, None]
    with torch.no_grad():
        h = one.learner.net.first(*one.feed.first(1).inputs)
    expected = ((h > 0) * (-t @ B / of.train.sum())).sum(0)
    assert torch.allclose(found["first.bias"], expected, atol=1e-7)


def test_a_labelled_signal_is_that_of_the_labelled_nodes_as_a_batch():
    t = torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    mean = Labelled(Scaled(Target(), factor=-1.0, mean=True))(SignalInputs(target=t))
    assert mean.tolist() == [[0, -0.5, 0], [0, 0, 0], [-0.5, 0, 0], [0, 0, 0]]
    summed = Labelled(Target())(SignalInputs(target=t))
    assert summed.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_the_signal_inside_an_anchored_method_is_fitted_too():
    fitted = of_labelled(anchored(drtp.drtp(), every=3))
    assert isinstance(fitted.method.signal, Labelled)
    assert fitted.every == 3
    assert of_labelled(dfa.dfa()) == dfa.dfa()  # a gradient of the masked loss is masked


def test_f3_is_measured_on_the_labelled_nodes_and_remembers_them():
    one, of = trainer(method="f3", lr=1e-12, optimizer="sgd"), graph()
    one.epoch()
    batch = one.feed.first(1)
    with torch.no_grad():
        y = one.learner.eval()(*batch.inputs).numpy()
    error = (np.exp(log_softmax(y)) - np.eye(C)[of.labels])[of.train]
    assert np.allclose(one.learner.memory.rows[of.train], error, atol=1e-6)
    (late,) = trainer(method="dfa", lr=1e-12, feedback="uniform").measure()
    early = trainer(method="f3", lr=1e-12, optimizer="sgd", feedback="uniform")
    early.epoch()
    (found,) = early.measure()
    assert found["cosine"] == pytest.approx(late["cosine"], abs=1e-5)  # as of DFA: nodes without a label do not count
    assert found["teaching_norm"] == pytest.approx(late["teaching_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("net", "method"), [("gcn", "bp"), ("gcn", "dfa"), ("gat", "dfa"), ("gcn", "drtp"), ("gcn", "f3")]
)
def test_classes_are_learned(net, method):
    one = trainer(net=net, method=method)
    losses = [one.epoch() for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]
    assert one.evaluate()["test_accuracy_percent"] > 60


def test_a_run_goes_on_to_the_same_bits():
    whole, first, second = (trainer(method="f3", dropout=0.5) for _ in range(3))
    torch.manual_seed(7)
    for _ in range(3):
        whole.epoch()
    torch.manual_seed(7)
    first.epoch()
    second.restore(first.state())
    for _ in range(2):
        second.epoch()
    assert all(torch.equal(a, b) for a, b in zip(whole.learner.parameters(), second.learner.parameters(), strict=True))
    assert torch.equal(whole.learner.memory.rows, second.learner.memory.rows)


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(data, "graph", lambda name: graph())


def test_train_and_the_record_of_a_graph(small, tmp_path, capsys):
    argv = "train cora --net gcn --width 8 --device cpu --method f3 --epochs 3".split()
    assert main([*argv, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "f3-seed1" / "summary.json").read_text())
    assert {f"{s}_{name}" for s in ("test", "valid") for name in ("loss", "accuracy_percent")} <= summary.keys()


@pytest.mark.parametrize("method", ["dfa", "drtp", "f3"])
def test_a_graph_is_audited(small, capsys, method):
    assert main(["audit", "cora", "--net", "gcn", "--width", "8", "--device", "cpu", "--method", method, "--json"]) == 0
    head, first = json.loads(capsys.readouterr().out.splitlines()[-1])["blocks"]
    assert head["exact"]
    assert first["moves"]
    assert not first["weight_transport"]
    assert not first["update_lock"]
    assert first["forward_lock"] == (method == "dfa")
    assert first["target"] == (method == "drtp")
    assert first["earlier_visits"] == (method == "f3")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--net", "mlp"], "net 'mlp' takes numbers, and this data set gives graphs: choose one of gcn, gat"),
        (["--net", "gcn", "--method", "lg_fg_a"], "method 'lg_fg_a' gives each block a classifier of whole samples"),
    ],
)
def test_what_a_graph_cannot_have_is_one_line(small, tmp_path, capsys, argv, message):
    assert main(["train", "cora", *argv, "--out", str(tmp_path)]) == 2
    assert f"error: {message}" in capsys.readouterr().err
