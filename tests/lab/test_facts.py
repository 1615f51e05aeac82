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
    def row(method, *verdicts):
        return {"name": "x", "method": method, "lines": [{"verdict": verdict} for verdict in verdicts]}

    def file(name, paper, *rows):
        (tmp_path / name).write_text(json.dumps({"format": 1, "paper": paper, "table": "t", "rows": rows}))

    file("a.json", "one2001", row("dfa", "within 2 std", "not run"), row("dkp", "off"), row("fa", "one run, no spread"))
    file("b.json", "one2001", row("dfa", "off"), row("f3", "within 2 std"))
    file("c.json", "two2002", row("dfa", "within 2 std"))
    monkeypatch.setattr(generator, "RESULTS", tmp_path)
    counted = generator.compared()
    assert counted == {
        "dfa": {"one2001": {"rows": 2, "within": 1}, "two2002": {"rows": 1, "within": 1}},
        "dkp": {"one2001": {"rows": 1, "within": 0}},
        "f3": {"one2001": {"rows": 1, "within": 1}},
    }
    monkeypatch.setattr(generator, "of_hidden", lambda name: {})
    status = {name: generator.of_method(name, counted.get(name, {}))["status"] for name in ("dfa", "dkp", "f3", "fa")}
    assert status == {"dfa": "reproduced", "dkp": "implemented", "f3": "reproduced", "fa": "implemented"}


# ------------------------------------------------------------------------------------------------------ the lists


def test_the_list_shows_paper_needs_audit_and_status(capsys, kept):
    lines = [line.split() for line in listed(capsys, "methods").splitlines()]
    rows = {name: [line for line in lines if line[:1] == [name]] for name in TABLE}
    assert all(len(found) == 2 for found in rows.values())
    assert rows["dfa"][0][-1] == "nokland2016"
    assert rows["f3"][1][1:6] == ["targets,", "ids", "no", "no", "no"]
    assert rows["fdfa"][1][1:7] == ["output,", "forward", "mode", "no", "no", "yes"]
    (count,) = kept["methods"]["dkp"]["compared"].values()
    assert rows["dkp"][1][5:] == ["reproduced", f"{count['within']}/{count['rows']}", "bacho2024"]
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
