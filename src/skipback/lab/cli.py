"""The command line. Names become objects in `choices`; torch is imported only by verbs that need it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, Field, model_validator

from skipback import __version__
from skipback.lab import choices, config, data, data_cli, listing, spellings, sweep, training, workers
from skipback.lab.bench import verb as bench
from skipback.lab.errors import LabError, unknown
from skipback.lab.flags import Names, parse
from skipback.lab.stacking import settings as stacking
from skipback.methods import TABLE as METHODS

Json = Annotated[bool, tyro.conf.arg(name="json")]


class Output(BaseModel):
    """What `train` and `compare` share beside the settings of a run."""

    out: Path | None = Field(None, description="folder for the runs (default runs/DATASET)")
    as_json: Json = Field(False, description="print one JSON line per run, and nothing else")
    config: Path | None = Field(None, description="start from a .toml, or a run's config.json")
    dry_run: bool = Field(False, description="make one step of each run, and write nothing")


class Train(Output, config.Run):
    """Train one method on one data set, one run folder per seed. The same command goes on after an interruption."""

    seeds: int | None = Field(None, ge=1, description="train seeds 1 to N (instead of --seed)")
    together: bool = Field(False, description="all seeds as one batched net: for small dense nets")

    @model_validator(mode="after")
    def _several_together(self) -> Train:
        if self.together and not self.seeds:
            raise LabError("--together says nothing without --seeds")
        if self.together and (self.compile or self.precision == "bf16"):
            option = "--compile" if self.compile else "--precision bf16"
            raise LabError(f"{option}: not with --together, whose batched steps run in float32 as they are")
        if self.together and (own := training.alone(self)) is not None:
            raise LabError(f"{own}: not with --together, whose seeds take every step together")
        return self


class Compare(Output, config.Settings):
    """Train several methods side by side, then write a report. The same command goes on after an interruption.

    Any setting may have several values, --depth 1,2: each combination is trained. In a --config file, lists do so, and
    [method.shallow] has settings of one method alone.
    """

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")] = Field(
        "digits", description="of `skipback list data`"
    )
    open: bool = Field(False, description="show the report in a browser")
    jobs: int = Field(1, ge=1, le=256, description="processes that share the runs")
    methods: Names = Field("bp,dfa,f3,drtp,fdfa,dkp,shallow", description=f"of {', '.join(METHODS)}, or all")
    seeds: int = Field(3, ge=1, description="runs of each method, with seeds 1 to N")
    depth: int | None = Field(2, ge=0, le=10_000, description="hidden layers")
    width: int | None = Field(128, ge=1, le=1_000_000, description="units per hidden layer")
    lr: float = Field(3e-4, gt=0, allow_inf_nan=False, description="learning rate")
    epochs: int | None = Field(  # type: ignore[assignment]
        None, ge=1, le=1_000_000, description="passes over the training set (digits: 60, MNIST: 5)"
    )

    @property
    def passes(self) -> int:
        """Epochs: as asked, or about as many samples as 60 epochs of digits have."""
        return self.epochs or max(
            5, 86_000 // data.card(spellings.check("data set", self.dataset, data.names())).train + 1
        )


class Audit(config.Run):
    """Measure what a method's update depends on, at each block, after a few training steps on a data set."""

    methods: Annotated[str | None, tyro.conf.arg(metavar="A,B,...")] = Field(
        None, description='several, or "all" (instead of --method)'
    )
    as_json: Json = Field(False, description="one JSON line per method")
    config: Path | None = Field(None, description="start from a .toml, or a run's config.json")

    @model_validator(mode="after")
    def _only_f3_has_signals(self) -> Audit:
        # several methods: each takes the choices that it has
        return self if self.methods else super()._only_f3_has_signals()  # type: ignore[operator]

    @model_validator(mode="after")
    def _plain_steps(self) -> Audit:
        if self.compile or self.precision == "bf16":
            option = "--compile" if self.compile else "--precision bf16"
            raise LabError(f"{option}: an audit measures float32 steps by backward: leave it out")
        return self


class Stacked(stacking.Stack):
    """Train weak learners together, then one layer on their outputs. The same command goes on after an interruption."""

    out: Path | None = Field(None, description="folder for the stacks (default runs/stack-DATASET)")
    as_json: Json = Field(False, description="print the summary as one JSON line, and nothing else")
    config: Path | None = Field(None, description="start from a .toml, or a stack's config.json")


class Report(BaseModel):
    """Write report.html, table.csv and figures from run folders alone."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = Field(description="run folders, or folders that hold them")
    out: Path = Field(Path("report"), description="folder for the report")


class List(BaseModel):
    """What can be chosen: methods, data sets, networks, draws, signals, and the papers behind them."""

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="WHAT ...")] = Field(
        (), description=f"{', '.join(listing.TABLES)} (default: all)"
    )
    as_json: Json = Field(False, description="for machines")


def _train(argv: Sequence[str]) -> None:
    options = parse(Train, "train", argv)
    from skipback.lab.session import Session

    seeds = range(1, options.seeds + 1) if options.seeds else [options.seed]
    fields = options.model_dump(include=set(config.Run.model_fields))
    session = Session(
        options.out or Path("runs") / options.dataset, as_json=options.as_json, command=_command("train", argv)
    )
    runs = [config.Run(**{**fields, "seed": seed}) for seed in seeds]
    if options.dry_run:
        session.dry_run(runs)
        return
    session.train(runs, together=options.together)
    session.say(f"runs are in {session.out}; `skipback report {session.out}` draws them")


def _compare(argv: Sequence[str]) -> None:
    from skipback.lab.flags import file_of

    words, axes = sweep.of_flags(argv)
    values, path = file_of(words)
    plain, varied = sweep.of_file(values, path) if path else (None, sweep.Sweep())
    options = parse(Compare, "compare", words, values=plain)
    given = {word.removeprefix("--").replace("-", "_") for word in words}
    kept = {name: listed for name, listed in varied.axes.items() if name not in given}
    fields = options.model_dump(include=set(config.Settings.model_fields))
    fields |= {"dataset": options.dataset, "epochs": options.passes}
    varied = sweep.Sweep(axes={**kept, **axes}, own=varied.own)
    runs = sweep.runs(varied, fields, _methods(options.methods), range(1, options.seeds + 1), _own)
    _train_side_by_side(options, runs, ["compare", *argv])


def _train_side_by_side(options: Compare, runs: list[config.Run], argv: list[str]) -> None:
    from skipback.lab.session import Session

    out = options.out or Path("runs") / f"compare-{options.dataset}"
    session = Session(out, as_json=options.as_json, command=_command(argv[0], argv[1:]))
    if options.dry_run:
        session.dry_run(runs)
        return
    if kept := _keep_feedback(options, runs):
        what = f"--feedback {options.feedback} is of fixed feedback"
        session.say(f"{', '.join(kept)}: feedback that learns keeps the start of its method ({what})")
    pairs = zip(runs, sweep.names(runs), strict=True)
    folders = [sweep.folder(session.out, session.resolved(run), name) for run, name in pairs]
    if options.jobs > 1 and not workers.is_worker():
        workers.share(argv, options.jobs, total=len(runs), done=lambda: sum(f.summary is not None for f in folders))
    session.train(runs, folders=folders)
    if not workers.is_worker():
        session.report([folder.path for folder in folders], show=options.open)


def _methods(text: str) -> list[str]:
    """The methods of a list with commas, each once; of "all" every one."""
    names = METHODS if text == "all" else [name.strip() for name in text.split(",")]
    return list(dict.fromkeys(spellings.check("method", name, METHODS) for name in names))


def _own(fields: dict[str, Any], method: str) -> dict[str, Any]:
    """A comparison hands each method the choices that it has: bp has no feedback, and only f3 has a signal.

    The two references stay what they are: an anchor would make the floor learn. So does feedback that learns: where it
    starts is part of the method, and a draw for the fixed ones would make another method of FDFA or DKP.
    """
    learns = choices.learns_feedback(method, as_published=fields["as_published"])
    drawn = fields["feedback"] and choices.has_feedback(method, as_published=fields["as_published"])
    return {
        "feedback": fields["feedback"] if drawn and not learns else None,
        "signal": fields["signal"] if method == "f3" else None,
        "anchor": None if method in ("bp", "shallow") else fields["anchor"],
        **{name: fields[name] if learns else config.usual()[name] for name in config.OF_FEEDBACK},
    }


def _keep_feedback(options: Compare, runs: list[config.Run]) -> list[str]:
    """The methods from which a comparison keeps `--feedback`, though they could start from it: theirs learns."""
    kind = {"as_published": options.as_published}
    if options.feedback is None:
        return []
    names = dict.fromkeys(run.method for run in runs if run.feedback is None)
    return [name for name in names if choices.has_feedback(name, **kind) and choices.learns_feedback(name, **kind)]


def _audit(argv: Sequence[str]) -> None:
    options = parse(Audit, "audit", argv)
    methods = _methods(options.methods) if options.methods else [options.method]
    fields = options.model_dump(include=set(config.Run.model_fields))
    from skipback.lab.audit import of_run
    from skipback.measure.words import LEGEND, table

    for method in methods:
        run = config.Run(**{**fields, **(_own(fields, method) if options.methods else {}), "method": method})
        records = of_run(run)
        if options.as_json:
            print(json.dumps({"method": method, "blocks": [dataclasses.asdict(record) for record in records]}))
        else:
            print(f"{method}: {METHODS[method]}\n{textwrap.indent(table(records), '  ')}\n")
    if not options.as_json:
        print(LEGEND)


def _stack(argv: Sequence[str]) -> None:
    asked = parse(Stacked, "stack", argv)
    options = stacking.Stack(**asked.model_dump(include=set(stacking.Stack.model_fields)))
    from skipback.lab.records import Folder
    from skipback.lab.stacking.run import describe, run

    folder = Folder((asked.out or Path("runs") / f"stack-{options.dataset}") / options.name)
    quiet = asked.as_json or not sys.stderr.isatty()
    tell: Callable[[str], object] = (lambda line: None) if quiet else lambda line: print(line, file=sys.stderr)
    summary = run(options, folder, command=_command("stack", argv), progress=tell)
    print(json.dumps({**summary, "run": str(folder.path)}) if asked.as_json else f"{options.name}: {describe(summary)}")


def _report(argv: Sequence[str]) -> None:
    options = parse(Report, "report", argv)
    from skipback.lab.report import find_runs, write

    print(write(find_runs(list(options.runs)), options.out, command=_command("report", argv)))


def _list(argv: Sequence[str]) -> None:
    options = parse(List, "list", argv)
    found = listing.tables(options.what)
    print(json.dumps(found, indent=1) if options.as_json else listing.text(found).rstrip())


def _data(argv: Sequence[str]) -> None:
    data_cli.run(parse(data_cli.DataOptions, "data", argv))


def _bench(argv: Sequence[str]) -> None:
    options = parse(bench.Bench, "bench", argv)
    result = bench.run(options, _command("bench", argv))
    print(json.dumps(result) if options.as_json else f"{bench.text(result)}\n\nwritten to {options.out}")


def _reproduce(argv: Sequence[str]) -> None:
    from skipback.lab.reproduce import verb

    verb.run(parse(verb.Reproduce, "reproduce", argv), ["reproduce", *argv], _command("reproduce", argv))


def _command(verb: str, argv: Sequence[str]) -> str:
    return shlex.join(["skipback", verb, *argv])


VERBS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "compare": (_compare, "train several methods side by side on one data set, then write a report"),
    "train": (_train, "train one method, one run or several seeds"),
    "reproduce": (_reproduce, "the tables of a paper, trained as published, beside what was published"),
    "stack": (_stack, "weak learners trained together, and one more layer on their outputs"),
    "audit": (_audit, "what each block's update depends on: weight transport, locks, target; measured"),
    "bench": (_bench, "speed and peak memory against plain backprop, on this machine"),
    "report": (_report, "report.html, table.csv and figures from run folders"),
    "data": (_data, "list, fetch and verify the data sets"),
    "list": (_list, "methods with needs, audit and status; data sets, nets, draws, signals, papers"),
}


def _help() -> str:
    verbs = "\n".join(f"  {verb:9} {text}" for verb, (_, text) in VERBS.items())
    return (
        f"skipback {__version__}: train PyTorch networks without backpropagation\n\n"
        f"usage: skipback VERB [options]\n\n{verbs}\n\n"
        "start here:    skipback compare\n"
        "one verb:      skipback train --help\n"
        "exit codes:    0 done, 2 bad input, 130 interrupted (the same command goes on)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot write is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(__version__)
        return 0
    try:
        if verb not in VERBS:
            raise LabError(unknown("verb", verb, list(VERBS)))
        VERBS[verb][0](rest)
    except LabError as error:
        return _bad(str(error))
    except BrokenPipeError:  # `skipback list | head`: nobody reads on, and Python must not complain at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        said = str(stop) or "the same command goes on from the last checkpoint"
        print(f"interrupted: {said}", file=sys.stderr)
        return 130
    return 0


def _bad(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
