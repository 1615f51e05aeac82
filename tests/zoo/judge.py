"""Judge: one architecture, trained one way, is taught, refused in words, or wrong.

What is asked does not rest on what the learner says of itself, but for which blocks there are and what the head is:

    backprop     of an untouched copy: which parameters the loss reaches, and what they would have got
    silence      with the feedback of every second block set to zero, these get no gradient, as no error leaks past a
                 cut, and the others the gradient that they had, as each is taught by its own feedback alone
    indifference with dL/dy held fixed, the first block's gradient does not change when all other weights do
"""

from __future__ import annotations

import linecache
import time
import traceback
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from case import EQUAL, Case, gradients
from entries import Entry
from torch import Tensor, nn
from verdict import Verdict

import skipback as sb

NOISE = 1e-6
"""The share of a network's largest gradient below which one is rounding of zero: that of a shift in front of a norm."""
Rows = dict[str, set[str]]
SOURCE = str(Path(sb.__file__).parent)


def judge(entry: Entry, way: str) -> Verdict:
    """Train one architecture one way."""
    case = Case(entry, way)
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        verdict = _judged(case)
    verdict.seconds = round(time.perf_counter() - begun, 3)
    verdict.warned = [str(w.message) for w in caught if issubclass(w.category, sb.SkipbackWarning)]
    return verdict


def _judged(case: Case) -> Verdict:
    learner: sb.Learner | None = None
    try:
        learner = sb.attach(case.net, case.method(), show=None)
        y, loss = case.run(learner, **case.given())
        y.retain_grad()
        loss.backward()
    except Exception as error:
        return _raised(error)
    rows = _rows(learner)
    shares, faults = _shares(case.net, rows), _faults(case, learner, rows, y)
    return Verdict("wrong" if faults else "taught", faults, *shares)


# ------------------------------------------------------------------------------------------------------- refusals


def _raised(error: Exception) -> Verdict:
    """Refused in words is: raised by a `raise` of skipback's own, with a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    last, text = frames[-1], " ".join(str(error).split())
    own = last.filename.startswith(SOURCE) and linecache.getline(last.filename, last.lineno or 0).strip()[:5] == "raise"
    if own and not isinstance(error, AssertionError) and len(text.split()) > 5:
        return Verdict("refused", [text])
    place = f"{Path(last.filename).name}:{last.lineno}"
    return Verdict("wrong", [f"{type(error).__name__} at {place}: {text[:300]}"])


# ---------------------------------------------------------------------------------------------------- what is asked


def _rows(learner: sb.Learner) -> Rows:
    """The names of the trainable parameters of each block, as the learner has them. The last row is the head."""
    assert learner.layout is not None
    names = {id(p): name for name, p in learner.net.named_parameters()}
    segments = learner.layout.segments
    blocks = [*(segment.block for segment in segments[:-1]), ""]  # some block may be called "head" too
    return {b: {names[id(p)] for p in s.parameters if p.requires_grad} for b, s in zip(blocks, segments, strict=True)}


def _shares(net: nn.Module, rows: Rows) -> tuple[int, float, float]:
    *hidden, head = [sum(net.get_parameter(name).numel() for name in row) for row in rows.values()]
    total = sum(net.get_parameter(name).numel() for name in set().union(*rows.values()))
    return len(hidden), round(head / total, 4), round(max(hidden, default=0) / total, 4)


def _faults(case: Case, learner: sb.Learner, rows: Rows, y: Tensor) -> list[str]:
    if case.way == "shallow":
        return _not_shallow(case, learner, rows)
    if len(rows) == 1:
        return ["no hidden block was found, so the whole network gets backprop's gradient"]
    faults = [*_not_taught(case, rows), *_mixed(case, learner, rows)]
    return [*faults, *_depends(case, learner, rows, y)] if case.way == "dfa" else faults


def _not_taught(case: Case, rows: Rows) -> list[str]:
    got, exact = gradients(case.net), case.exact
    floor = NOISE * max(float(g.abs().max()) for g in exact.values())
    both = {n for n in got.keys() & exact.keys() if exact[n].abs().max() > floor}
    *hidden, head = rows.values()
    alone = head - set().union(*hidden)
    return [
        *_said("in no block", exact.keys() - set().union(*rows.values())),
        *_said("no gradient", exact.keys() - got.keys()),
        *_said("a gradient that is not finite", {n for n in got if not got[n].isfinite().all()}),
        *_said("a gradient of zero", {n for n in both if not got[n].any()}),
        *_said("backprop's gradient", {n for n in both - head if _same(got[n], exact[n])}),
        *_said("no exact gradient, in the head,", {n for n in alone & both if _differ(got[n], exact[n])}),
    ]


def _mixed(case: Case, learner: sb.Learner, rows: Rows) -> list[str]:
    """A block is taught by its own feedback: not by that of the next one, and not by what jumps over a cut."""
    got, leaked, changed = gradients(case.net), set[str](), set[str]()
    alone = {block: names - set().union(*(rows[k] for k in rows if k != block)) for block, names in rows.items()}
    blocks = list(rows)[:-1]
    for silent in (blocks[0::2], blocks[1::2]):
        kept = {block: learner.feedback[block].clone() for block in silent}
        _set(learner, {block: torch.zeros_like(B) for block, B in kept.items()})
        case.restart(learner)
        case.run(learner, **case.given())[1].backward()
        _set(learner, kept)
        now = gradients(case.net)
        leaked |= {n for block in silent for n in alone[block] & now.keys() if now[n].any()}
        taught = [] if case.way == "f3" else [block for block in blocks if block not in silent]  # F3 sends what it kept
        changed |= {n for block in taught for n in alone[block] & got.keys() if not _same(now[n], got[n])}
    return [
        *_said("a gradient without feedback", leaked),
        *_said("a gradient that the feedback of other blocks changes", changed),
    ]


def _depends(case: Case, learner: sb.Learner, rows: Rows, y: Tensor) -> list[str]:
    """What is sent depends on the error alone: other weights behind the block change nothing, if the error stays."""
    assert y.grad is not None
    first, *others = rows.values()
    case.restart(learner)
    case.run(learner)[0].backward(y.grad)
    before = gradients(case.net)
    case.restart(learner)
    _move([p for name, p in case.net.named_parameters() if name not in first])
    moved, _ = case.run(learner)
    moved.backward(y.grad)
    after = gradients(case.net)
    changed = {n for n in (first - set().union(*others)) & before.keys() if not _same(after[n], before[n])}
    idle = ["moving all weights behind the first block moved no output"] if torch.equal(moved, y) else []
    return idle + _said("a gradient that depends on the weights behind it, in the first block,", changed)


def _not_shallow(case: Case, learner: sb.Learner, rows: Rows) -> list[str]:
    got, exact = gradients(case.net), case.exact
    *blocks, head = rows.values()
    hidden, alone = exact.keys() - head, head - set().union(*blocks)
    torch.optim.SGD(learner.parameters(), 0.1).step()
    moved = {n for n, p in case.net.named_parameters() if n not in head and not torch.equal(p, case.start[n])}
    return [
        *([] if hidden else ["nothing is frozen: this is backprop"]),
        *_said("weights that moved, outside of the head,", moved),
        *_said("no exact gradient, in the head,", {n for n in alone & exact.keys() if _differ(got.get(n), exact[n])}),
        *_said("no place in the list of what is frozen", hidden - set(learner.frozen)),
    ]


# ------------------------------------------------------------------------------------------------------------- pieces


def _said(what: str, names: Iterable[str]) -> list[str]:
    found = sorted(names)
    return [f"{what}: {', '.join(found[:3])}{f' and {len(found) - 3} more' if found[3:] else ''}"] if found else []


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= EQUAL * b.norm())


def _differ(got: Tensor | None, exact: Tensor) -> bool:
    return got is None or bool((got - exact).norm() > 1e-3 * exact.norm() + 1e-8)


@torch.no_grad()
def _set(learner: sb.Learner, feedback: Mapping[str, Tensor]) -> None:
    for block, B in feedback.items():
        learner.feedback[block].copy_(B)
        assert torch.equal(learner.feedback[block], B), "learner.feedback is a copy, so nothing was silenced"


@torch.no_grad()
def _move(parameters: Iterable[Tensor]) -> None:
    for p in parameters:
        p.add_(torch.randn_like(p) * (0.1 * p.std(correction=0) + 0.01))
