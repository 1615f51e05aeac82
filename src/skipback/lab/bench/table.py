"""What the verb `bench` prints: tables of what bench.json holds, as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skipback.lab.bench.options import OPTIMIZERS


def text(result: dict[str, Any]) -> str:
    """The tables of speed, memory and energy, and why a cell of them is empty."""
    parts = [speeds(result["speed"], optimizer) for optimizer in OPTIMIZERS]
    parts.append(memory(result["memory"]) if result["memory"] else "")
    parts.append(energy(result["energy"]))
    parts.append("\n".join(refusals(result)))
    return "\n\n".join(filter(None, parts))


def speeds(speed: dict[str, Any], optimizer: str) -> str:
    """How many times as fast as plain backprop each variant is, by shape."""
    found = {shape: of[optimizer] for shape, of in speed.items() if optimizer in of}
    cells = {shape: {n: f"{v['times_as_fast']:.2f}" for n, v in of["variants"].items()} for shape, of in found.items()}
    empty = [name for of in found.values() for name in of.get("refused", {})]
    return _table(f"times as fast, {optimizer}", cells, empty)


def memory(found: dict[str, Any]) -> str:
    """MiB of each way, by depth."""
    head = f"MiB beyond weights, width {found['width']}, batch {found['batch']}"
    depths = dict.fromkeys(depth for of in found["mib"].values() for depth in of)
    cells = {f"depth {d}": {way: f"{of[d]:.1f}" for way, of in found["mib"].items() if d in of} for d in depths}
    return _table(head, cells, found.get("refused", {}))


def energy(found: dict[str, Any]) -> str:
    """Millijoules of a step, by shape, for each optimizer; or why there are none."""
    if "none" in found:
        return f"energy: not measured, {found['none']}"
    tables = []
    for optimizer in OPTIMIZERS:
        of = {shape: by[optimizer] for shape, by in found["joules_per_step"].items() if optimizer in by}
        cells = {shape: {name: f"{1e3 * j:.2f}" for name, j in variants.items()} for shape, variants in of.items()}
        tables.append(_table(f"millijoules per step, {optimizer} ({', '.join(found['counters'])})", cells))
    return "\n\n".join(filter(None, tables))


def refusals(result: dict[str, Any]) -> list[str]:
    """A line for each variant that could not be measured."""
    lines = [
        f"{name}, {shape}, {optimizer}: {why}"
        for shape, of in result["speed"].items()
        for optimizer in OPTIMIZERS
        for name, why in of.get(optimizer, {}).get("refused", {}).items()
    ]
    lost = (result["memory"] or {}).get("refused", {})
    return lines + [f"{way}, memory at depth {d}: {why}" for way, of in lost.items() for d, why in of.items()]


def _table(head: str, cells: dict[str, dict[str, str]], empty: Sequence[str] | dict[str, Any] = ()) -> str:
    """A table by column; "-" where a column has no such row."""
    names = dict.fromkeys([name for column in cells.values() for name in column] + list(empty))
    rows = [[head, *cells], *([name, *(column.get(name, "-") for column in cells.values())] for name in names)]
    return columns(rows) if names else ""


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]] for row in rows]
    return "\n".join("  ".join(line) for line in lines)
