"""The property, on drawn networks: see `prove`. A failure prints the smallest recipe; `make nets` proves 20,000."""

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from generated.prove import prove
from generated.recipes import COMPILES
from generated.strategies import cases
from generated.survey import kind, read, result, smallest


def drawn(count):
    """So many networks, the same ones in every run. `smallest` shrinks: it knows what a recipe is, and is faster."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,  # `holds` prints the network, a tenth as long
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def holds(case):
    """The network is taught right in every pass, or skipback refused in words."""
    one = result(case)
    if one.outcome == "failed":
        small = smallest(one, kind(one.failures[0]))
        raise AssertionError(f"\n{prove(read(small))}\n    python -m generated --prove {small!r}")


@drawn(30)
@given(cases(only=("bp",)))
def test_backprop_is_plain_backprop(case):
    holds(case)


@drawn(50)
@given(cases(only=("shallow",)))
def test_shallow_teaches_the_heads_alone(case):
    holds(case)


@drawn(160)
@given(cases(only=("dfa", "sdfa")))
def test_the_error_reaches_every_block_and_no_weight_does(case):
    holds(case)


@drawn(60)
@given(cases(only=("tiny_dfa", "principled_dfa", "ternary_dfa")))
def test_other_feedback_and_signals(case):
    holds(case)


@drawn(100)
@given(cases(only=("drtp", "f3")))
def test_early_signals(case):
    holds(case)


@drawn(100)
@given(cases(only=("dkp", "ebd", "ldfa", "fdfa", "grape")))
def test_learned_feedback(case):
    holds(case)


@pytest.mark.parametrize("way", COMPILES[1:])
def test_compiled(way):
    """The plainest network, and a drawn one; `make nets` proves 200."""

    @drawn(2)
    @given(cases(compiles=(way,), only=("dfa", "f3", "dkp")))
    def compiled(case):
        holds(case)

    compiled()
