"""Fill the tables of README.md from the table of methods, facts.json and results/. Run: python benchmarks/readme.py

A test runs this and compares, so that no figure in the README is typed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from skipback.lab.listing import facts
from skipback.measure.words import COLUMNS, word
from skipback.methods import TABLE, page

ROOT = Path(__file__).parents[1]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def methods() -> str:
    """One line for each method."""
    rows = []
    for name, title in TABLE.items():
        paper = page(name).PAPER
        rows.append([f"[`{name}`](src/skipback/methods/{name}.py)", title, f"[{paper.key}]({paper.url})"])
    return table(["method", "what it is", "paper"], rows)


def audited() -> str:
    """What the update of hidden blocks depends on, as `benchmarks/facts.py` measured it."""
    rows = [[f"`{name}`", *map(word, fact["audit"].values())] for name, fact in facts("methods", TABLE).items()]
    answers = table(["hidden blocks of", *COLUMNS.values()], rows)
    return f"{answers}\n\nMeasured by `skipback audit digits --methods all --depth 2 --width 32`."


def published() -> str:
    """Our mean beside the F3 code's value."""
    result = json.loads((ROOT / "results/published.json").read_text())
    rows = []
    for row in result["rows"]:
        unit, digits = ("%", 2) if row["name"].startswith("MNIST") else ("MSE", 4)
        ours = f"{row['mean']:.{digits}f} ± {row['std']:.{digits}f} {unit} ({len(row['ours'])})"
        verdict = "yes" if row["within"] else "no"
        rows.append([row["name"], f"{row['reference']:.{digits}f}", ours, f"{row['difference']:+.{digits}f}", verdict])
    spread, exact = result["shallow_10_seeds"], result["shallow_seed_1_by_epoch"]
    note = (
        f"The reference is one seed of a noisy run for `shallow`: over {len(spread['ours'])} seeds ours is "
        f"{spread['mean']:.2f} ± {spread['std']:.2f} %, and with the reference's own seed and batch order it gives "
        f"{exact['ours']} after epochs 1 to 5, against {exact['reference']}."
    )
    head = ["run", "F3 code, one seed", "ours, mean ± std (seeds)", "difference", "within 0.6 % / 0.01"]
    made = f"`{result['environment']['command']}`, reference: {result['source']}."
    return f"{table(head, rows)}\n\n{note}\n\nMade by {made}"


def learned() -> str:
    """Accuracy and cosines of learned feedback, beside the FDFA code's."""
    result = json.loads((ROOT / "results/fdfa.json").read_text())
    rows = []
    for row in result["rows"]:
        ours = f"{row['mean']:.2f} ± {row['std']:.2f} % ({len(row['ours'])})"
        cosines = [" / ".join(f"{c:.3f}" for c in row[key]) or "–" for key in ("cosines_reference", "cosines")]
        rows.append([row["name"], f"{row['reference']:.2f}", ours, *cosines])
    head = ["after 2 epochs", "FDFA code, one seed", "ours, mean ± std (seeds)", "cosines there", "cosines here"]
    made = f"`{result['environment']['command']}`, reference: {result['source']}."
    return f"{table(head, rows)}\n\nMade by {made}"


def speed() -> str:
    """Steps, their memory and whole runs against plain backprop, and which targets were reached."""
    bench = json.loads((ROOT / "results/bench.json").read_text())
    whole = json.loads((ROOT / "results/mnist_speed.json").read_text())
    batches = [key for key in whole if key != "environment"]
    rows = [[name, *[_epoch(whole[batch][name]) for batch in batches]] for name in whole[batches[0]]]
    epochs = table(["one epoch of MNIST, 784-500-10, data and evaluation included", *batches], rows)
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
    return table(["one step, Adam; backprop has the fused one", *[of["line"] for of in shapes.values()]], rows)


def _memory(memory: dict) -> str:
    depths = list(dict.fromkeys(depth for of in memory["mib"].values() for depth in of))
    head = f"MiB beyond the weights, width {memory['width']}, batch {memory['batch']}"
    rows = [[way, *[f"{of[d]:.0f}" if d in of else "–" for d in depths]] for way, of in memory["mib"].items()]
    return table([head, *[f"{depth} layers" for depth in depths]], rows)


def _targets(rows: list[dict]) -> str:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    cells = [
        [r["what"], f"{r['target']:g}", number(r["measured"]), number(r.get("by_hand")), r["binds"] or "reached"]
        for r in rows
    ]
    return table(["target", "wanted", "measured", "written by hand", "reached, or what binds"], cells)


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


def classics() -> str:
    """The last epoch of every row of two classic code bases, beside ours."""
    result = json.loads((ROOT / "results/classics.json").read_text())
    rows = []
    for row in result["rows"]:
        epoch = max(row["reference"], key=int)
        spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
        cosines = [" / ".join(f"{c:.3f}" for c in row[key]) or "–" for key in ("cosines_reference", "cosines")]
        rows.append([
            f"{row['code']}: {row['name']}", f"{row['score']}, epoch {epoch}", f"{row['reference'][epoch]:.2f}",
            f"{row['mean'][epoch]:.2f}{spread} ({row['n']})", f"{row['difference'][epoch]:+.2f}",
            "yes" if row["within"] else "no", *cosines,
        ])  # fmt: skip
    head = ["run", "score", "reference, one run", "ours, mean ± std (seeds)", "difference",
            f"within {result['tolerance']}", "cosines there", "cosines here"]  # fmt: skip
    return f"{table(head, rows)}\n\nMade by `{result['environment']['command']}`."


def short() -> str:
    """One line for each data set and network: the score after a few epochs, method by method."""
    result, grouped = json.loads((ROOT / "results/runs.json").read_text()), dict[tuple[str, ...], dict[str, dict]]()
    for row in result["rows"]:
        key = row["data"], row["net"], row["score"].removeprefix("test_"), str(row["epochs"])
        grouped.setdefault(key, {})[row["method"]] = row
    methods = ["bp", "dfa", "drtp", "f3", "shallow"]
    rows = [
        [
            *key,
            f"{next(iter(runs.values()))['before']:.4g}",
            *(f"{runs[m]['after']:.4g}" if m in runs else "–" for m in methods),
        ]
        for key, runs in grouped.items()
    ]
    head = ["data", "net", "score", "epochs", "before", *methods]
    return f"{table(head, rows)}\n\nMade by `{result['command']}`; each row of results/runs.json has its own command."


def filled(text: str) -> str:
    """The README with its tables."""
    parts = {
        "methods": methods,
        "audit": audited,
        "published": published,
        "classics": classics,
        "learned": learned,
        "short": short,
        "speed": speed,
    }
    for name, make in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
