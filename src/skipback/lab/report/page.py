"""The report: `report.html`, `table.csv` and the figures as PNG. Every number comes from the run folders.

This file assembles and writes them, `words.py` finds the sentences; `page.html.j2` decides where each thing stands, and
`section.html.j2` holds the captions.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from skipback.lab.report import words
from skipback.lab.report.arms import BACKPROP, Arm, Section, differing, sections, shown
from skipback.lab.report.looks import LineStyle, looks
from skipback.lab.report.metric import ReportedMetric, amounts
from skipback.lab.report.reading import RecordedRun, ReportError, held, read_run
from skipback.lab.report.stats import Difference, MeanEstimate, estimate
from skipback.lab.report.table import table

if TYPE_CHECKING:
    from skipback.lab.report.figures import Picture

View = dict[str, object]  # what the template receives: text, and lists of text
COSTS = ("samples_per_second", "train_seconds", "peak_memory_mib")


def write(runs: Sequence[Path], out: Path, *, command: str | None = None) -> Path:
    """Write the report on these run folders into `out`, and return the path of its page.

    Args:
        runs: Run folders, as `find_runs` gives them.
        out: The folder for report.html, table.csv and figures/; it is made where missing.
        command: The command that asked for the report, to be printed on the page.
    """
    from skipback.lab.records import atomic_write
    from skipback.lab.report.figures import draw

    if not runs:
        raise ReportError("a report needs at least one run folder")
    loaded = [read_run(path) for path in runs]
    parts = sections(loaded)
    look = looks(arm for section in parts for arm in section.arms)
    pictures = {slug: draw(section, look) for slug, section in _slugs(parts).items()}
    for slug, drawn in pictures.items():
        for picture in drawn:
            atomic_write(out / "figures" / f"{slug}-{picture.name}.png", picture.png)
    atomic_write(out / "table.csv", table(loaded, parts))
    page = render(parts, loaded, look, list(pictures.values()), command=command)
    atomic_write(out / "report.html", page)
    return out / "report.html"


def _slugs(parts: Sequence[Section]) -> dict[str, Section]:
    """A file name for each section: digits-mlp-2-128."""
    found: dict[str, Section] = {}
    for section in parts:
        chosen = {key: value for key, value in section.net.items() if value is not None}
        net = " ".join(key if value is True else shown(value) for key, value in chosen.items())
        slug = re.sub(r"[^a-z0-9]+", "-", net.lower()).strip("-") or "section"
        found[slug if slug not in found else f"{slug}-{len(found) + 1}"] = section
    return found


def render(
    parts: Sequence[Section],
    runs: Sequence[RecordedRun],
    look: Mapping[str, LineStyle],
    pictures: Sequence[Sequence[Picture]],
    *,
    command: str | None = None,
) -> str:
    """The whole page as text. Names of methods and the like are data: the template escapes them."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [_section(section, look, drawn) for section, drawn in zip(parts, pictures, strict=True)]
    return environment.get_template("page.html.j2").render(sections=views, made=_made(parts, runs, command))


def _section(section: Section, look: Mapping[str, LineStyle], pictures: Sequence[Picture]) -> View:
    return {
        "title": words.title(section),
        "size": words.size(section.arms),
        "summary": words.summary(section),
        "metric": section.metric,
        "backprop": section.backprop and section.backprop.label,
        "floor": section.floor and section.floor.label,
        "rows": _rows(section, look),
        "pairings": words.pairings(section),
        "epochs_differ": len({arm.runs[0].epochs_reached for arm in section.arms}) > 1,
        "one_seed": all(len(arm.runs) == 1 for arm in section.arms),
        "unfinished": [_not_counted(run) for run in section.unfinished],
        "repeated": [_not_counted(run) for run in section.repeated],
        "pictures": [_picture(picture) for picture in pictures],
    }


def _rows(section: Section, look: Mapping[str, LineStyle]) -> list[View]:
    arms = section.ranked
    costs = (amounts([arm.mean(key) for arm in arms]) for key in COSTS)
    return [
        _row(section, arm) | dict(zip(COSTS, texts, strict=True)) | {"color": look[arm.label]["color"]}
        for arm, *texts in zip(arms, *costs, strict=True)
    ]


def _row(section: Section, arm: Arm) -> View:
    metric, finals, gap = section.metric, arm.finals(section.metric), section.gap(arm, section.backprop)
    found = estimate(list(finals.values())) if finals else None
    return {
        "label": arm.label,
        "title": arm.title,
        "role": "" if not finals else "reference" if arm.method == BACKPROP else "floor" if arm.floor else "",
        "result": metric.text(found.mean) if found else arm.lost(metric),
        "half": _half(metric, found),
        "training": _training(section, arm),
        "difference": ("+" if gap.mean >= 0 else "") + metric.text(gap.mean) if gap else "",
        "difference_half": _half(metric, gap),
        "seeds": len(arm.runs),
        "epochs": arm.runs[0].epochs_reached,
    }


def _training(section: Section, arm: Arm) -> str:
    """In brackets, as papers print it: the mean of the training rows."""
    values = [value for run in arm.runs if (value := section.metric.trained(run.summary)) is not None]
    return f"({section.metric.text(fmean(values))})" if values else ""


def _half(metric: ReportedMetric, found: MeanEstimate | Difference | None) -> str:
    return f"± {metric.half(found.half)}" if found and found.half else ""


def _not_counted(run: RecordedRun) -> View:
    """A run that is only listed."""
    epochs = run.settings.get("epochs")
    reached = f"epoch {run.epochs_reached}" + (f" of {epochs}" if epochs else "")
    return {
        "method": run.config.method,
        "seed": run.config.seed,
        "folder": run.path.name,
        "reached": reached if run.evaluations else "no evaluation yet",
    }


def _picture(picture: Picture) -> View:
    source = "data:image/svg+xml;base64," + base64.b64encode(picture.svg).decode("ascii")
    return {"name": picture.name, "source": source, "width": picture.width, "height": picture.height}


def _made(parts: Sequence[Section], runs: Sequence[RecordedRun], command: str | None) -> View:
    """How the page came about: commands, environment, and what the runs have in common or not."""
    arms = [arm for section in parts for arm in section.arms]
    settings = [run.settings for run in runs]
    unlike = [key for key in differing(settings) if key != "method"]  # the arm's label says it
    alike: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        alike.setdefault(tuple(shown(held(arm.settings, key)) for key in unlike), []).append(arm.label)
    return {
        "commands": list(dict.fromkeys(str(run.env["command"]) for run in runs if run.env.get("command"))),
        "report_command": command,
        "environment": _environment(runs),
        "common": {key: shown(value) for key, value in settings[0].items() if key not in (*unlike, "method")},
        "unlike": unlike,
        "alike": [(", ".join(labels), values) for values, labels in alike.items()],
        "seeds": ", ".join(map(str, sorted({run.config.seed for run in runs}))),
        "runs": len(runs),
    }


def _environment(runs: Iterable[RecordedRun]) -> dict[str, str]:
    """Each entry of env.json with the values that occur; of the starting times the first and the last."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.env.items():
            found.setdefault(key, {})[shown(value)] = None
    found.pop("command", None)
    started = sorted(found.pop("started", ()))
    times = {"started": " to ".join(dict.fromkeys((started[0], started[-1])))} if started else {}
    return {key: ", ".join(values) for key, values in found.items()} | times
