"""A value of the wrong kind is named where it is given, in every constructor of a method."""

import inspect

import pytest
import torch

import skipback as sb
from skipback import methods
from skipback.core.feedback import Fixed
from skipback.draws import Uniform
from skipback.signals import Delayed, OutputError, Scaled

WRONG = {"Feedback": "ternary", "Signal": [1], "Signal | None": [1], "Draw": "uniform", "Link": "softmax", "int": "8",
         "float": "0.1", "Combine": "mean"}  # fmt: skip
"""By what an argument is annotated with, a value of another kind."""


def arguments():
    """Every argument of every constructor of a method."""
    for name in methods.TABLE:
        page = methods.page(name)
        for build in (getattr(page, name), page.as_published):
            for key, parameter in inspect.signature(build).parameters.items():
                yield pytest.param(build, key, parameter.annotation, id=f"{name}.{build.__name__}.{key}")


@pytest.mark.parametrize(("build", "key", "kind"), list(arguments()))
def test_a_wrong_kind_is_named(build, key, kind):
    required = {"memory": 8} if "memory" in inspect.signature(build).parameters else {}
    with pytest.raises(TypeError, match=rf"^{key}: must be "):
        build(**{**required, key: WRONG[kind]})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sb.f3(memory=8.5), "memory: must be the number of training samples, a whole number, not 8.5"),
        (lambda: sb.f3(memory=8, signal=OutputError), r"signal: .* not the class OutputError \(call it: OutputError"),
        (lambda: Fixed(Uniform), r"draw: must be a draw, as Uniform\(\), not the class Uniform"),
        (lambda: Scaled("target"), "signal: must be a Signal, as LossGradient"),
        (lambda: OutputError(3), "link: must be a function of the output"),
        (lambda: Delayed(True), "memory: must be"),
        (lambda: sb.f3(memory=8, feedback=[Fixed(), Fixed()]), "feedback: a list does not say which port"),
    ],
)
def test_what_was_wrong_is_said(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_functions_and_modules_may_stand_for_links():
    assert OutputError(torch.nn.Softmax(1)).link is not None
    assert OutputError(torch.sigmoid).link is torch.sigmoid
