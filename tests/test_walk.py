"""benchmarks/walk.py counts what it says that it counts, on sources whose figures are known."""

import importlib
import json
import sys
import threading
from pathlib import Path

import pytest

from skipback import method

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OUTER = """
from walked import inner

def trip():
    inner.one()
    inner.one()
    return sorted([2, 1], key=inner.two)

def here():
    pass

def fails():
    inner.fail()

def elsewhere(thread):
    inner.deeper()
    thread(target=inner.deeper).start()
"""
INNER = """
from walked import outer

def one():
    outer.here()

def two(x):
    return x

def fail():
    raise ValueError

def deeper(n=3):
    if n:
        deeper(n - 1)
"""


@pytest.fixture
def walk(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("walk")


@pytest.fixture
def walked(monkeypatch, tmp_path):
    """Two files, of which each calls the other."""
    folder = tmp_path / "walked"
    folder.mkdir()
    for name, text in {"__init__": "", "outer": OUTER, "inner": INNER}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder, importlib.import_module("walked.outer")
    for name in [name for name in sys.modules if name.partition(".")[0] == "walked"]:
        del sys.modules[name]


def test_calls_files_moves_and_depth(walk, walked):
    """trip -> one -> here, one -> here, two, two: the calls of `sorted` itself are nobody's."""
    folder, outer = walked
    assert walk.Walk(folder).follow(outer.trip).figures() == {
        "calls": 7,
        "files": 2,
        "moves": 5,  # outer | inner | outer | inner | outer | inner inner
        "depth": 2,
        "calls_by_file": {"outer.py": 3, "inner.py": 4},
    }


def test_what_is_elsewhere_is_not_counted(walk, walked):
    folder, outer = walked
    assert walk.Walk(folder / "other").follow(outer.trip).figures()["calls"] == 0
    assert sys.getprofile() is None


def test_a_trip_that_fails_leaves_no_profiler(walk, walked):
    folder, outer = walked
    one = walk.Walk(folder)
    with pytest.raises(ValueError):  # noqa: PT011 - it says nothing
        one.follow(outer.fails)
    assert sys.getprofile() is None
    assert threading.getprofile() is None
    assert one.figures()["depth"] == 1


def test_another_thread_counts_with_a_depth_of_its_own(walk, walked):
    folder, outer = walked
    started = []

    def thread(target):
        started.append(threading.Thread(target=target))
        return started[0]

    def trip():
        outer.elsewhere(thread)
        started[0].join()

    figures = walk.Walk(folder).follow(trip).figures()
    assert figures["calls"] == 1 + 4 + 4
    assert figures["depth"] == 4  # behind `elsewhere`; 3 in the thread


def test_questions_for_the_class_of_a_method_are_found(walk):
    assert walk.asked("isinstance(a, Exact)") == 1
    assert walk.asked("isinstance(a, (int, method.Direct)); isinstance(b, Direct | Layerwise)") == 2
    assert walk.asked("match a:\n case Perturbed(): pass\n case Anchored(method=m): pass\n case int(): pass") == 2
    assert walk.asked("isinstance(Exact(), int); issubclass(a, int); Direct(paper=p)") == 0
    assert all(isinstance(getattr(method, name), type) for name in walk.CLASSES)


def test_lines_of_the_core_are_counted_where_there_is_one(walk, tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "SOURCE", tmp_path)
    assert walk.source()["core_lines"] is None
    (tmp_path / "core" / "below").mkdir(parents=True)
    (tmp_path / "core" / "a.py").write_text('"""Text.\n\nMore."""\nisinstance(x, Exact)\n')
    (tmp_path / "core" / "below" / "b.py").write_text("x = 1\n")
    assert walk.source() == {"core_lines": 5, "isinstance": 1, "isinstance_by_file": {"core/a.py": 1}}


def test_the_trips_are_the_same_when_walked_again_and_are_written(walk, tmp_path, monkeypatch, capsys):
    out = tmp_path / "walk.json"
    monkeypatch.setattr(sys, "argv", ["walk.py", "--out", str(out)])
    walk.main()
    found, again = json.loads(out.read_text()), walk.measured()
    assert {name: found[name] for name in again} == again
    assert set(walk.GOALS) == set(again)
    for name in ("backward", "attach", "step"):
        assert 0 < found[name]["files"] <= found[name]["calls"]
        assert found[name]["moves"] < found[name]["calls"]
    assert found["environment"]["command"] == "python benchmarks/walk.py"
    said = capsys.readouterr().out
    assert f"| backward | {found['backward']['calls']} (at most 35" in said


def test_a_goal_that_is_missed_is_said(walk):
    found = {"backward": {"calls": 36, "files": 6, "moves": 0, "depth": 1}}
    assert walk.cell(found, "backward", "calls") == "36 (at most 35: missed)"
    assert walk.cell(found, "backward", "files") == "6 (at most 6)"
    assert walk.cell(found, "backward", "depth") == "1"
