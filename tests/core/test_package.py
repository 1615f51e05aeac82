"""The package: names, what importing costs, and the table of methods."""

import ast
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import skipback
from skipback import methods, papers
from skipback.core.method import Method, Paper

FOLDER = Path(methods.__file__).parent


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("module", ["skipback", "skipback.methods"])
def test_importing_does_not_import_torch(module):
    assert run(f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)") == "False False"


def test_the_table_of_methods_is_read_without_torch():
    code = "import sys, skipback.methods as m; print(len(m.TABLE), 'torch' in sys.modules)"
    assert run(code) == f"{len(methods.TABLE)} False"


def test_the_core_never_imports_the_lab():
    code = (
        "import sys, skipback\n"
        "for name in skipback.__all__: getattr(skipback, name)\n"
        "print([m for m in sys.modules if m.startswith('skipback.lab')])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("name", skipback.__all__)
def test_every_public_name_resolves(name):
    value = getattr(skipback, name)
    assert isinstance(value, types.ModuleType) or callable(value) or name == "Method"


def test_public_names_are_sorted_listed_and_typed():
    """Type checkers read the block under TYPE_CHECKING: a new method may be missing there, and nothing else."""
    assert skipback.__all__ == sorted(skipback.__all__)
    assert dir(skipback) == skipback.__all__
    tree = ast.parse(Path(skipback.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    imported = [alias.name for node in block.body for alias in node.names]
    assert set(imported) | set(methods.TABLE) == set(skipback.__all__)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'skipback' has no attribute 'dfaa'"):
        skipback.dfaa  # noqa: B018


# ------------------------------------------------------------------------------------------------- pages of methods


def test_one_page_per_line_of_the_table():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert files == set(methods.TABLE)
    assert all(methods.TABLE.values())


@pytest.mark.parametrize("name", methods.TABLE)
def test_a_page_has_its_constructors_and_its_paper(name):
    page = methods.page(name)
    assert isinstance(page.PAPER, Paper)
    for constructor in (getattr(page, name), page.as_published):
        parameters = inspect.signature(constructor).parameters
        required = {p.name for p in parameters.values() if p.default is p.empty}
        assert required <= {"memory"}
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
        method = constructor(**{"memory": 3} if required else {})
        assert isinstance(method, Method)
        assert method.paper is page.PAPER
        assert constructor.__doc__
    assert getattr(skipback, name) is getattr(page, name)
    assert name in skipback.__all__


@pytest.mark.parametrize("name", methods.TABLE)
def test_a_page_tells_the_equation_the_paper_and_the_deviations(name):
    text = methods.page(name).__doc__
    assert "\n    " in text  # an equation, indented
    assert "Paper: " in text
    assert "Deviations" in text


@pytest.mark.parametrize("name", methods.TABLE)
def test_methods_never_import_each_other_nor_the_engine(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [m for m in imported if m.startswith(("skipback.methods", "skipback.engine", "skipback.lab"))]


@pytest.mark.parametrize("name", methods.TABLE)
def test_papers_are_complete_and_have_a_key(name):
    paper = methods.page(name).PAPER
    assert paper.title
    assert paper.authors
    assert paper.venue
    assert 1900 < paper.year < 2100
    assert paper.url.startswith("https://")
    assert re.fullmatch(rf"[a-z-]+{paper.year}[b-z]?", paper.key)
    assert paper.key.islower()
    assert paper.key.isascii()


def test_citation_keys():
    keys = {name: methods.page(name).PAPER.key for name in methods.TABLE}
    assert keys["dfa"] == "nokland2016"
    assert keys["drtp"] == keys["sdfa"] == "frenkel2021"
    assert keys["bp"] == "rumelhart1986"
    assert keys["f3"] == "flugel2024"
    assert (keys["tiny_dfa"], keys["ternary_dfa"]) == ("launay2020", "launay2020b")


def test_no_two_papers_share_a_citation_key_nor_an_address():
    """In a BibTeX file the second of two equal keys is lost."""
    pages = [papers, *map(methods.page, methods.TABLE)]
    known = {value for module in pages for value in vars(module).values() if isinstance(value, Paper)}
    assert len(known) > 15
    assert len({paper.key for paper in known}) == len({paper.url for paper in known}) == len(known)


def test_methods_are_records():
    """Frozen, comparable, printable: what was trained can be written down."""
    assert skipback.dfa() == skipback.dfa()
    assert skipback.dfa() != skipback.sdfa()
    assert "LossGradient" in repr(skipback.dfa())
    with pytest.raises(AttributeError):
        skipback.dfa().signal = None  # type: ignore[misc]
