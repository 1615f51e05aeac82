"""The tests of the tests: what is wrong is found, what is right is not, and a recipe comes back from its words."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from torch.nn import functional as F

import skipback as sb
from generated import data, reference, refusals
from generated.net import built, switch
from generated.prove import Proof, prove
from generated.recipes import Case, Out, Pass, Recipe, Stage, written
from generated.settle import resolved, settled
from generated.shrink import shrunk
from generated.strategies import cases
from generated.survey import causes, read, result, table
from generated.test_generated import drawn

DEEP = Recipe(stages=(Stage(), Stage(act="relu"), Stage(act="gelu")), outputs=(Out(width=3),))
SEVERAL = replace(DEEP, outputs=(Out(), Out(kind="aux", width=2, at=1), Out(kind="hidden", at=0)), wrap="dict")


def kinds(case, as_if=None):
    return {failure.kind for failure in prove(case, as_if).failures}


@pytest.mark.parametrize("recipe", [DEEP, SEVERAL, replace(DEEP, twice=True)])
def test_backprop_in_the_place_of_a_direct_method_is_found(recipe):
    assert {"backprop", "weight transport"} <= kinds(Case(recipe, method="bp"), as_if="dfa")


@pytest.mark.parametrize(
    ("method", "as_if"),
    [
        ("dfa", "sdfa"),
        ("sdfa", "dfa"),
        ("ternary_dfa", "sdfa"),
        ("dfa", "ternary_dfa"),
        ("ebd", "dkp"),
        ("drtp", "dfa"),
    ],
)
def test_another_method_is_found(method, as_if):
    assert kinds(Case(DEEP, method=method), as_if) & {"oracle", "feedback"}


def test_what_teaches_is_no_floor():
    assert "shallow teaches" in kinds(Case(DEEP, method="dfa"), as_if="shallow")
    assert "no gradient" in kinds(Case(DEEP, method="shallow"), as_if="dfa")


def test_a_wrong_memory_is_found(monkeypatch):
    monkeypatch.setattr("generated.oracle.Memory.write", lambda *_, **__: None)
    case = Case(DEEP, method="f3", passes=(Pass(batch=5), Pass(batch=5, seed=1)))
    assert "oracle" in kinds(case)


@pytest.mark.parametrize("factor", [2.0, -1.0, 1 + 1e-6])
def test_a_wrong_signal_is_found(monkeypatch, factor):
    inner = sb.signals.LossGradient.__call__
    monkeypatch.setattr(sb.signals.LossGradient, "__call__", lambda self, step: inner(self, step) * factor)
    assert "oracle" in kinds(Case(DEEP))


def test_feedback_that_is_not_what_it_says_is_found(monkeypatch):
    inner = sb.feedback.Matrix.project
    monkeypatch.setattr(sb.feedback.Matrix, "project", lambda self, lesson, parts: inner(self, lesson, (2 * parts[0],)))
    assert "oracle" in kinds(Case(DEEP))


def test_a_lesson_that_is_wrong_is_found(monkeypatch):
    from skipback.methods import dkp

    monkeypatch.setattr(dkp.Correlation, "gradient", lambda self, lesson, parts: (parts[0],))
    assert kinds(Case(DEEP, method="dkp")) == {"feedback"}


@pytest.mark.parametrize("method", ["dfa", "sdfa", "drtp", "f3", "dkp", "shallow", "bp"])
def test_what_is_right_is_taught(method):
    verdict = prove(Case(DEEP, method=method, passes=(Pass(), Pass(seed=1), Pass(kind="step", seed=2))))
    assert (verdict.outcome, verdict.taught) == ("taught", 3), str(verdict)


def test_the_reference_alone_is_direct_feedback_by_hand():
    """Two tanh layers, in closed form."""
    recipe = resolved(Recipe(stages=(Stage(), Stage())))
    net, batch = built(recipe), data.batch(recipe, Pass())
    plain = reference.exact(net, recipe, batch, frozenset({"s0_layer", "s1_layer"}))
    taught = {"s0_layer": torch.randn(4, 4).double(), "s1_layer": torch.randn(4, 4).double()}
    errors = reference.errors_of(recipe, plain.outputs, batch)
    choice = {"s0_layer": 1, "s1_layer": 1}
    found = reference.cut(net, recipe, batch, choice, plain, errors, lambda mark: taught[mark.owner], hidden=False)
    h1 = torch.tanh(F.linear(batch.x, net.s0_layer.weight, net.s0_layer.bias))
    h2 = torch.tanh(F.linear(h1, net.s1_layer.weight, net.s1_layer.bias))
    wanted = {
        "s0_layer.weight": (taught["s0_layer"] * (1 - h1**2)).T @ batch.x,
        "s1_layer.weight": (taught["s1_layer"] * (1 - h2**2)).T @ h1,
        "heads.0.weight": errors[0].T @ h2,
    }
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-12, atol=1e-14), name


# -------------------------------------------------------------------------------------------------------- exceptions


def raised(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_only_sentences_of_skipbacks_own_are_refusals(monkeypatch):
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    assert refusals.refused(raised(lambda: sb.attach(net, sb.dfa(), blocks=["no"], example=torch.ones(2, 3))))
    assert refusals.fault(raised(lambda: net(torch.ones(2, 4)))) == "foreign"
    monkeypatch.setattr("skipback.core.feedback.drawn", lambda *_: 1 / 0)
    assert refusals.fault(raised(lambda: sb.attach(net, sb.dfa(), example=torch.ones(2, 3)))) == "foreign"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("assert False", "assertion"),
        ("raise ValueError('short')", "no sentence"),
        ("raise ValueError('a sentence that says what would be right')", ""),
        ("[][0]", "passed on"),
    ],
)
def test_the_innermost_line_must_raise_with_a_sentence(text, wrong):
    code = compile(text, f"{refusals.HOME}/somewhere.py", "exec")
    assert refusals.fault(raised(lambda: exec(code))) == wrong


# ----------------------------------------------------------------------------------------------------------- recipes


@drawn(150)
@given(cases())
def test_every_recipe_makes_a_network_that_backprop_trains(case):
    assert settled(case) == case
    assert read(written(case)) == case
    net = built(case.recipe).train(case.mode == "train")
    switch(net, checkpointing=False)
    for one in case.passes:
        plain = reference.exact(net, case.recipe, data.batch(case.recipe, one), frozenset())
        assert all(y.isfinite().all() for y in plain.outputs)
        switch(net, late=True)


def test_shrinking_keeps_what_fails():
    case = settled(Case(SEVERAL, passes=(Pass(batch=3, seed=7), Pass(seed=5))))
    small = shrunk(case, lambda c: any(s.act == "relu" for s in c.recipe.stages))
    assert written(small) == "Case(recipe=Recipe(stages=(Stage(act='relu'),)), passes=(Pass(),))"


def test_a_survey_counts_every_network_once():
    results = [result(settled(Case(DEEP))), result(settled(Case(DEEP, method="sdfa", passes=(Pass(),))))]
    found = table(results)
    assert found["networks"] == found["taught"] + found["refused"] + found["failed"] == 2
    assert found["features"]["method sdfa"] == {"networks": 1, "taught": 1, "refused": 0, "failed": 0}
    assert causes(results) == []


def test_a_fault_of_the_tests_is_no_verdict(monkeypatch):
    monkeypatch.setattr(Proof, "moves_weights", lambda self: 1 / 0)
    one = result(settled(Case(DEEP)))
    assert (one.outcome, one.failures[0].kind) == ("failed", "harness")
