"""Names as a person writes them: parameters behind colons, the names of older code bases, any case."""

import json

import pytest
from pydantic import ValidationError

from skipback import draws
from skipback.lab import choices, data, nets, spellings
from skipback.lab.cli import main
from skipback.lab.config import Run
from skipback.lab.errors import LabError
from skipback.methods import TABLE as METHODS

KNOWN = {
    "method": METHODS,
    "data set": data.names(),
    "activation": nets.ACTIVATIONS,
    "feedback": choices.DRAWS,
    "signal": choices.SIGNALS,
    "prepare": choices.PREPARATIONS,
}


@pytest.mark.parametrize(
    ("text", "draw"),
    [
        ("uniform:1", draws.Uniform(1.0)),
        ("uniform:bound=.5", draws.Uniform(0.5)),
        ("uniform", draws.Uniform()),
        ("gaussian:1", draws.Gaussian(1.0)),
        ("discrete:0,1:scale=.1", draws.DiscreteUniform((0.0, 1.0), 0.1)),
        ("discrete:scale=2:values=-1,1", draws.DiscreteUniform((-1.0, 1.0), 2.0)),
        ("constant:.1", draws.Constant(0.1)),
        ("ternary", draws.ternary()),
        ("ternary:2", draws.DiscreteUniform((-1.0, 0.0, 1.0), 2.0)),
        ("binomial", draws.binomial()),
        ("alternate_negative:3", draws.AlternateNegative(3.0)),
        ("chunked_negative:3", draws.ChunkedNegative(3.0)),
        ("cartesian_product:0,1", draws.CartesianProduct((0.0, 1.0))),
        ("sparse:2", draws.Sparse(2)),
        ("orthogonal:2", draws.Orthogonal(2.0)),
        ("kaiming:0", draws.KaimingUniform(0.0)),
        ("kaiming_uniform", draws.KaimingUniform()),
        ("KAIMING_UNIFORM_REPEAT_LINE", draws.RepeatLine()),
        ("discrete_uniform:-1,1", draws.DiscreteUniform((-1.0, 1.0))),
        ("identity_repeat_pm", draws.IdentityRepeatPM()),
        ("trinomial", draws.ternary()),
    ],
)
def test_a_draw_of_a_name_and_parameters(text, draw):
    assert choices.draw(text) == draw
    assert choices.draw(Run(feedback=text).feedback) == draw  # as it is kept


@pytest.mark.parametrize(("form", "table"), [("draws", choices.DRAWS), ("activations", nets.ACTIVATIONS)])
def test_every_example_is_right_and_has_every_parameter(form, table):
    for name, one in table.items():
        assert bool(one.takes) == bool(one.example)
        if one.takes:
            found = spellings.parse(form, one.example, table)
            assert (found.name, set(found.parameters)) == (name, set(one.takes))
            assert spellings.spelt(form, one.example, table) == one.example


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uniform:x", "feedback 'uniform:x': bound must be a number above 0, got 'x'"),
        ("uniform:0", "bound must be a number above 0, got '0'"),
        ("uniform:inf", "bound must be a number above 0, got 'inf'"),
        ("uniform:1:2", "uniform takes bound, each once: write uniform, or uniform:1"),
        ("uniform:1:bound=2", "uniform takes bound, each once: write uniform, or uniform:1"),
        ("zeros:1", "zeros takes no parameters: write zeros"),
        ("discrete:0,x", "values must be numbers with commas, got '0,x'"),
        ("discrete:0,1:0.1", "discrete takes values, scale, each once: write discrete, or discrete:0,1:scale=0.1"),
        ("sparse:1.5", "per_unit must be a whole number above 0, got '1.5'"),
        ("unifrom:1", "unknown feedback 'unifrom'; did you mean 'uniform'?"),
    ],
)
def test_what_is_wrong_shows_the_right_form(text, said):
    with pytest.raises(ValidationError, match="feedback") as error:
        Run(feedback=text)
    assert said in str(error.value)


def test_one_choice_has_one_spelling_in_the_folder_and_its_name():
    runs = [Run(feedback=text) for text in ("discrete:0,1:scale=.1", "Discrete_Uniform:scale=0.10:values=0,1.0")]
    assert runs[0] == runs[1]
    assert runs[0].feedback == "discrete:0,1:scale=0.1"
    assert runs[0].name == "dfa-discrete-0-1-scale-0.1-seed1"


@pytest.mark.parametrize("what", spellings.ALIASES)
def test_every_other_name_leads_to_one_that_exists(what):
    for other, name in spellings.ALIASES[what].items():
        assert spellings.folded(other) == other
        assert spellings.check(what, other, KNOWN[what]) == name


@pytest.mark.parametrize("what", KNOWN)
def test_no_two_names_are_one(what):
    assert len({spellings.folded(name) for name in KNOWN[what]}) == len(list(KNOWN[what]))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"method": "llo"}, {"method": "shallow"}),
        ({"method": "FDFA"}, {"method": "fdfa"}),
        ({"method": "Principled-DFA"}, {"method": "principled_dfa"}),
        ({"dataset": "FashionMNIST"}, {"dataset": "fashion-mnist"}),
        ({"dataset": "CIFAR10"}, {"dataset": "cifar10"}),
        ({"dataset": "census_income"}, {"dataset": "adult"}),
        ({"net": "LeNet"}, {"net": "lenet", "depth": None, "activation": "tanh"}),
        ({"activation": "sigm"}, {"activation": "sigmoid"}),
        ({"activation": "LeakyReLU:.5"}, {"activation": "leaky-relu:0.5"}),
        ({"method": "f3", "signal": "DELAYED-ERROR"}, {"signal": "delayed_error"}),
        ({"dataset": "Tiny-Shakespeare", "net": "lstm"}, {"dataset": "tiny-shakespeare", "context": 64}),
    ],
)
def test_names_of_the_older_code_bases(given, kept):
    run = Run(**given)
    assert {name: getattr(run, name) for name in kept} == kept
    assert Run(**run.model_dump()) == run


def test_a_run_with_parameters_is_found_again_however_it_is_written(tmp_path, capsys):
    words = "train digits --epochs 1 --width 4 --json --out".split()
    for activation, feedback in (("leaky-relu:.5", "uniform:1"), ("LeakyReLU:negative_slope=0.5", "UNIFORM:bound=1.0")):
        assert main([*words, str(tmp_path), "--activation", activation, "--feedback", feedback]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == second
    held = json.loads((tmp_path / "dfa-uniform-1-seed1" / "config.json").read_text())
    assert (held["activation"], held["feedback"]) == ("leaky-relu:0.5", "uniform:1")


def test_several_methods_are_each_taken_once_under_any_name(tmp_path, capsys):
    argv = "compare digits --methods llo,shallow,BP --seeds 1 --epochs 1 --width 4 --depth 1 --json --out".split()
    assert main([*argv, str(tmp_path)]) == 0
    assert [json.loads(line)["method"] for line in capsys.readouterr().out.splitlines()] == ["shallow", "bp"]


def test_unknown_names_keep_their_hint():
    with pytest.raises(LabError, match="did you mean 'ternary'"):
        spellings.check("feedback", "terniary", choices.DRAWS)
