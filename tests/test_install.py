"""What an install brings: torch alone for the library, the extra for the lab, exact pins for both README commands."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skipback import lab
from skipback.methods import TABLE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = ROOT / "src/skipback"
LEAN = ROOT / "tests/core/lean.py"
TORCH = {"torch", "typing_extensions"}
"""What the library may import: the second comes with the first."""


def imported(path):
    """The top names of what a file imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def foreign(paths):
    """What comes from neither Python nor this package."""
    return {name for path in paths for name in imported(path)} - sys.stdlib_module_names - {"skipback"}


def pinned():
    """The distributions of constraints.txt, and their versions."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin.specifier for pin in pins}


def pulled_in(texts):
    """All that these requirements have installed here, by name."""
    found, todo = {}, [Requirement(text) for text in texts]
    while todo:
        wanted = todo.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        try:
            requires = [] if key in found else distribution(key[0]).requires or []
        except PackageNotFoundError:
            continue
        found[key] = True
        more = [Requirement(text) for text in requires]
        todo += [r for r in more if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in {"", *key[1]})]
    return {name for name, _ in found}


# ----------------------------------------------------------------------------------------------- what is asked for


def test_the_library_imports_torch_alone():
    paths = [path for path in SOURCE.rglob("*.py") if SOURCE / "lab" not in path.parents]
    assert len(paths) > 100
    assert foreign(paths) <= TORCH
    assert [Requirement(text).name for text in PROJECT["dependencies"]] == ["torch"]


def test_the_lab_imports_what_its_extra_installs():
    extra = {Requirement(text).name for text in PROJECT["optional-dependencies"]["lab"]}
    assert extra == set(lab.NEEDS)
    optional = {"pynvml"}  # the extra `energy`; the bench goes on without
    assert foreign((SOURCE / "lab").rglob("*.py")) - TORCH - optional == set(lab.NEEDS.values())


def test_the_pins_are_a_closed_set():
    extras = PROJECT["optional-dependencies"]
    everything = pulled_in([*PROJECT["dependencies"], *extras["lab"], *extras["test"], *extras["dev"]])
    assert {"torch", "sympy", "pydantic-core", "pytest"} <= everything
    assert sorted(everything - set(pinned())) == [], "not pinned in constraints.txt"


def test_every_pin_is_exact_and_admitted():
    pins = pinned()
    assert all(re.fullmatch(r"==[^*,]+", str(pin)) for pin in pins.values())
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["lab"], *extras["test"], *extras["dev"]]:
        wanted = Requirement(text)
        version = str(pins[canonicalize_name(wanted.name)]).removeprefix("==")
        assert wanted.specifier.contains(version), f"constraints.txt pins {wanted.name} {version}, but {text} is asked"


# ------------------------------------------------------------------------------------------ what happens without it


def run(*command, **variables):
    """A command and what it prints, with this checkout's package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)


def printed(*command, **variables):
    """What a command prints that ends well."""
    done = run(*command, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_trains_without_what_the_lab_needs(tmp_path):
    """Every module and public name, every method, two ranks: see lean.py."""
    assert printed(sys.executable, LEAN, tmp_path).split() == ["trained:", *TABLE]


def test_the_command_says_in_one_line_what_it_needs():
    """Without site-packages nothing is installed."""
    done = run(sys.executable, "-S", "-m", "skipback", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'error: the command line needs {", ".join(lab.NEEDS)}: pip install "skipback[lab]"\n'


def test_python_m_is_the_command():
    assert "orthogonal" in printed(sys.executable, "-m", "skipback", "list", "draws")
    assert run(sys.executable, "-m", "skipback", "no-such-verb").returncode == 2


@pytest.mark.slow  # builds the wheel, and installs torch in an empty environment
@pytest.mark.timeout(600)
def test_the_wheel_trains_beside_torch_alone(tmp_path):
    printed(sys.executable, *"-m pip -q wheel --no-deps --wheel-dir".split(), tmp_path, ROOT)
    (wheel,) = tmp_path.glob("skipback-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.rpartition("/")[2] for name in names if "dist-info/licenses" in name} == {"LICENSE", "NOTICE"}

    printed(sys.executable, "-m", "venv", tmp_path / "venv")
    binaries, nowhere = tmp_path / "venv/bin", {"PYTHONPATH": ""}
    printed(binaries / "python", *"-m pip -q install -c".split(), ROOT / "constraints.txt", wheel, **nowhere)
    listed = json.loads(printed(binaries / "python", *"-m pip list --format json".split(), **nowhere))
    here = {canonicalize_name(one["name"]) for one in listed}
    assert here <= pulled_in(PROJECT["dependencies"]) | {"skipback", "pip"}
    assert "numpy" not in here

    assert printed(binaries / "python", LEAN, tmp_path, **nowhere).startswith("trained: ")
    refused = run(binaries / "skipback", "compare", **nowhere)
    assert refused.returncode == 2
    assert re.fullmatch(r'error: the command line needs .*numpy.*: pip install "skipback\[lab\]"\n', refused.stderr)
