"""How far a reader walks through the source for one pass, and how much of it there is. Run: python benchmarks/walk.py

Three trips on a dense network with one hidden layer, Linear-Tanh-Linear, found by `sys.setprofile`:

    backward    net(x); loss.backward() of DFA, warm
    attach      attach(net, dfa(), example=x)
    step        learner.step of F3 with Adam, warm

    calls       of functions in src/skipback; in Python 3.11 a comprehension is one, and a generator is called for
                each value
    files       of src/skipback that are entered
    moves       how often a call is in another file than the call before
    depth       how many functions of src/skipback wait for the one that runs, at most

And from the source alone: the lines of core/, docstrings included, and how often `isinstance` or a `case` asks for the
class of a method. What each should be at most is in GOALS. Written to results/walk.json.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import skipback as sb
from skipback.lab import machine
from skipback.lab.records import atomic_write, to_json

SOURCE = Path(sb.__file__).parent
CLASSES = ("Exact", "HeadOnly", "Direct", "Layerwise", "Perturbed", "Anchored")
GOALS = {
    "backward": {"calls": 35, "files": 6, "moves": 12},
    "attach": {"files": 15},
    "step": {"calls": 60},
    "source": {"core_lines": 1800, "isinstance": 8},
}
"""At most."""
COLUMNS = ("calls", "files", "moves", "depth")


# ----------------------------------------------------------------------------------------------------------- walking


class Walk:
    """The calls of a trip.

    Args:
        folder: of the source whose functions count.
    """

    def __init__(self, folder: Path) -> None:
        self.prefix = f"{folder}/"
        self.entered: list[str] = []
        self.depth = 0
        self._waiting: Counter[int] = Counter()  # by thread: a backward pass may have one of its own

    def follow(self, trip: Callable[[], object]) -> Walk:
        """Take the trip."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        try:
            trip()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return self

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event not in ("call", "return") or not name.startswith(self.prefix):
            return
        thread = threading.get_ident()
        if event == "call":
            self.entered.append(name.removeprefix(self.prefix))
            self.depth = max(self.depth, self._waiting[thread])
        self._waiting[thread] += 1 if event == "call" else -1

    def figures(self) -> dict[str, Any]:
        """What was counted; each file with its calls, in the order in which they are entered."""
        return {
            "calls": len(self.entered),
            "files": len(set(self.entered)),
            "moves": sum(before != now for before, now in itertools.pairwise(self.entered)),
            "depth": self.depth,
            "calls_by_file": dict(Counter(self.entered)),
        }


def trips() -> dict[str, Callable[[], object]]:
    """What is walked. Warm means: the third time."""
    torch.manual_seed(0)
    x, t, ids = torch.randn(50, 784), torch.randint(10, (50,)), torch.arange(50)
    taught, cold, stepped = network(), network(), network()
    sb.attach(taught, sb.dfa(), example=x, show=None)
    learner, update = sb.attach(stepped, sb.f3(memory=50), example=x, show=None), sb.update.adam(lr=1e-3)
    return {
        "backward": warm(lambda: F.cross_entropy(taught(x), t).backward()),
        "attach": lambda: sb.attach(cold, sb.dfa(), example=x, show=[].append),
        "step": warm(lambda: learner.step(x, t, loss=F.cross_entropy, update=update, ids=ids)),
    }


def network() -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(784, 500), nn.Tanh(), nn.Linear(500, 10))


def warm(trip: Callable[[], object]) -> Callable[[], object]:
    """The trip, taken twice."""
    trip(), trip()
    return trip


# ------------------------------------------------------------------------------------------------------- the source


def source() -> dict[str, Any]:
    """What the files say without being run."""
    where = {str(path.relative_to(SOURCE)): asked(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    core = SOURCE / "core"
    return {
        "core_lines": sum(lines(path) for path in core.rglob("*.py")) if core.is_dir() else None,
        "isinstance": sum(where.values()),
        "isinstance_by_file": {name: count for name, count in where.items() if count},
    }


def lines(path: Path) -> int:
    """All lines of a file."""
    return len(path.read_text().splitlines())


def asked(code: str) -> int:
    """How often code asks for the class of a method: calls of `isinstance` and patterns of `match`."""
    return sum(any(name in CLASSES for name in names(kinds)) for kinds in questions(ast.parse(code)))


def questions(tree: ast.AST) -> Iterator[ast.AST]:
    """The classes of each question."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield node.args[1]
        elif isinstance(node, ast.MatchClass):
            yield node.cls


def names(kinds: ast.AST) -> Iterator[str]:
    """The last part of every name in it: `Exact`, `method.Exact`, a tuple or a union of them."""
    for node in ast.walk(kinds):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


# -------------------------------------------------------------------------------------------------------- the result


def measured() -> dict[str, dict[str, Any]]:
    """All figures."""
    walked = {name: Walk(SOURCE).follow(trip).figures() for name, trip in trips().items()}
    return {**walked, "source": source()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures, each with its goal where it has one."""
    rows = [f"| {name} | {' | '.join(cell(found, name, key) for key in COLUMNS)} |" for name in list(found)[:-1]]
    said = [f"{key}: {cell(found, 'source', key)}" for key in GOALS["source"]]
    return "\n".join([f"| trip | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|", *rows, "", *said])


def cell(found: dict[str, dict[str, Any]], name: str, key: str) -> str:
    """One figure."""
    value, goal = found[name][key], GOALS[name].get(key)
    if goal is None or value is None:
        return "–" if value is None else str(value)
    return f"{value} (at most {goal}{'' if value <= goal else ': missed'})"


def main() -> None:
    """Walk, print, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/walk.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured()
    environment = machine.describe(torch.device("cpu"), "python benchmarks/walk.py")
    atomic_write(options.out, to_json({"environment": environment, "goals": GOALS, **found}))
    print(f"{table(found)}\n\nwritten to {options.out}")


if __name__ == "__main__":
    main()
