"""Names: one thing per word. No class and no type alias of the library has the name of another one."""

import ast
import importlib
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import skipback
from skipback._moved import MOVED

ROOT = Path(skipback.__file__).parent
OLD = {
    "skipback.transport": {"Signed": "SignSymmetric"},
    "skipback.update": {"Group": "ParameterGroup", "Make": "MakeOptimizer"},
    "skipback.lab.data.prepare": {"Chain": "Compose"},
    "skipback.lab.data.splits": {"FeedbackTensors": "SplitRows", "Random": "Shuffled"},
}


def defined(source):
    """The classes, and the capitalised names that are given a value (aliases, type variables), at a module's top."""
    top = ast.parse(source).body
    for node in [*top, *(inner for outer in top if isinstance(outer, ast.If) for inner in outer.body)]:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (t.id for t in targets if isinstance(t, ast.Name) and t.id.lstrip("_")[:1].isupper())


def repeated(sources):
    """The names that several modules define, and where; constants (ALL_CAPS) belong to their module."""
    places = defaultdict(list)
    for place, source in sources.items():
        for name in defined(source):
            if not name.isupper():
                places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_classes_or_aliases_share_a_name():
    # the pages of lab/nets are independent of each other, as papers are
    files = [path for path in ROOT.rglob("*.py") if ROOT / "lab" / "nets" not in path.parents]
    assert len(files) > 200
    assert repeated({str(path.relative_to(ROOT)): path.read_text() for path in files}) == {}


def test_a_repeated_name_is_found():
    sources = {"a.py": "class Call: ...\nLIMIT = 1", "b.py": "Call = int\nLIMIT = 2", "c.py": "def call(): ..."}
    assert repeated(sources) == {"Call": ["a.py", "b.py"]}


@pytest.mark.parametrize(("module", "old", "new"), [(m, *pair) for m, names in OLD.items() for pair in names.items()])
def test_old_names_work_and_say_the_new_one(module, old, new):
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now called {new}"):
        found = getattr(home, old)
    assert found is getattr(home, new)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_old_modules_are_found_and_say_where_they_are(old, new, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved: import {new}"):
        found = importlib.import_module(old)
    home = vars(importlib.import_module(new))
    assert old != new
    assert {name: vars(found)[name] for name in home if name[0] != "_"} == {n: home[n] for n in home if n[0] != "_"}


def test_other_names_are_missing_as_ever():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        skipback.transport.Nothing  # noqa: B018
