"""The README is true: its code runs as it stands, its tables are those of results/, its commands exist."""

import importlib
import re
from pathlib import Path

import pytest

from skipback.lab.cli import VERBS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_python_blocks_run_one_after_the_other(capsys):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(block, names)
    out = capsys.readouterr().out
    assert "exact gradient" in out
    assert "Alignment(port='1'" in out


def test_tables_are_those_of_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    readme = importlib.import_module("readme")
    assert readme.filled(TEXT) == TEXT, "run python benchmarks/readme.py"


@pytest.mark.parametrize("command", re.findall(r"^skipback (\w+)", TEXT, flags=re.MULTILINE))
def test_commands_exist(command):
    assert command in VERBS


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_targets_of_make_exist(name):
    asked = set(re.findall(r"(?:^|`|; )make (\w+)", (ROOT / name).read_text(), flags=re.MULTILINE))
    assert "test" in asked
    assert asked <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_paths_exist():
    for path in re.findall(r"`((?:core|routes|forward|step|engine|methods|lab|docs)/[\w/]+\.(?:py|md))`", TEXT):
        assert (ROOT / path).exists() or (ROOT / "src/skipback" / path).exists(), path
