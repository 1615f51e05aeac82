"""What `skipback list` shows, without torch: tables of names, and facts.json, which `benchmarks/facts.py` writes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from skipback.lab import choices, data, nets, spellings
from skipback.lab.errors import LabError
from skipback.lab.nets import facts as net_facts
from skipback.methods import TABLE as METHODS

FACTS = Path(__file__).with_name("facts.json")
"""What is known of each method, draw and signal."""
WIDTH = 100
"""Columns of a terminal; only a last column is folded, so a name stays a name when it is copied from here."""

Entry = dict[str, Any]


def facts(kind: str, names: Iterable[str]) -> dict[str, Any]:
    """What is known of these methods, draws or signals, by name.

    Raises:
        LabError: facts.json is older than the table.
    """
    known = json.loads(FACTS.read_text(encoding="utf-8"))[kind]
    if missing := [name for name in names if name not in known]:
        raise LabError(f"nothing is known of {', '.join(missing)}: run `python benchmarks/facts.py`")
    return {name: known[name] for name in names}


def methods() -> list[Entry]:
    """Each method with its paper, its needs, its audit and its status."""
    return [
        {"name": name, "title": METHODS[name], **fact, "paper": fact["paper"]["key"], "year": fact["paper"]["year"]}
        for name, fact in facts("methods", METHODS).items()
    ]


def datasets() -> list[Entry]:
    """Each data set with its sizes and tasks."""
    return [
        {"name": c.name, "input": list(c.shape), "train": c.train, "test": c.test}
        | {"tasks": list(c.tasks), "title": c.title}
        for c in data.cards()
    ]


def networks() -> list[Entry]:
    """Each network with what it takes, its parameters, its ports and its feedback, at the sizes of its source."""
    kept = net_facts.kept()
    return [{"name": name, "title": c.line, "takes": c.takes, **kept[name]} for name, c in nets.CARDS.items()]


def draws() -> list[Entry]:
    """Each draw of the feedback, with an example of its parameters."""
    return [
        {"name": name, "title": f"{title} As {form.example}." if (form := choices.DRAWS[name]).takes else title}
        for name, title in facts("draws", choices.DRAWS).items()
    ]


def signals() -> list[Entry]:
    """Each signal of F3."""
    return [{"name": name, **fact} for name, fact in facts("signals", choices.SIGNALS).items()]


def papers() -> list[Entry]:
    """Each paper once."""
    found = {fact["paper"]["url"]: fact["paper"] for fact in facts("methods", METHODS).values()}
    keys = {"name": "key", "url": "url", "title": "title", "authors": "authors", "venue": "venue", "year": "year"}
    return [{ours: paper[key] for ours, key in keys.items()} for paper in found.values()]


TABLES: dict[str, tuple[str, Callable[[], list[Entry]]]] = {
    "methods": ("methods", methods),
    "data": ("datasets", datasets),
    "nets": ("nets", networks),
    "draws": ("draws", draws),
    "signals": ("signals", signals),
    "papers": ("papers", papers),
}
"""What can be asked for, under which key machines find it, and the rows."""


def tables(which: Iterable[str] = ()) -> dict[str, list[Entry]]:
    """The tables that were asked for, or all, as machines read them.

    Raises:
        LabError: there is no such table.
    """
    chosen = [spellings.check("list", name, list(TABLES)) for name in which] or list(TABLES)
    return {TABLES[name][0]: TABLES[name][1]() for name in chosen}


def text(found: Mapping[str, list[Entry]]) -> str:
    """The tables, as people read them."""
    return "\n".join(SHOWN[key](rows) for key, rows in found.items())


def _methods(rows: list[Entry]) -> str:
    names = table("methods", ["name", "what it is", "paper"], [[r["name"], r["title"], r["paper"]] for r in rows])
    head = ["name", "needs", "weight\ntransport", "update\nlock", "forward\nlock", "status (numbers that agree)"]
    audited = ("weight_transport", "update_lock", "forward_lock")
    about = [[r["name"], _words(r["needs"]), *(_yes(r["audit"][key]) for key in audited), _status(r)] for r in rows]
    return f"{names}\n{table('what teaching the hidden blocks needs, and waits for', head, about)}\n{LEGEND}"


LEGEND = """\
  needs             output: of the network, or the error there; targets, ids: travel with the input
  weight transport  measured: the weights of deeper blocks go into the update
  update lock       measured: it waits for the backward pass of deeper blocks
  forward lock      measured: it waits for the output; `skipback audit` measures it again
  reproduced        m of n numbers are within 2 std of those of the papers named: results/reproduce
"""


def _status(row: Entry) -> str:
    """`reproduced 3/3 bacho2024, flugel2024`: of how many numbers, of which papers."""
    counts = row["compared"]
    if not counts:
        return str(row["status"])
    within, total = (sum(count[key] for count in counts.values()) for key in ("within", "rows"))
    return f"{row['status']} {within}/{total} {', '.join(counts)}"


def _yes(answer: bool | None) -> str:
    return "-" if answer is None else "yes" if answer else "no"


def _words(names: list[str]) -> str:
    return ", ".join(names) or "-"


def _datasets(rows: list[Entry]) -> str:
    names = table("data sets", ["name", "what it is"], [[r["name"], r["title"]] for r in rows])
    about = []
    for r in rows:
        shape = " x ".join(map(str, r["input"])) or "tokens"
        about.append([r["name"], shape, f"{r['train']:,}", f"{r['test']:,}", _words(r["tasks"])])
    return f"{names}\n{table('sizes of the data sets', ['name', 'input', 'train', 'test', 'tasks'], about)}"


def _titled(title: str) -> Callable[[list[Entry]], str]:
    return lambda rows: table(title, ["name", "what it is"], [[r["name"], r["title"]] for r in rows])


def _nets(rows: list[Entry]) -> str:
    names = table("nets", ["name", "what it is"], [[r["name"], r["title"]] for r in rows])
    counted = {r["name"]: r for r in net_facts.rows()}
    head = ["name", "input", "outputs", "parameters", "feedback", "ports"]
    about = [[counted[r["name"]][key].replace(" x ", "x") for key in head] for r in rows]  # else 2 x 2048 is folded
    return f"{names}\n{table('sizes of the nets, as their sources have them', head, about)}\n{SIZES}"


SIZES = """\
  ports     numbers per sample at each port, from the input on; 6x100: six such ports
  feedback  numbers in all feedback matrices of a direct method: outputs times the sum of the ports
"""


def _signals(rows: list[Entry]) -> str:
    about = [[r["name"], _words(r["needs"]), r["known"], r["made_of"]] for r in rows]
    return table("signals (of f3; early: known before the output)", ["name", "needs", "known", "made of"], about)


def _papers(rows: list[Entry]) -> str:
    return table("papers", ["key", "cite"], [[r["name"], _cite(r)] for r in rows])


def _cite(row: Entry) -> str:
    title = row["title"] if row["title"].endswith(("?", "!")) else f"{row['title']}."
    when = "" if str(row["year"]) in row["venue"] else f", {row['year']}"
    return f"{row['authors']}. {title} {row['venue']}{when}. {row['url']}"


SHOWN: dict[str, Callable[[list[Entry]], str]] = {
    "methods": _methods,
    "datasets": _datasets,
    "nets": _nets,
    "draws": _titled("draws (of feedback B[c, j]: output c, unit j; C outputs, D units)"),
    "signals": _signals,
    "papers": _papers,
}


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """Aligned columns; the last one is folded at `WIDTH`, or at 20 columns of its own."""
    cells = [*_lines(head), *rows]
    *widths, _ = [max(map(len, column)) for column in zip(*cells, strict=True)]
    start = 2 + sum(widths) + 2 * len(widths)
    fold = textwrap.TextWrapper(max(WIDTH - start, 20), break_long_words=False, break_on_hyphens=False)
    lines = []
    for *cut, last in cells:
        front = "".join(cell.ljust(width + 2) for cell, width in zip(cut, widths, strict=True))
        first, *more = fold.wrap(last) or [""]
        lines += [f"  {front}{first}".rstrip(), *(" " * start + line for line in more)]
    return "\n".join([title, *lines, ""])


def _lines(head: list[str]) -> list[list[str]]:
    """A head in as many lines as its highest cell, all standing on the last line."""
    parts = [cell.split("\n") for cell in head]
    height = max(map(len, parts))
    return [list(line) for line in zip(*([""] * (height - len(part)) + part for part in parts), strict=True)]
