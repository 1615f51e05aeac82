"""The contract that others script against: verbs, files, keys, exit codes, and one line for every mistake."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skipback import methods
from skipback.lab import data, nets, session
from skipback.lab.cli import main

FAST = ["--epochs", "2", "--width", "16", "--depth", "1"]


def run(capsys, *argv):
    """Run the command line in this process. Returns exit code, stdout, stderr."""
    code = main([str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, *argv):
    """The message of a command that must end with exit code 2, one line, and no traceback."""
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_train_writes_its_files_and_the_promised_keys(tmp_path, capsys):
    code, out, _ = run(
        capsys,
        *"train digits --method f3 --net mlp --depth 1 --width 16 --activation tanh --loss bce".split(),
        *"--optimizer adam --lr 1e-3 --batch-size 50 --epochs 2 --feedback ternary".split(),
        *"--signal delayed_error --as-published --seed 3 --device cpu --json --out".split(),
        tmp_path,
    )
    assert code == 0
    (folder,) = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert {p.name for p in folder.iterdir()} - {".lock"} == {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "history.csv",
        "checkpoint.safetensors",
        "summary.json",
    }
    summary = json.loads((folder / "summary.json").read_text())
    for key in "method dataset net seed epochs train_loss test_loss test_accuracy_percent train_seconds".split():
        assert key in summary
    assert summary["samples_per_second"] > 0
    assert summary["peak_memory_mib"] > 10
    assert (summary["method"], summary["seed"], summary["epochs"]) == ("f3", 3, 2)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["test_loss"] == summary["test_loss"]
    assert [a["port"] for a in rows[-1]["alignment"]] == ["1"]
    (line,) = out.splitlines()
    assert json.loads(line)["run"] == str(folder)


def test_regression_reports_mse_also_in_original_units(tmp_path, capsys, data_root):
    code, out, _ = run(capsys, "train", "wine-quality", "--method", "dfa", *FAST, "--json", "--out", tmp_path)
    summary = json.loads(out)
    assert code == 0
    assert summary["test_rmse_original_units"] == pytest.approx(0.8781308166 * summary["test_mse"] ** 0.5)
    assert "test_accuracy_percent" not in summary


def test_the_loss_chooses_the_task_of_wine_quality(tmp_path, capsys, data_root):
    _, out, _ = run(capsys, "train", "wine-quality", "--loss", "ce", *FAST, "--json", "--out", tmp_path)
    assert 0 < json.loads(out)["test_accuracy_percent"] < 100


def test_compare_writes_report_table_and_a_run_folder_per_method_and_seed(tmp_path, capsys):
    code, out, _ = run(capsys, "compare", "digits", "--methods", "bp,dfa", "--seeds", 2, *FAST, "--out", tmp_path)
    assert code == 0
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} >= {"bp-seed1", "bp-seed2", "dfa-seed1", "dfa-seed2"}
    page = (tmp_path / "report.html").read_text()
    assert "Direct feedback alignment" in page
    assert list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert str(tmp_path / "report.html") in out


def test_report_from_run_folders_alone(tmp_path, capsys):
    run(capsys, "train", "digits", "--method", "drtp", *FAST, "--out", tmp_path / "runs")
    code, out, _ = run(capsys, "report", tmp_path / "runs", "--out", tmp_path / "page")
    assert code == 0
    assert Path(out.strip()) == tmp_path / "page" / "report.html"
    assert (tmp_path / "page" / "report.html").stat().st_size > 10_000


def test_list_json_names_everything(capsys):
    code, out, _ = run(capsys, "list", "--json")
    tables = json.loads(out)
    assert code == 0
    assert set(tables) == {"methods", "datasets", "nets", "draws", "signals", "papers"}
    assert {m["name"] for m in tables["methods"]} == set(methods.TABLE)
    assert {d["name"] for d in tables["datasets"]} == set(data.names())
    assert {n["name"] for n in tables["nets"]} == set(nets.TABLE)
    assert all(entry["name"] for table in tables.values() for entry in table)


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    argv = ["train", "digits", "--method", "bp", *FAST, "--json", "--out", tmp_path]
    _, first, _ = run(capsys, *argv)
    written = (tmp_path / "bp-seed1" / "checkpoint.safetensors").stat().st_mtime_ns
    _, second, _ = run(capsys, *argv)
    assert first == second
    assert (tmp_path / "bp-seed1" / "checkpoint.safetensors").stat().st_mtime_ns == written


def test_seeds_make_one_folder_each_and_differ(tmp_path, capsys):
    _, out, _ = run(capsys, "train", "digits", "--method", "dfa", *FAST, "--seeds", 2, "--json", "--out", tmp_path)
    first, second = map(json.loads, out.splitlines())
    assert (first["seed"], second["seed"]) == (1, 2)
    assert first["train_loss"] != second["train_loss"]


def test_config_of_an_earlier_run_gives_the_same_numbers(tmp_path, capsys):
    argv = ["train", "digits", "--method", "f3", *FAST, "--lr", "2e-3", "--json"]
    _, out, _ = run(capsys, *argv, "--out", tmp_path / "a")
    config = tmp_path / "a" / "f3-seed1" / "config.json"
    _, again, _ = run(capsys, "train", "--config", config, "--json", "--out", tmp_path / "b")
    assert json.loads(out)["test_loss"] == json.loads(again)["test_loss"]
    code, more, _ = run(capsys, "train", "--config", config, "--seed", 7, "--json", "--out", tmp_path / "b")
    assert code == 0
    assert json.loads(more)["seed"] == 7


def test_a_toml_recipe_is_read_and_flags_win(tmp_path, capsys):
    recipe = tmp_path / "run.toml"
    recipe.write_text('dataset = "digits"\nmethod = "drtp"\nepochs = 1\nwidth = 8\nlr = 1e-2\n')
    _, out, _ = run(capsys, "train", "--config", recipe, "--epochs", 2, "--json", "--out", tmp_path)
    assert (json.loads(out)["method"], json.loads(out)["epochs"]) == ("drtp", 2)
    assert json.loads((tmp_path / "drtp-seed1" / "config.json").read_text())["lr"] == 1e-2


def test_the_file_of_config_is_read_however_it_is_written(tmp_path, capsys):
    recipe = tmp_path / "run.toml"
    recipe.write_text('method = "bp"\nwidth = 16\nepochs = 1\n')
    code, out, _ = run(capsys, "train", "--config=nowhere.toml", f"--config={recipe}", "--json", "--out", tmp_path)
    assert code == 0
    assert [json.loads(out)[key] for key in ("method", "epochs")] == ["bp", 1]


def test_compare_takes_each_method_once_and_all_of_them(tmp_path, capsys, monkeypatch):
    _, out, _ = run(
        capsys, "compare", "--methods", "bp, dfa,bp", "--seeds", "1", *FAST, "--json", "--out", tmp_path / "a"
    )
    assert [json.loads(line)["method"] for line in out.splitlines()] == ["bp", "dfa"]
    found = []
    monkeypatch.setattr(session.Session, "train", lambda self, runs, **_: found.extend(runs))
    monkeypatch.setattr(session.Session, "report", lambda *_, **__: None)
    run(capsys, "compare", "--methods", "all", "--seeds", "1", "--out", tmp_path / "b")
    assert [one.method for one in found] == list(methods.TABLE)


def test_a_draw_for_all_leaves_learned_feedback_its_own_start(tmp_path, capsys):
    """FDFA starts from 0, DKP from its own draw: --feedback would make other methods of them."""
    argv = ["--methods", "dfa,fdfa,dkp,bp", "--feedback", "kaiming_he", "--seeds", "1", *FAST, "--out", tmp_path]
    code, out, _ = run(capsys, "compare", *argv)
    assert code == 0
    said = "fdfa, dkp: feedback that learns keeps the start of its method (--feedback kaiming_he is of fixed feedback)"
    assert said in out.splitlines()
    found = {p.parent.name: json.loads(p.read_text())["feedback"] for p in tmp_path.glob("*/config.json")}
    assert found == {"dfa-kaiming_he-seed1": "kaiming_he", **dict.fromkeys(("fdfa-seed1", "dkp-seed1", "bp-seed1"))}
    assert run(capsys, "train", "--method", "fdfa", "--feedback", "kaiming_he", *FAST, "--out", tmp_path)[0] == 0


def test_a_net_that_a_method_refuses_in_training_is_one_line(tmp_path, capsys):
    message = refused(capsys, "train", "--method", "ifa", "--batch-norm", *FAST, "--out", tmp_path)
    assert "method 'ifa': module '2' is a batch norm" in message


def test_every_method_net_loss_and_optimizer_trains(tmp_path, capsys, data_root):
    for k, (method, loss, optimizer) in enumerate(
        [("bp", "ce", "sgd"), ("dfa", "mse", "rmsprop"), ("sdfa", "bce", "adam"), ("drtp", "ce", "sgd")]
    ):
        argv = [
            "--method",
            method,
            "--loss",
            loss,
            "--optimizer",
            optimizer,
            *FAST,
            "--json",
            "--out",
            tmp_path / str(k),
        ]
        code, out, _ = run(capsys, "train", "digits", *argv)
        assert code == 0
        assert json.loads(out)["train_loss"] < 10


@pytest.mark.parametrize(
    "signal", ["delayed_loss", "delayed_error_one_hot", "delayed_loss_softmax", "current_error", "zeros"]
)
@pytest.mark.parametrize("published", [[], ["--as-published"]])
def test_every_signal_trains(tmp_path, capsys, signal, published):
    argv = ["--method", "f3", "--loss", "bce", "--signal", signal, *published, *FAST, "--json", "--out", tmp_path]
    code, out, _ = run(capsys, "train", "digits", *argv)
    assert code == 0
    assert json.loads(out)["train_loss"] < 2


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["train", "mnits"], "DATASET: unknown data set 'mnits'; did you mean 'mnist'?"),
        (["train", "digits", "--method", "dfaa"], "--method: unknown method 'dfaa'; did you mean 'dfa'?"),
        (["train", "digits", "--net", "mpl"], "--net: unknown net 'mpl'; did you mean 'mlp'?"),
        (["train", "digits", "--feedback", "terniary"], "did you mean 'ternary'?"),
        (["train", "digits", "--lr", "-1"], "--lr: must be greater than 0, got -1.0"),
        (["train", "digits", "--lr", "nan"], "--lr: must be a finite number, got nan"),
        (["train", "digits", "--width", "0"], "--width: must be greater than or equal to 1, got 0"),
        (["train", "digits", "--epochs", "many"], "--epochs: must be a whole number, got 'many'"),
        (["train", "digits", "--lr=much"], "--lr: must be a number, got 'much'"),
        (["train", "digits", "--batchsize", "3"], "--batchsize, 3; did you mean --batch-size?"),
        (["train", "digits", "--xyzzy"], "--xyzzy (see"),
        (["train", "digits", "--config=nowhere.toml"], "nowhere.toml: No such file"),
        (["train", "digits", "--signal", "delayed_error"], "method 'dfa' has no choice of signal"),
        (["train", "digits", "--method", "bp", "--feedback", "ternary"], "method 'bp' has no choice of feedback"),
        (["train", "digits", "--net", "lenet"], "at least 12 x 12"),
        (["train", "digits", "--net", "lenet", "--depth", "3"], "net 'lenet' has no depth"),
        (["train", "digits", "--feedback", "cartesian_product"], "make the block 59049 wide"),
        (["train", "digits", "--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["compare", "digits", "--methods", "bp,dfaa"], "unknown method 'dfaa'"),
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["report", "nowhere"], "nowhere"),
        (["report"], "run folder"),
        (["data", "fetsh"], "did you mean 'fetch'?"),
        (["data", "info", "minst"], "did you mean 'mnist'?"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, argv, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *argv)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("train --batchsize 3", "error: Unrecognized options: --batchsize, 3; did you mean --batch-size? (see"),
        ("train --epochs x", "error: --epochs: must be a whole number, got 'x' (see skipback train --help)"),
        ("list papers", ""),
        ("list --json", ""),
    ],
)
def test_any_terminal_can_show_what_is_said(encoding, argv, expected):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "skipback.lab.cli", *argv.split()]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    said = done.stderr.decode(encoding)
    assert said.startswith(expected)
    assert said.count("\n") == done.returncode / 2  # one line, or none
    assert "--json" not in argv or json.loads(done.stdout.decode(encoding))


def test_cuda_asked_for_and_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refused(capsys, "train", "digits", "--device", "cuda", "--out", tmp_path)
    assert "--device cuda" in message
    assert "--device cpu" in message


def test_unwritable_out(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert str(blocked) in refused(capsys, "train", "digits", *FAST, "--out", blocked)


def test_out_that_holds_another_run_loses_nothing(tmp_path, capsys):
    run(capsys, "train", "digits", "--method", "bp", *FAST, "--out", tmp_path)
    summary = (tmp_path / "bp-seed1" / "summary.json").read_bytes()
    message = refused(capsys, "train", "digits", "--method", "bp", *FAST, "--lr", "0.1", "--out", tmp_path)
    assert "holds another run (lr 0.001 not 0.1)" in message
    assert (tmp_path / "bp-seed1" / "summary.json").read_bytes() == summary


def test_out_that_holds_other_files_loses_nothing(tmp_path, capsys):
    (tmp_path / "bp-seed1").mkdir()
    (tmp_path / "bp-seed1" / "thesis.tex").write_text("x")
    assert "thesis.tex" in refused(capsys, "train", "digits", "--method", "bp", *FAST, "--out", tmp_path)
    assert [p.name for p in (tmp_path / "bp-seed1").iterdir() if p.name != ".lock"] == ["thesis.tex"]


def test_a_misspelt_key_in_a_config(tmp_path, capsys):
    recipe = tmp_path / "run.toml"
    recipe.write_text("batchsize = 50\nlr = 1e-3\n")
    message = refused(capsys, "train", "--config", recipe)
    assert "run.toml" in message
    assert "batchsize: no such setting" in message


def test_broken_toml_says_where(tmp_path, capsys):
    recipe = tmp_path / "run.toml"
    recipe.write_text("lr = \n")
    assert "line 1" in refused(capsys, "train", "--config", recipe)


@pytest.fixture
def broken_mnist(tmp_path, monkeypatch, data_root):
    """An MNIST folder whose training images a test fills with something wrong; the other files are right."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for path in (data_root / "mnist").iterdir():
        if not path.name.startswith("train-images"):
            (folder / path.name).symlink_to(path)
    monkeypatch.setenv("SKIPBACK_DATA", str(tmp_path / "data"))

    def fill(content: bytes):
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))

    return fill


HEADER = bytes([0, 0, 8, 3, 0, 0, 0xEA, 0x60, 0, 0, 0, 28, 0, 0, 0, 28])


@pytest.mark.parametrize(
    ("content", "expected"),
    [(HEADER + bytes(100), "truncated"), (b"\0\0\x08\x09" + HEADER[4:] + bytes(100), "magic")],
)
def test_damaged_idx(broken_mnist, tmp_path, capsys, content, expected):
    broken_mnist(content)
    message = refused(capsys, "train", "mnist", *FAST, "--out", tmp_path)
    assert expected in message
    assert "train-images" in message


def test_wrong_hash(broken_mnist, tmp_path, capsys):
    broken_mnist(HEADER + bytes(60_000 * 784))
    message = refused(capsys, "train", "mnist", *FAST, "--out", tmp_path)
    assert "hash" in message
    assert "train-images" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"fixed acidity";"quality"\n7.4;5\n', "volatile acidity"),
        (None, "line 3"),
    ],
)
def test_damaged_csv(tmp_path, monkeypatch, capsys, data_root, text, expected):
    folder = tmp_path / "data" / "wine-quality"
    folder.mkdir(parents=True)
    for name in ("winequality-red.csv", "winequality-white.csv"):
        whole = (data_root / "wine-quality" / name).read_text()
        lines = whole.splitlines(keepends=True)
        lines[2] = lines[2].replace("0", "o", 1)
        (folder / name).write_text("".join(lines) if text is None else text)
    monkeypatch.setenv("SKIPBACK_DATA", str(tmp_path / "data"))
    message = refused(capsys, "train", "wine-quality", *FAST, "--out", tmp_path)
    assert expected in message
    assert "winequality-red.csv" in message


# ------------------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", ["compare", "train", "reproduce", "report", "data", "list", "bench"])
def test_help_of_each_verb_fits_and_says_what_can_be_chosen(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert not stop.value.code
    assert f"skipback {verb}" in out
    headings = len(
        re.findall(r"^[^\w\n]*\w+ options[^\w\n]*$", out, re.MULTILINE)
    )  # what is longer than a screen has some
    assert headings == (6 if verb in ("compare", "train") else 0)
    assert out.count("\n") < (150 if headings else 55)
    alone = re.findall(
        r"^[^\w\n]*--[a-z][a-z-]+( [A-Z]+)?[^\w\n]*$", out, re.MULTILINE
    )  # tyro's way with a flag that is too long
    assert not (headings and alone)


def test_help_names_every_verb_and_exit_code(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for word in ("compare", "train", "report", "data", "list", "130"):
        assert word in out


def test_flags_are_frozen(capsys):
    """Others script against these: a new flag is added here on purpose, none disappears."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    flags = set(re.findall(r"--[a-z]+[a-z-]*", out))
    assert flags == {
        *("--help --method --net --depth --width --activation --batch-norm --dropout --input-dropout").split(),
        *("--zero-init --loss --optimizer --lr --batch-size --context --epochs --together").split(),
        *("--feedback --signal --as-published --seed --seeds --device --threads --out --json --config").split(),
        *("--prepare --zca-epsilon --augment --validation --held-out --split-seed --distinct --anchor").split(),
        *("--precision --compile --schedule --weight-decay --momentum --dampening --nesterov --feedback-lr").split(),
        *("--no-bias --batch-norm-at --norm-last --dropout-first --start --bottleneck --bottleneck-form").split(),
        *("--feedback-decay --feedback-optimizer --stop-train-error --stop-change --reduction").split(),
        *("--adversarial --keep-clean-gradients --max-in-norm --max-out-norm --score-train --eval-every").split(),
        *("--weight-seed --feedback-seed --order-seed --limit --align-on --align-rows --align-every --dry-run").split(),
    }


def test_flags_of_bench_are_frozen(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    flags = set(re.findall(r"--[a-z]+[a-z-]*", capsys.readouterr().out))
    known = "--help --methods --out --shapes --optimizers --seconds --depths --device --compile --quick --json"
    assert flags == set(known.split())


def test_no_torch_for_help():
    code = "import sys; from skipback.lab.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
