"""Prove many generated networks: `cd tests && python -m generated --networks 20000`, or `make nets`.

Writes results/generated.json: how many networks were taught, refused and failed, by feature; the sentences of refusals;
and of each kind of failure the smallest recipe. `--prove "Case(...)"` proves one recipe, as a failure prints it.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from generated import survey
from generated.features import features
from generated.prove import prove
from generated.recipes import COMPILES
from generated.settle import settled
from generated.survey import Result

RESULTS = Path(__file__).parents[2] / "results" / "generated.json"
CHUNK = 250


def main() -> int:
    """Returns 1 if a network failed."""
    options = _options()
    survey.quiet()
    if options.prove:
        case = settled(survey.read(options.prove))
        verdict = prove(case)
        print(verdict, f"{verdict.outcome}, {verdict.taught} passes", verdict.reading, verdict.ports, sep="\n")
        print(", ".join(features(case)))
        return int(verdict.outcome == "failed")
    results = gathered(options.networks, options.seed, options.jobs, ("no",))
    if options.compiled:
        results |= gathered(options.compiled, options.seed, options.jobs, COMPILES[1:])
    found = survey.causes(list(results.values()))
    written(options, list(results.values()), found)
    return int(bool(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m generated", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=20_000, help="how many different ones (default: %(default)s)")
    parser.add_argument("--compiled", type=int, default=200, help="and how many compiled ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first chunk of networks (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go (default: %(default)s)")
    parser.add_argument("--prove", metavar="CASE", default="", help="prove one recipe instead")
    return parser.parse_args()


def gathered(count: int, seed: int, jobs: int, compiles: tuple[str, ...]) -> dict[str, Result]:
    """The results of so many different networks."""
    found: dict[str, Result] = {}
    draw = functools.partial(survey.drawn, count=min(CHUNK, count), compiles=compiles)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), survey.quiet) as pool:
        while len(found) < count:
            for chunk in pool.map(draw, range(seed, seed + jobs)):
                new = {one.text: one for one in chunk if one.text not in found}
                found |= dict(list(new.items())[: count - len(found)])
            seed += jobs
            print(f"{len(found)} of {count} networks", end="\r", file=sys.stderr)
    print(file=sys.stderr)
    return found


def written(options: argparse.Namespace, results: list[Result], found: list[survey.Cause]) -> None:
    """Write the file, and say what is in it."""
    from skipback.lab import machine

    command = f"python -m generated --networks {options.networks} --compiled {options.compiled} --seed {options.seed}"
    table = survey.table(results)
    content = {
        "environment": machine.describe(torch.device("cpu"), command),
        **table,
        "failures": [{"kind": c.kind, "networks": c.count, "recipe": c.recipe, "detail": c.detail} for c in found],
    }
    options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"{table['networks']} networks: {table['taught']} taught, {table['refused']} refused, {table['failed']} failed"
    )
    for row in table["refusals"]:
        print(f"  refused {row['count']} at {row['at']}: {row['sentence']}")
    for cause in found:
        print(f"  FAILED {cause.count}: {cause.kind}\n    {cause.recipe}")


if __name__ == "__main__":
    sys.exit(main())
