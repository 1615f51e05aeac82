"""What `skipback list` says, found out and written to src/skipback/lab/facts.json. Run: python benchmarks/facts.py

The list may not import torch, so all that needs it is found here: what teaching needs (from a method's record), what
the update of hidden blocks depends on (measured), and how many of the method's numbers in results/reproduce agree with
their papers. Nothing is typed by hand, and a new line in a table needs no edit here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from skipback import draws
from skipback.core.feedback import Sees
from skipback.core.method import Direct, HeadOnly, Method
from skipback.core.records import Needs
from skipback.lab import choices, losses
from skipback.lab.audit import of_hidden
from skipback.lab.listing import FACTS
from skipback.lab.records import atomic_write
from skipback.lab.reproduce import results
from skipback.lab.reproduce.lines import Agreement
from skipback.methods import TABLE, page
from skipback.routes.perturbed import Perturbed
from skipback.signals import OutputError, Signal

RESULTS = Path(__file__).parents[1] / "results" / "reproduce"


def found() -> dict[str, Any]:
    """All facts."""
    counted = compared()
    return {
        "methods": {name: of_method(name, counted.get(name, {})) for name in TABLE},
        "draws": {name: of_draw(name) for name in choices.DRAWS},
        "signals": {name: of_signal(signal) for name, signal in signals().items()},
    }


def of_method(name: str, counted: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The facts of a method: its paper, its needs, its audit, its status."""
    method, paper = record(name), page(name).PAPER
    written = {key: value for key, value in dataclasses.asdict(paper).items() if key != "letter"}  # the key has it
    return {
        "paper": {"key": paper.key, **written},
        "needs": needs(method),
        "learns": getattr(method, "learns", ""),
        "audit": of_hidden(name),
        "status": "reproduced" if any(count["within"] for count in counted.values()) else "implemented",
        "compared": counted,
    }


def record(name: str) -> Method:
    """The method, in the library's convention, as `skipback train --loss ce` makes it."""
    return choices.method(name, as_published=False, feedback=None, signal=None, loss=losses.LOSSES["ce"], samples=1)


def needs(method: Method) -> list[str]:
    """What teaching the hidden blocks needs: the output (or the error there), targets, ids, forward mode."""
    if isinstance(method, HeadOnly):
        return []
    if isinstance(method, Direct):
        forward = bool(method.feedback.sees & (Sees.JACOBIAN | Sees.RELAY))
        return [*looks_at(method.signal), *(["forward mode"] if forward else [])]
    if isinstance(method, Perturbed):
        # a local loss is a closed form here: linear, so its directional derivative needs no forward mode
        return ["targets"] if method.estimate.local else ["output", "forward mode"]
    return ["output"]


def looks_at(signal: Signal) -> list[str]:
    """What a signal needs, in words. The error is known when the output is."""
    words = {"output": Needs.OUTPUT | Needs.GRADIENT, "targets": Needs.TARGET, "ids": Needs.IDS}
    return [word for word, flags in words.items() if signal.needs & flags]


def compared() -> dict[str, dict[str, dict[str, int]]]:
    """By method and paper: of how many numbers results/reproduce says whether they come out, and how many do."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        kept = results.read(path)
        for row in kept["rows"]:
            verdicts = [
                line["verdict"]
                for line in row["lines"]
                if line["verdict"] in (Agreement.DIGITS, Agreement.WITHIN, Agreement.OFF)
            ]
            if verdicts:
                count = counts.setdefault(row["method"], {}).setdefault(kept["paper"], {"rows": 0, "within": 0})
                count["rows"] += len(verdicts)
                count["within"] += len(verdicts) - verdicts.count(Agreement.OFF)
    return counts


def of_draw(name: str) -> str:
    """The first sentence of a draw's documentation, with what the name fixes."""
    form = choices.DRAWS[name]
    text = inspect.getdoc(getattr(draws, form.function)) or ""
    fixed = ", ".join(f"{key} = {_short(value)}" for key, value in form.options.items())
    return " ".join(text.split("\n\n")[0].split()) + (f" Here {fixed}." if fixed else "")


def _short(value: Any) -> str:
    return f"({', '.join(map(_short, value))})" if isinstance(value, tuple) else f"{value:g}"


def signals() -> dict[str, Signal]:
    """The signals that a name stands for, of any loss and link."""
    made: dict[str, Signal] = page("f3").signals(memory=1, link=link, loss=loss)
    return {name: made[name] for name in choices.SIGNALS}


def link(y: Tensor) -> Tensor:
    """Stands for the link that goes with the loss."""
    return y


def loss(z: Tensor, t: Tensor) -> Tensor:
    """Stands for the loss of the network."""
    return z.sum()


def of_signal(signal: Signal) -> dict[str, Any]:
    """What it needs, when it is known, and what it is made of."""
    return {
        "needs": looks_at(signal),
        "known": "early" if signal.needs.early else "late",
        "made_of": made_of(signal),
    }


def made_of(part: Any) -> str:
    """The records and functions that a signal is made of, as they nest: Masked(Delayed(OutputError(softmax)))."""
    if not dataclasses.is_dataclass(part):
        return str(part.__name__)
    values = [(getattr(part, field.name), field.default) for field in dataclasses.fields(part)]
    parts = [value for value, usual in values if isinstance(value, Signal) or (callable(value) and value != usual)]
    if isinstance(part, OutputError):
        parts = [part.link]
    inner = ", ".join(map(made_of, parts))
    name = type(part).__name__
    return inner if name.startswith("_") else f"{name}({inner})" if inner else name


def text() -> str:
    """The file."""
    return json.dumps(found(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    atomic_write(FACTS, text())
    print(f"written to {FACTS}")
