"""The verb `data`: what it lists, what it says of a set, what it does not do unasked."""

import pytest

from skipback.lab import data
from skipback.lab.cli import main
from skipback.lab.data_cli import DataOptions, run
from skipback.lab.errors import LabError


def said(capsys, action, *names):
    run(DataOptions(action=action, names=names))
    return capsys.readouterr().out


def test_list_shows_every_set(capsys):
    lines = said(capsys, "list").splitlines()
    assert [line.split()[0] for line in lines] == ["name", *data.names()]
    assert len({line.index(data.card(line.split()[0]).title) for line in lines[1:]}) == 1
    assert "3 x 32 x 32" in said(capsys, "list", "cifar10")
    assert "170.1 MB" in said(capsys, "list", "cifar10")


@pytest.mark.parametrize("name", data.names())
def test_info_says_all_that_is_known(capsys, name):
    card, text = data.card(name), said(capsys, "info", name)
    for part in (card.title, card.homepage, card.licence, card.citation, *card.traps, f"{card.train:,} training"):
        assert part in text
    for task, outputs in card.outputs.items():
        assert f"{task}: {outputs} outputs" in text


def test_info_has_the_unit_of_each_kind(capsys):
    assert "16,281 test rows of shape (14,)" in said(capsys, "info", "adult")
    assert "500 validation and 1,000 test nodes" in said(capsys, "info", "cora")
    assert "test tokens\n" in said(capsys, "info", "enwik8")
    assert "download: 2.6 GB, kept in stl10_binary/" in said(capsys, "info", "stl10")


def test_fetch_asks_for_names_before_it_takes_gigabytes(capsys, monkeypatch):
    monkeypatch.setattr(data, "fetch", lambda name: pytest.fail("nothing was asked for"))
    with pytest.raises(LabError, match=r"name the data sets \(all together are 6\.\d GB\)"):
        run(DataOptions(action="fetch"))


def test_fetch_of_what_needs_none(capsys):
    assert said(capsys, "fetch", "digits", "linear-map") == "digits: nothing to fetch\nlinear-map: nothing to fetch\n"


def test_fetch_goes_on_after_a_failure(capsys, monkeypatch, tmp_path):
    def fetch(name):
        if name in ("susy", "cora"):
            raise data.DataError(f"{name}: no address gave it")
        return [tmp_path / name]

    monkeypatch.setattr(data, "fetch", fetch)
    assert main(["data", "fetch", "susy", "adult", "cora", "digits"]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "susy: not fetched",
        f"adult: {tmp_path / 'adult'}",
        "cora: not fetched",
        f"digits: {tmp_path / 'digits'}",
    ]
    assert said.err == (
        "error: data fetch: 2 of 4 not fetched (susy, cora): susy: no address gave it cora: no address gave it\n"
    )


def test_fetch_of_one_that_fails_says_only_why(capsys, monkeypatch):
    def fetch(name):
        raise data.DataError("susy: no address gave it")

    monkeypatch.setattr(data, "fetch", fetch)
    assert main(["data", "fetch", "susy"]) == 2
    assert capsys.readouterr().err == "error: susy: no address gave it\n"


def test_verify_of_a_missing_set(capsys, cache):
    with pytest.raises(LabError, match="1 files are missing or damaged"):
        run(DataOptions(action="verify", names=("susy",)))
    assert f"susy: SUSY.csv.gz: missing (looked in {cache / 'susy'})" in capsys.readouterr().out
    assert "susy" not in said(capsys, "verify")  # not asked for, not here


def test_verify_of_a_damaged_set(capsys, cache):
    (cache / "text").mkdir(parents=True)
    (cache / "text" / "tinyshakespeare.txt").write_bytes(b"First Citizen:\n")
    for names in ((), ("tiny-shakespeare",)):
        with pytest.raises(LabError, match="1 files"):
            run(DataOptions(action="verify", names=names))
        assert "tinyshakespeare.txt: damaged (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "names", "message"),
    [("fetsh", (), "did you mean 'fetch'"), ("info", ("minst",), "did you mean 'mnist'"), ("list", ("x",), "unknown")],
)
def test_a_wrong_word_is_answered(action, names, message):
    with pytest.raises(LabError, match=message):
        run(DataOptions(action=action, names=names))
