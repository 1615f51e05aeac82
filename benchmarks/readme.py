"""Fill the tables of README.md from the table of methods, facts.json and results/. Run: python benchmarks/readme.py

A test runs this and compares, so that no figure in the README is typed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from skipback.lab import papers
from skipback.lab.listing import facts
from skipback.lab.reproduce import results
from skipback.lab.reproduce.lines import Agreement, shown
from skipback.measure.words import COLUMNS, word
from skipback.methods import TABLE, page

ROOT = Path(__file__).parents[1]


def table_of(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def methods() -> str:
    """One line for each method."""
    rows = []
    for name, title in TABLE.items():
        paper = page(name).PAPER
        rows.append([f"[`{name}`](src/skipback/methods/{name}.py)", title, f"[{paper.key}]({paper.url})"])
    return table_of(["method", "what it is", "paper"], rows)


def audited() -> str:
    """What the update of hidden blocks depends on, as `benchmarks/facts.py` measured it."""
    rows = [[f"`{name}`", *map(word, fact["audit"].values())] for name, fact in facts("methods", TABLE).items()]
    answers = table_of(["hidden blocks of", *COLUMNS.values()], rows)
    return f"{answers}\n\nMeasured by `skipback audit digits --methods all --depth 2 --width 32`."


def reproduced() -> str:
    """One line for each table of a paper of which results are kept."""
    rows = []
    for path in sorted((ROOT / "results/reproduce").glob("*.json")):
        kept = results.read(path)
        study = papers.study(kept["paper"])
        table = papers.table(study, kept["table"])
        found = shown(table, results.lines(table, results.kept(path, table)))
        verdicts = Counter(line.verdict for line in found if line.reached)
        page = f"[{kept['paper']} {kept['table']}](docs/seeds/{study.seed.name}.md)"
        agree = verdicts[Agreement.WITHIN] + verdicts[Agreement.DIGITS]
        numbers = [str(agree), str(verdicts[Agreement.OFF])]
        rows.append([page, table.title, f"{len(kept['rows'])} of {len(table.rows)}", _epochs(kept), *numbers])
    head = ["table", "what", "rows run", "epochs", "numbers within 2 std, or to the digit", "off"]
    return f"{table_of(head, rows)}\n\nEach file in results/reproduce has its commands, commits, machine and durations."


def _epochs(kept: dict) -> str:
    """`5 of 100`: trained, of those published, where all rows agree."""
    pairs = dict.fromkeys((row["epochs"], row["recipe"].get("epochs")) for row in kept["rows"])
    return ", ".join(
        (str(ran) if ran else "as published") if of in (ran, None) else f"{ran} of {of}" for ran, of in pairs
    )


def speed() -> str:
    """Steps, their memory and whole runs against plain backprop, and which targets were reached."""
    bench = json.loads((ROOT / "results/bench.json").read_text())
    whole = json.loads((ROOT / "results/mnist_speed.json").read_text())
    batches = [key for key in whole if key != "environment"]
    rows = [[name, *[_epoch(whole[batch][name]) for batch in batches]] for name in whole[batches[0]]]
    epochs = table_of(["one epoch of MNIST, 784-500-10, data and evaluation included", *batches], rows)
    machine = bench["environment"]
    made = f"Made by `{machine['command']}` and `{whole['environment']['command']}` on {machine['processor']}, "
    made += f"torch {machine['torch']}, one thread, load {machine['load'][0]}."
    targets = _targets([*bench["rows"], *_other_targets(whole)])
    return "\n\n".join([_steps(bench["speed"], "adam"), _memory(bench["memory"]), targets, epochs, made])


def _steps(speed: dict, optimizer: str) -> str:
    shapes = {name: of for name, of in speed.items() if optimizer in of}
    names = dict.fromkeys(v for of in shapes.values() for v in of[optimizer]["variants"])
    cells = {name: [of[optimizer]["variants"].get(name) for of in shapes.values()] for name in names}
    rows = [[name, *[f"{c['times_as_fast']:.2f} x" if c else "–" for c in row]] for name, row in cells.items()]
    return table_of(["one step, Adam; backprop has the fused one", *[of["line"] for of in shapes.values()]], rows)


def _memory(memory: dict) -> str:
    depths = list(dict.fromkeys(depth for of in memory["mib"].values() for depth in of))
    head = f"MiB beyond the weights, width {memory['width']}, batch {memory['batch']}"
    rows = [[way, *[f"{of[d]:.0f}" if d in of else "–" for d in depths]] for way, of in memory["mib"].items()]
    return table_of([head, *[f"{depth} layers" for depth in depths]], rows)


def _targets(rows: list[dict]) -> str:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    cells = [
        [r["what"], f"{r['target']:g}", number(r["measured"]), number(r.get("by_hand")), r["binds"] or "reached"]
        for r in rows
    ]
    return table_of(["target", "wanted", "measured", "written by hand", "reached, or what binds"], cells)


def _other_targets(whole: dict) -> list[dict]:
    """Those of many.py, wave.py and mnist.py."""
    many, wave = (json.loads((ROOT / f"results/{name}.json").read_text()) for name in ("many", "wave"))
    found = []
    for width, target in ((32, 1.6), (100, 1.3)):
        together = {m: many[f"784-{width}-10, {m}"]["together"]["times_as_fast"] for m in ("dfa", "f3")}
        least = min(together, key=together.get)
        found.append((f"10 seeds together, width {width}, {least}", target, together[least]))
    for width, batch, target in ((16, 16, 3.5), (32, 50, 1.8)):
        of = {k: v["times_as_fast"] for k, v in wave["rows"].items() if k.startswith(f"width {width}, batch {batch},")}
        least = min(of, key=of.get)
        found.append((f"wavefront, 20 layers, {least}", target, of[least]))
    batch = whole["batch 50"]
    for name, cell in batch.items():
        if name.endswith(("dfa", "f3", "drtp")):
            found.append((f"MNIST 784-500-10, batch 50, Adam, all included: {name}", 5, cell["times_as_fast"]))
    hand = next((cell["times_as_fast"] for name, cell in batch.items() if "by hand" in name), None)
    return [
        {
            "what": what,
            "target": target,
            "measured": value,
            "by_hand": hand if what.endswith(" f3") else None,
            "binds": None
            if value >= target
            else "kernels: products, tanh and Adam are the most of a step"
            if what.startswith("MNIST")
            else "the plain order, which is faster than when the target was set",
        }
        for what, target, value in found
    ]


def _epoch(cell: dict[str, float]) -> str:
    return f"{cell['times_as_fast']:.2f} x ({cell['median_ms'] / 1e3:.2f} s)"


def filled(text: str) -> str:
    """The README with its tables."""
    parts = {
        "methods": methods,
        "audit": audited,
        "reproduced": reproduced,
        "speed": speed,
    }
    for name, make in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
