"""facts.json is what is found now, `skipback list` shows it in 100 columns, and neither torch nor time goes into it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from skipback import draws
from skipback.core.feedback import Fixed
from skipback.lab import choices, listing
from skipback.lab.cli import main
from skipback.lab.errors import LabError
from skipback.methods import TABLE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STALE = "facts.json is not what is found now: run `python benchmarks/facts.py`"


@pytest.fixture(scope="module")
def generator():
    """benchmarks/facts.py as a module."""
    before = sys.path[:]
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("facts")
    sys.path[:] = before


@pytest.fixture(scope="module")
def kept():
    return json.loads(listing.FACTS.read_text())


@pytest.fixture(scope="module")
def found(generator):
    return json.loads(generator.text())


def listed(capsys, *argv):
    assert main(["list", *argv]) == 0
    return capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- facts.json


@pytest.mark.parametrize("name", TABLE)
def test_facts_of_a_method_are_those_found_now(kept, found, name):
    assert kept["methods"].get(name) == found["methods"][name], STALE


@pytest.mark.parametrize("kind", ["methods", "draws", "signals"])
def test_facts_are_complete_and_in_order(kept, found, kind):
    assert list(kept[kind]) == list(found[kind]), STALE
    if kind != "methods":
        assert kept[kind] == found[kind], STALE


@pytest.mark.parametrize("name", TABLE)
def test_what_a_method_declares_is_what_was_measured(kept, name):
    """Needs come from the record, the audit from the learner as it runs: they must not contradict each other."""
    fact = kept["methods"][name]
    if fact["audit"]["moves"]:
        assert fact["audit"]["forward_lock"] == ("output" in fact["needs"])
        assert fact["audit"]["target"] == ("targets" in fact["needs"])
        assert fact["audit"]["earlier_visits"] or "ids" not in fact["needs"]
    else:
        assert not fact["needs"]


def test_forward_mode_is_told(kept):
    wanted = {name for name, fact in kept["methods"].items() if "forward mode" in fact["needs"]}
    assert {"fdfa", "fg_w", "fg_a"} <= wanted
    assert not wanted & {"bp", "dfa", "dkp", "fa", "f3", "lg_fg_a"}


# -------------------------------------------------------------------------------------------------------- status


def test_status_is_that_of_the_results(generator, tmp_path, monkeypatch):
    rows = [
        {"name": "dfa", "reference": 1.0, "within": True},
        {"name": "mlp dkp", "reference": 1.0, "within": False},
        {"name": "row 3", "command": "skipback train mnist --method f3", "reference": 1.0, "within": True},
        {"name": "row 4", "method": "f3", "reference": 1.0, "within": False},
        {"name": "fa", "ours": 1.0},  # no reference
    ]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "b.json").write_text(json.dumps({"rows": rows[:1], "fa": {"times_as_fast": 2.0}}))
    (tmp_path / "c.json").write_text(json.dumps([1, 2]))
    monkeypatch.setattr(generator, "RESULTS", tmp_path)
    one, none = {"rows": 1, "within": 1}, {"rows": 1, "within": 0}
    counted = generator.compared()
    assert counted == {
        "dfa": {"a.json": one, "b.json": one},
        "dkp": {"a.json": none},
        "f3": {"a.json": {"rows": 2, "within": 1}},
    }
    monkeypatch.setattr(generator, "of_hidden", lambda name: {})
    status = {name: generator.of_method(name, counted.get(name, {}))["status"] for name in ("dfa", "dkp", "f3", "fa")}
    assert status == {"dfa": "reproduced", "dkp": "implemented", "f3": "reproduced", "fa": "implemented"}


def test_rows_that_contradict_themselves_or_name_no_method(generator, tmp_path):
    row = {"name": "dfa", "reference": 1.0, "difference": -0.7, "tolerance": 0.6, "within": True}
    with pytest.raises(ValueError, match="'dfa' says within=True"):
        generator.within(row)
    assert not generator.within({**row, "within": False})
    with pytest.raises(ValueError, match=r"a\.json: row 'x' names no method"):
        generator.method_of({"name": "x"}, tmp_path / "a.json")


# ------------------------------------------------------------------------------------------------------ the lists


def test_the_list_shows_paper_needs_audit_and_status(capsys):
    lines = [line.split() for line in listed(capsys, "methods").splitlines()]
    rows = {name: [line for line in lines if line[:1] == [name]] for name in TABLE}
    assert all(len(found) == 2 for found in rows.values())
    assert rows["dfa"][0][-1] == "nokland2016"
    assert rows["f3"][1][1:6] == ["targets,", "ids", "no", "no", "no"]
    assert rows["fdfa"][1][1:7] == ["output,", "forward", "mode", "no", "no", "yes"]
    assert rows["dkp"][1][5:] == ["reproduced", "1/1", "fdfa"]
    assert rows["bp"][1][2:5] == ["yes", "yes", "yes"]
    assert rows["shallow"][1][1:5] == ["-"] * 4


@pytest.mark.parametrize("what", listing.TABLES)
def test_each_list_alone_names_all_in_100_columns(capsys, what):
    out, (rows,) = listed(capsys, what), listing.tables([what]).values()
    first = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert [row["name"] for row in rows if row["name"] not in first] == []
    assert max(map(len, out.splitlines())) <= listing.WIDTH
    assert json.loads(listed(capsys, what, "--json")) == {listing.TABLES[what][0]: rows}


def test_all_lists_one_after_the_other(capsys):
    titles = [line.split()[0] for line in listed(capsys).splitlines() if line and line[0] != " "]
    assert titles == ["methods", "what", "data", "sizes", "nets", "sizes", "draws", "signals", "papers"]


def test_nets_come_with_their_sizes(capsys):
    out = listed(capsys, "nets")
    (line,) = [line.split() for line in out.splitlines() if line.split()[:2] == ["nokland-conv", "images"]]
    assert line[2:] == ["3x32x32", "10", "10,071,562", "342,720", "21600", "6272", "2304", "2x2048"]
    rows = {row["name"]: row for row in json.loads(listed(capsys, "nets", "--json"))["nets"]}
    net = rows["nokland-conv"]
    assert (net["takes"], net["parameters"], net["feedback"], net["shape"]) == ("images", 10071562, 342720, [3, 32, 32])
    assert [port["size"] for port in net["ports"]] == [21600, 6272, 2304, 2048, 2048]


def test_a_folded_text_loses_nothing(capsys):
    out = " ".join(listed(capsys, "draws").split())
    assert all(" ".join(row["title"].split()) in out for row in listing.draws())


def test_a_draw_says_what_its_name_fixes(kept):
    assert kept["draws"]["kaiming_he"] == f"{kept['draws']['kaiming']} Here a = 0."
    assert Fixed(draws.Zeros()).draw == choices.draw("zeros")
    assert kept["draws"]["zeros"] == "B = 0: where learned feedback starts."


def test_mistakes(capsys):
    assert main(["list", "method"]) == 2
    assert "did you mean 'methods'" in capsys.readouterr().err


def test_a_method_without_facts_names_the_command():
    with pytest.raises(LabError, match=r"nothing is known of grapes: run `python benchmarks/facts\.py`"):
        listing.facts("methods", ["dfa", "grapes"])


def test_the_list_imports_no_torch():
    code = (
        "import sys\nfrom skipback.lab.cli import main\nmain(['list'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'skipback.method'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
