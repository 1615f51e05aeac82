"""The sentences of the page: what was compared, who does best, by how much, and what the seeds leave open."""

from __future__ import annotations

from collections.abc import Sequence

from skipback.lab.report.arms import BACKPROP, FLOOR, Arm, Section, shown
from skipback.lab.report.metric import ReportedMetric
from skipback.lab.report.stats import Difference, Pairing, estimate


def title(section: Section) -> str:
    """The data set and the net in words."""
    net, activations = section.net, {shown(arm.settings.get("activation")) for arm in section.arms} - {shown(None)}
    chosen = [key for key in net if key not in ("dataset", "net") and net[key] is not None]
    words = [f"{key} {shown(net[key])}" for key in chosen if key in ("depth", "width")]
    words += activations if len(activations) == 1 else ()
    more = [key for key in chosen if key not in ("depth", "width")]
    words += [key.replace("_", " ") + ("" if net[key] is True else f" {shown(net[key])}") for key in more]
    name = "" if net["net"] is None else f": {shown(net['net'])}"
    return f"{shown(net['dataset'])}{name}" + (f" ({', '.join(words)})" if words else "")


def size(arms: Sequence[Arm]) -> str:
    """How many methods and seeds were compared."""
    if not arms:
        return "no finished run yet"
    methods, counts = len({arm.method for arm in arms}), sorted({len(arm.runs) for arm in arms})
    what = _count(methods, "method") + (f" in {len(arms)} configurations" if len(arms) > methods else "")
    seeds = _count(counts[-1], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return f"{what} × {seeds}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def pairings(section: Section) -> list[str]:
    """How the differences to backprop were found, and for whom, where that is not the same for all."""
    kinds: dict[str, list[str]] = {}
    for arm in section.ranked:
        if gap := section.gap(arm, section.backprop):
            how = {
                Pairing.PAIRED: f"paired over the {gap.n} seeds that both have",
                Pairing.WELCH: "Welch's interval, the seeds are not the same",
                Pairing.NONE: "no interval, too few seeds or all equal",
            }[gap.pairing]
            kinds.setdefault(how, []).append(arm.label)
    return list(kinds) if len(kinds) == 1 else [f"{_list(labels)}: {how}" for how, labels in kinds.items()]


def summary(section: Section) -> list[str]:
    """The result in a few plain sentences."""
    done = [arm for arm in section.ranked if arm.method != BACKPROP and not arm.floor and arm.finals(section.metric)]
    rivals, anchored = [arm for arm in done if not arm.anchored], [arm for arm in done if arm.anchored]
    about = [*_held_out(section), *_starts(section)]
    if not rivals:
        return [*about, _none(section), *_lost(section), *_anchored(section, anchored)]
    found = [*_best(section, rivals[0], rivals[1:]), *_unbeaten(section, rivals)]
    return [*about, *found, *_lost(section), *_anchored(section, anchored), *_shared_rate(section)]


def _none(section: Section) -> str:
    """Why there is nothing to rank: no run is over yet, or all that are have no result."""
    if any(arm.method != BACKPROP and not arm.floor and not arm.anchored for arm in section.arms):
        return "No method without backpropagation has a result."
    return "No run of a method without backpropagation has finished yet."


def _lost(section: Section) -> list[str]:
    """Which runs have no result, and so are in no mean and no reference."""
    told = [f"{arm.label} ({lost})" for arm in section.ranked if (lost := arm.lost(section.metric))]
    return [f"Without a result: {_list(told)}."] if told else []


def _starts(section: Section) -> list[str]:
    """Where a start at 0 was asked for, who has which: what cannot leave 0 does not start there."""
    starts: dict[str, list[str]] = {}
    for arm in section.arms:
        for start in dict.fromkeys(run.summary.start for run in arm.runs if run.summary and run.summary.start):
            starts.setdefault(start, []).append(arm.label)
    told = {
        "zero": "all weights at 0",
        "zero but for the first layer": "all but the first layer at 0",
        "random": "random weights, as no hidden weight would leave 0",
    }
    return (
        [f"Start: {'; '.join(f'{_list(arms)} {told.get(start, start)}' for start, arms in starts.items())}."]
        if starts
        else []
    )


def _held_out(section: Section) -> list[str]:
    """A result on rows of the training split is not one of the test split."""
    if section.net.get("validation") is None:
        return []
    return ["All results are of held-out training rows: the test split was not read."]


def _anchored(section: Section, arms: Sequence[Arm]) -> list[str]:
    """What anchored methods reach, and how much of that was backprop itself."""
    texts = []
    for arm in arms:
        metric, found = section.metric, estimate(list(arm.finals(section.metric).values()))
        share = arm.mean("backprop_share")
        passes = "some training passes" if share is None else f"{100 * share:.3g} % of the training passes"
        value = f"{metric.text(found.mean, found.half)} {metric.unit}".strip()
        texts.append(f"With plain backprop in {passes}, {arm.label} reaches {value}.")
    alone = "Its measure is shallow with the same anchor, which learns from those passes of backprop alone."
    return [*texts, *([alone] if any(arm.method != FLOOR for arm in arms) else [])]


def _best(section: Section, best: Arm, others: Sequence[Arm]) -> list[str]:
    """What the best method reaches, how far that is from both references, and whom the seeds do not tell apart."""
    metric, found = section.metric, estimate(list(best.finals(section.metric).values()))
    value = f"{metric.text(found.mean, found.half)} {metric.unit}".strip()
    alone = "one seed: no interval" if found.n == 1 else f"all {found.n} seeds equal: no interval"
    over = f"mean and 95 % interval over {found.n} seeds" if found.half else alone
    name = f"{best.label} ({best.title})" if best.title else best.label
    verb = "does best, with" if others else "reaches"
    marks = {"backprop": section.backprop, f"the floor {section.floor and section.floor.label}": section.floor}
    gaps = {mark: gap for mark, arm in marks.items() if (gap := section.gap(best, arm))}
    ties = [arm.label for arm in others if (gap := section.gap(arm, best)) and gap.sign == 0]
    ties += [mark for mark, gap in gaps.items() if gap.sign == 0]
    return [
        f"Without backpropagation, {name} {verb} a {metric.label} of {value} ({over}).",
        *([f"It ends {_list([_distance(metric, gap, mark) for mark, gap in gaps.items()])}."] if gaps else []),
        *([f"The seeds do not tell it apart from {_list(ties, 'or')}."] if ties else []),
    ]


def _unbeaten(section: Section, rivals: Sequence[Arm]) -> list[str]:
    """Which methods do not beat the floor beyond the interval; and which of the two references is missing."""
    references = (section.backprop, BACKPROP), (section.floor, "the floor (hidden blocks frozen at random)")
    missing = _list([name for arm, name in references if arm is None], "or")
    texts = [f"There is no result of {missing} to compare with."] if missing else []
    gaps = {arm.label: section.gap(arm, section.floor) for arm in rivals}
    lost = [label for label, gap in gaps.items() if gap and (gap.sign == 0 or gap.mean * section.metric.sign <= 0)]
    return [f"Not better than the floor beyond the interval: {_list(lost)}.", *texts] if lost else texts


def _shared_rate(section: Section) -> list[str]:
    """One rate for all methods favours those that it happens to suit: even backprop can come out last by it."""
    arms = [arm for arm in section.arms if arm.finals(section.metric)]
    rates = {arm.settings.get("lr") for arm in arms}
    if len({arm.method for arm in arms}) < 2 or len(rates) > 1 or None in rates:
        return []
    rate = shown(rates.pop())
    found = f"All methods had one learning rate, {rate}, tuned for none of them: another may rank them otherwise."
    return [found, *_reductions(arms)]


def _reductions(arms: Sequence[Arm]) -> list[str]:
    """A rate is not the same step for a sum as for a mean."""
    summed = [arm.label for arm in arms if arm.settings.get("reduction") == "sum"]
    if len(summed) in (0, len(arms)):
        return []
    return [f"The loss of {_list(summed)} is a sum over batch and outputs, that of the others a mean: so is each step."]


def _distance(metric: ReportedMetric, gap: Difference, mark: str) -> str:
    """`1.22 ± 0.40 points below backprop`."""
    side = "above" if gap.mean >= 0 else "below"
    better = "" if not metric.lower_is_better else " (worse)" if gap.mean > 0 else " (better)"
    return " ".join(filter(None, (metric.text(abs(gap.mean), gap.half), metric.points, side, mark))) + better


def _list(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
