"""Judge: are the gradients of a pass those of the reference, for one choice of ports that holds in all passes?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generated import compare, oracle, reference
from generated.compare import EXACT, Explained, near, vanishes
from generated.data import Batch
from generated.net import parameters_of, switch
from generated.oracle import Reading
from generated.recipes import Recipe
from generated.reference import Exact, Gradients
from generated.settle import EARLY
from generated.tape import Mark
from generated.verdict import Verdict


@dataclass(frozen=True)
class Seen:
    """A training pass that was made.

    Attributes:
        batch: what it ran on.
        state: of the network before it.
        found: the gradients that it left.
        exact: a plain pass on the same.
        B: by block, its feedback.
        dB: by block, the gradient of its feedback, where it learns.
        rows: of an early signal, (N, *places, C).
        late: whether the late stages ran.
    """

    batch: Batch
    state: Mapping[str, Tensor]
    found: Gradients
    exact: Exact
    B: Mapping[str, Any]
    dB: Mapping[str, Any]
    rows: Any = None
    late: bool = False


class Judge:
    """Of the passes of one network.

    Args:
        recipe: of the network.
        method: the name of the method that it should be trained by.
        net: a plain copy of it.
        verdict: where failures are noted.
    """

    def __init__(self, recipe: Recipe, method: str, net: nn.Module, verdict: Verdict) -> None:
        self.recipe, self.method, self.net, self.verdict = recipe, method, net, verdict
        self.passes: list[Seen] = []
        self.reading: Reading | None = None
        self.correlations: dict[str, Any] | None = None  # filled while they are asked for
        self.hidden = hidden_parameters(net, recipe)

    def __call__(self, seen: Seen) -> None:
        """Judge one more pass."""
        before = len(self.verdict.failures)
        if self.method == "bp":
            self._differ("bp", compare.differing(seen.found, seen.exact.gradients), seen)
        elif self.method == "shallow":
            self._shallow(seen)
        else:
            self._direct(seen)
        self.verdict.taught += len(self.verdict.failures) == before
        self.passes.append(seen)

    # -------------------------------------------------------------------------------------------------- the floors

    def _shallow(self, seen: Seen) -> None:
        """Nothing is taught but the heads; what a hidden value that is returned gets from the loss may stay."""
        local = any(error.hidden for error in seen.exact.errors)
        moved = [n for n in self.hidden if not vanishes(seen.found[n])] if not local else []
        self._differ("shallow teaches", moved, seen)
        heads = [n for n in seen.found if n not in self.hidden]
        self._differ("head", compare.differing(seen.found, seen.exact.gradients, heads), seen)
        self._not_exact(seen)

    def _not_exact(self, seen: Seen) -> None:
        exact = seen.exact.gradients
        same = [
            n
            for n in self.hidden
            if not vanishes(exact[n]) and seen.found[n] is not None and near(seen.found[n], exact[n], within=EXACT)
        ]
        self._differ("backprop", same, seen)

    def _differ(self, kind: str, names: Sequence[str], seen: Seen) -> None:
        if names:
            self.verdict.fail(kind, f"pass {len(self.passes)} ({seen.batch.one.kind}): {', '.join(names[:6])}")

    # ------------------------------------------------------------------------------------------------ direct methods

    def _direct(self, seen: Seen) -> None:
        if self._several_targets(seen):
            return
        self._not_exact(seen)
        exact = seen.exact.gradients
        none = [n for n in self.hidden if seen.found[n] is None and not vanishes(exact[n])]
        self._differ("no gradient", none, seen)
        heads = [b for b in seen.B if b.startswith(("heads", "early")) and self._is_head(b)]
        if heads:
            self.verdict.fail("head is taught", ", ".join(heads))
        explained = self._explained(seen)
        if explained.differ:
            self._differ("oracle", explained.differ, seen)
        else:
            self.verdict.ports |= explained.choice
            self._learns(seen, explained.choice)

    def _learns(self, seen: Seen, choice: Mapping[str, int]) -> None:
        """What the feedback of direct Kolen-Pollack descends is S^T h, summed over the calls of a block."""
        if self.method != "dkp" or seen.batch.one.kind == "step":
            return
        self.correlations = correlations = {block: np.zeros_like(b) for block, b in seen.B.items()}
        self.expected(seen, choice, self.reading or Reading())
        self.correlations = None
        for block in choice:
            found, wanted = seen.dB.get(block), correlations[block]
            if not near(None if found is None else torch.from_numpy(found), torch.from_numpy(wanted)):
                self._differ("feedback", [block], seen)

    def _is_head(self, block: str) -> bool:
        """Whether a block makes an output that teaches, and is no hidden layer of a head."""
        names = [n for n, p in self.net.named_parameters() if n.startswith(f"{block}.") and p.requires_grad]
        return bool(names) and not set(names) & set(self.hidden)

    def _several_targets(self, seen: Seen) -> bool:
        heads = [error for error in seen.exact.errors if not error.hidden]
        if self.method in EARLY and len(heads) > 1:
            self.verdict.fail("several targets", "an early signal was sent for several outputs, of one target")
            return True
        return False

    def _explained(self, seen: Seen) -> Explained:
        """The choice of ports, and the reading, that give what was found in this pass and in those before."""
        most = compare.levels(seen.exact.marks)
        known = {block: self.verdict.ports.get(block, top) for block, top in most.items()}
        readings = [self.reading] if self.reading else []
        if self.reading or not most:
            differ = compare.differing(seen.found, self.expected(seen, known, self.reading or Reading()))
            if not differ:
                return Explained(known, [])
        best = Explained({}, list(seen.found))
        for reading in [*readings, *(r for r in self._readings(seen) if r not in readings)]:
            explained = compare.explain(
                self.net, seen.found, most, lambda choice, r=reading: self.expected(seen, choice, r)
            )
            if len(explained.differ) < len(best.differ):
                best = explained
            if not explained.differ and self._held(explained.choice, reading):
                self.reading = reading
                self.verdict.reading = repr(reading)
                break
        return best

    def _held(self, choice: Mapping[str, int], reading: Reading) -> bool:
        """Whether what explains this pass explains those before as well."""
        for seen in self.passes:
            most = compare.levels(seen.exact.marks)
            both = {block: choice.get(block, self.verdict.ports.get(block, top)) for block, top in most.items()}
            if compare.differing(seen.found, self.expected(seen, both, reading)):
                self.verdict.fail("port moves", f"from {self.verdict.ports} to {choice}, {reading}")
                break
        return True

    def _readings(self, seen: Seen) -> Iterator[Reading]:
        errors, counts = seen.exact.errors, {len(b) for b in seen.B.values()}
        hidden = [False, True] if any(e.hidden for e in errors) and self.method not in EARLY else [False]
        led_to = [False, True] if len(errors) > 1 else [False]
        for one in itertools.product(hidden, led_to):
            reading = Reading(*one)
            signal = oracle.sent(self.method, errors, reading, {"rows": seen.rows}, [True] * len(errors))
            widths = {signal.flat.shape[1]} | ({signal.placed.shape[-1]} if signal.placed is not None else set())
            if reading.hidden or not counts or counts & widths:  # how many are sent depends on the ports
                yield reading

    def expected(self, seen: Seen, choice: Mapping[str, int], reading: Reading) -> Gradients:
        """The gradients of the reference."""
        self.net.load_state_dict(seen.state)
        switch(self.net, late=seen.late)
        errors = reference.errors_of(self.recipe, seen.exact.outputs, seen.batch)
        beyond = reference.behind(seen.exact, choice)
        sent = [k for k, error in enumerate(seen.exact.errors) if not error.hidden or k in beyond]
        leads = {(m.owner, m.level, m.call): led for m, led in zip(seen.exact.marks, seen.exact.leads, strict=True)}

        def taught(mark: Mark) -> Tensor | None:
            led = leads[mark.owner, mark.level, mark.call]
            arrived = [seen.exact.errors[k] for k in sent]
            signal = oracle.sent(self.method, arrived, reading, {"rows": seen.rows}, [led[k] for k in sent])
            rows = None if mark.form.rows is None else mark.form.rows.numpy()
            B = seen.B[mark.owner]
            if self.correlations is not None and mark.port is not None:
                h = np.moveaxis(mark.port.detach().numpy(), mark.form.batch, 0)
                self.correlations[mark.owner] += oracle.correlation(signal, h, B, mark.form.group, rows)
            found = oracle.teachings(signal, B, mark.shape, mark.form.batch, mark.form.group, rows)
            return torch.from_numpy(np.ascontiguousarray(found[0])) if found else None

        plain, hidden = seen.exact, reading.hidden
        return reference.cut(self.net, self.recipe, seen.batch, choice, plain, errors, taught, hidden=hidden)


def hidden_parameters(net: nn.Module, recipe: Recipe) -> list[str]:
    """The names of all that is trained and makes no output by itself."""
    own = {id(p) for k in range(len(recipe.stages)) for p in parameters_of(net, recipe, k)}
    named = {n: p for n, p in net.named_parameters() if p.requires_grad}
    heads = [
        n for k, out in enumerate(recipe.outputs) if out.kind == "mlp" for n in named if n.startswith(f"heads.{k}.0.")
    ]
    return [n for n, p in named.items() if id(p) in own or n.endswith("embed.weight")] + heads
