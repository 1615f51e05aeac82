"""The pages of docs/seeds are what benchmarks/seeds.py makes, and what they say to type exists."""

import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from skipback.lab import cli, data, papers
from skipback.lab.config import Run
from skipback.lab.data_cli import DataOptions
from skipback.lab.reproduce.verb import Reproduce

ROOT = Path(__file__).parents[1]
STUDIES = papers.studies()


@pytest.fixture(scope="module")
def generator():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("seeds")


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.seed.name)
def test_pages_are_what_is_made_now(generator, study):
    kept = (generator.PAGES / f"{study.seed.name}.md").read_text(encoding="utf-8")
    assert kept == generator.page(study), "run python benchmarks/seeds.py"


def test_results_files_say_what_their_papers_say_now(generator):
    found = list(generator.renewed())
    assert len(found) >= 5
    for path, text in found:
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(text), "run python benchmarks/seeds.py"
        assert json.loads(text)["rows"], f"{path.name}: no row of it has the recipe that the paper has now"


def test_there_is_a_page_for_each_code_base_and_no_other(generator):
    names = {study.seed.name for study in STUDIES}
    assert {path.stem for path in generator.PAGES.glob("*.md")} == names
    assert {path.stem for path in generator.FLAGS.glob("*.toml")} == names


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.seed.name)
def test_every_table_and_row_is_on_its_page(generator, study):
    text = (generator.PAGES / f"{study.seed.name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^### (\S+): ", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(found) == [table.name for table in study.tables]
    for table in study.tables:
        assert [row.label for row in table.rows if f"| {row.label.replace('|', '/')} |" not in found[table.name]] == []


def said(name):
    """What the flag table of a code base tells to type here."""
    told = tomllib.loads((ROOT / "benchmarks/seed_flags" / f"{name}.toml").read_text(encoding="utf-8"))
    return [ours for section in told["section"] for _, ours, _ in section["rows"]]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.seed.name)
def test_flags_and_verbs_that_are_told_exist(study):
    verbs = (Run, cli.Train, cli.Compare, cli.Report, cli.Stacked, Reproduce, DataOptions)
    fields = {name for model in verbs for name in model.model_fields} | {"no_bias"}
    for text in said(study.seed.name):
        flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", text)}
        assert flags <= fields, text
        verb = re.match(r"skipback (\w+)", text)
        assert not verb or verb[1] in cli.VERBS, text
        table = re.match(r"skipback reproduce (\S+) (\S+)", text)
        assert not table or papers.table(papers.study(table[1]), table[2]), text
        named = re.match(r"skipback (?:train|stack|data fetch) ([\w-]+(?:,? [a-z0-9][\w-]*)*)", text)
        assert not named or set(re.split(r",? ", named[1])) <= set(data.names()), text
