"""Write docs/seeds: a page for each code base that skipback takes over. Run: python benchmarks/seeds.py

A page has the tables of the paper (recipe, published value, ours from results/reproduce), the deviations, and what
every flag and experiment of the original is here (benchmarks/seed_flags). Results files are renewed first: their runs
beside what the paper's file says now. A test does the same and compares.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipback.lab import papers
from skipback.lab.papers import Study, Table
from skipback.lab.records import atomic_write, to_json
from skipback.lab.reproduce import formats, results
from skipback.lab.reproduce.lines import shown

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "seeds"
FLAGS = Path(__file__).with_name("seed_flags")
RESULTS = ROOT / "results" / "reproduce"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "/") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells])


def page(study: Study) -> str:
    """The page of a code base."""
    told = tomllib.loads((FLAGS / f"{study.seed.name}.toml").read_text(encoding="utf-8"))
    return "\n\n".join([*head(study, told["intro"]), *flags(told), *deviations(study), *tables(study)]) + "\n"


def head(study: Study, intro: str) -> list[str]:
    """What it is, and where."""
    paper, seed = study.paper, study.seed
    at = f", read at commit {seed.commit}" if seed.commit else ""
    return [
        f"# {seed.name}",
        intro,
        f"{paper.authors}, *{paper.title}*, {paper.venue}, {paper.year}: {paper.url}. Code: {seed.url}{at}.",
        f"All tables: `skipback reproduce {study.key}`; one: `skipback reproduce {study.key} TABLE`; where each row\n"
        f"stands: `skipback reproduce {study.key} --list`. This page is written by `python benchmarks/seeds.py`.",
    ]


def flags(told: dict[str, Any]) -> Iterator[str]:
    """Every flag and experiment, and the command here."""
    for section in told["section"]:
        rows = [
            [f"`{theirs}`" if theirs.startswith("-") else theirs, code(ours), note]
            for theirs, ours, note in section["rows"]
        ]
        yield f"## {section['title']}"
        yield markdown(["there", "here", ""], rows)


def code(text: str) -> str:
    """In code type; a dash for what is not here."""
    return f"`{text}`" if text else "–"


def deviations(study: Study) -> Iterator[str]:
    """Numbered, with the tables that they are about."""
    yield "## What differs"
    yield "\n".join(f"{d.number}. {d.text}{_about(d.tables)}" for d in study.deviations)


def _about(names: tuple[str, ...]) -> str:
    return f" (Tables {', '.join(names)}.)" if names else ""


def tables(study: Study) -> Iterator[str]:
    """Each table: what was published, ours where it was run, and the recipes."""
    yield "## Tables"
    yield formats.NOTE.strip()
    for table in study.tables:
        yield f"### {table.name}: {table.title}"
        yield f"`skipback reproduce {study.key} {table.name}`; {_seeds(table)}"
        yield body(study, table)


def _seeds(table: Table) -> str:
    last = table.first_seed + table.seeds - 1
    need = sorted({row.needs for row in table.rows if row.needs})
    seeds = f"seed {last}" if table.seeds == 1 else f"seeds {table.first_seed} to {last}"
    return f"{seeds}, {_epochs(table)}{''.join(f'; some rows need {one}' for one in need)}."


def _epochs(table: Table) -> str:
    found = sorted({row.recipe["epochs"] for row in table.rows if "epochs" in row.recipe})
    return f"{' or '.join(map(str, found))} epochs" if found else "as its scripts have it"


def body(study: Study, table: Table) -> str:
    """What all rows share; then each with its own settings, what was published, and ours."""
    path = RESULTS / results.name(study, table)
    found = shown(table, results.lines(table, results.kept(path, table)))
    first = table.rows[0].recipe
    shared = {k: v for k, v in first.items() if all(k in row.recipe and row.recipe[k] == v for row in table.rows)}
    own = {row.label: {k: v for k, v in row.recipe.items() if k not in shared} for row in table.rows}
    cells = [[label, _settings(own.get(label, {})), *rest] for label, *rest in formats.cells(found)]
    lines = markdown([formats.HEAD[0], "its own settings", *formats.HEAD[1:]], cells)
    where = f"\n\nOurs: `results/reproduce/{path.name}`." if path.exists() else ""
    return f"All rows: {_settings(shared)}.\n\n{lines}{where}"


def _settings(recipe: dict[str, Any]) -> str:
    said = [key if value is True else f"{key} {_value(value)}" for key, value in recipe.items()]
    return f"`{', '.join(said)}`" if said else ""


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def renewed() -> Iterator[tuple[Path, str]]:
    """Each results file, and its content as it should be."""
    for path in sorted(RESULTS.glob("*.json")):
        kept = results.read(path)
        study = papers.study(kept["paper"])
        yield path, to_json(results.renewed(path, study, papers.table(study, kept["table"])))


if __name__ == "__main__":
    for path, text in renewed():
        atomic_write(path, text)
    PAGES.mkdir(parents=True, exist_ok=True)
    for study in papers.studies():
        (PAGES / f"{study.seed.name}.md").write_text(page(study), encoding="utf-8")
        print(f"written to docs/seeds/{study.seed.name}.md")
