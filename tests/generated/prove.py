"""Prove: the property of one case, pass by pass.

In every training pass the gradients of a network with a direct method attached are those of the reference, cut where
the blocks end; its hidden blocks do not follow the weights between them and the output; or skipback refused in words.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generated import compare, data, oracle, reference, refusals
from generated.data import Batch
from generated.judge import Judge, Seen
from generated.net import parameters_of
from generated.outputs import unwrapped
from generated.recipes import Case, Pass
from generated.settle import EARLY, settled
from generated.user import RATE, User
from generated.verdict import Verdict


class OverError(Exception):
    """The case ends here: skipback refused, or what it raised was no refusal."""


class Proof:
    """One case, from attach to detach.

    Args:
        case: the network, and how it is trained.
        as_if: the method that it is judged as; another one than it has must fail.
    """

    def __init__(self, case: Case, as_if: str | None = None) -> None:
        self.case = settled(case)
        self.recipe, self.verdict, self.user = self.case.recipe, Verdict(self.case), User(self.case)
        self.net, self.plain = self.user.net, self.user.plain
        self.judge = Judge(self.recipe, as_if or self.case.method, self.plain, self.verdict)
        self.memory = oracle.Memory()

    def run(self) -> Verdict:
        """Attach, train, move weights, detach."""
        try:
            self.guarded("attach", self.user.attach)
            for k, one in enumerate(self.case.passes):
                self.train(k, one)
                self.user.go_on()
            self.moves_weights()
            self.is_plain("exact()", self.user.learner.exact)
        except OverError:
            pass
        if self.user.learner is not None:
            self.user.learner.detach()
        self.is_plain("detached", torch.enable_grad)
        return self.verdict

    def guarded(self, where: str, call: Callable[[], Any]) -> Any:
        """Call skipback. A refusal ends the case; any other exception is a failure."""
        try:
            return call()
        except Exception as error:
            if self.excused(error):
                self.verdict.refused, self.verdict.where = refusals.sentence(error), where
            raise OverError from error

    def excused(self, error: Exception) -> bool:
        """Whether an exception is a refusal; else it is a failure."""
        wrong = refusals.fault(error)
        if wrong:
            self.verdict.fail(f"raises, {wrong}", f"{refusals.sentence(error)} at {refusals.place(error)}")
        return not wrong

    # ------------------------------------------------------------------------------------------------------ training

    def train(self, k: int, one: Pass) -> None:
        """One pass: run it, judge it, and descend what it has left."""
        user, batch, state = self.user, data.batch(self.recipe, one), compare.copied(self.net)
        B = arrays(user.feedback())  # a step changes what learns
        user.learner.zero_grad()
        if one.kind == "create_graph":
            self.refuses(batch, self.visited(batch, state))
            return
        act = user.step if one.kind == "step" else user.backward
        outputs = self.guarded(f"pass {k}", lambda: act(batch))
        found = compare.gradients_of(self.net)
        if one.kind == "step":
            found = {name: (state[name] - p.detach()) / RATE for name, p in self.net.named_parameters()}
        self.judge(self.seen(batch, state, outputs, found, arrays(user.feedback()) | B))  # some may be new
        if one.kind != "step":
            user.descend()

    def refuses(self, batch: Batch, exact: reference.Exact) -> None:
        """Gradients that are to be differentiated again are none of a direct method: skipback has to say so.

        Unless nothing hidden is trained in this pass.
        """
        try:
            self.user.backward(batch, create_graph=True)
        except Exception as error:
            if self.excused(error):
                self.verdict.asked.append(refusals.sentence(error))
            return
        if not all(compare.vanishes(exact.gradients[name]) for name in self.judge.hidden):
            self.verdict.fail("create_graph", "backward(create_graph=True) was not refused")

    def visited(self, batch: Batch, state: Mapping[str, Tensor]) -> reference.Exact:
        """The forward pass is made, so a memory holds what it leaves, whatever becomes of the backward."""
        self.plain.load_state_dict(state)
        exact = reference.exact(self.plain, self.recipe, batch, frozenset())
        self.rows(batch, exact)
        return exact

    def seen(
        self,
        batch: Batch,
        state: Mapping[str, Tensor],
        outputs: list[Tensor],
        found: reference.Gradients,
        B: Mapping[str, Any],
    ) -> Seen:
        """A pass, and a plain one on the same."""
        self.plain.load_state_dict(state)
        grads = {name: b.grad for name, b in self.user.feedback().items() if b.is_leaf and b.grad is not None}
        exact = reference.exact(self.plain, self.recipe, batch, frozenset(B))
        if any(not torch.allclose(y, z, rtol=1e-9, atol=1e-12) for y, z in zip(outputs, exact.outputs, strict=False)):
            self.verdict.fail("output", "the network with a method attached returns other values")
        return Seen(batch, state, found, exact, B, arrays(grads), self.rows(batch, exact), self.user.late)

    def rows(self, batch: Batch, exact: reference.Exact) -> Any:
        """What an early signal sends, before it is divided by a count: (N, *places, C)."""
        if self.case.method not in EARLY:
            return None
        y = exact.errors[0].y
        y = np.moveaxis(y, 1, -1) if y.ndim == 4 else y
        softmax = data.classes(self.recipe)
        t = batch.target.transpose(0, 1) if self.recipe.dense and self.recipe.data == "series_first" else batch.target
        target = np.eye(y.shape[-1])[t.numpy()] if softmax else t.numpy().reshape(y.shape)
        if self.case.method == "drtp":
            return -target
        ids = batch.ids.tolist()
        rows = self.memory.read(ids, target, softmax=softmax)
        self.memory.write(ids, y, target, softmax=softmax)
        return rows

    # -------------------------------------------------------------------------------------------------------- checks

    def moves_weights(self) -> None:
        """Hidden blocks get the same gradients after the weights between them and the output were changed."""
        k = self.split()
        if k is None:
            return
        before = self.pushed(1)
        low, high = self.sides(k)
        with torch.no_grad():
            for p in high.values():
                p.mul_(-0.7)
        after = self.pushed(2)
        moved = [n for n in low if not compare.near(before[n], after[n], within=1e-10)]
        if moved:
            self.verdict.fail("weight transport", f"{', '.join(moved[:6])} follow the weights from stage {k} on")

    def split(self) -> int | None:
        """From which stage on weights are changed: no block may stand on both sides of it."""
        stages = self.recipe.stages
        k = 1 + self.recipe.seed % len(stages)
        bare = any(s.layer.startswith("bare") for s in stages[k - 1 :])  # of a block on both sides
        if self.judge.method in ("bp", "shallow") or self.recipe.tied or bare:
            return None
        low, high = (set(map(id, side.values())) for side in self.sides(k))
        for block in self.user.feedback():
            inside = set(map(id, self.net.get_submodule(block).parameters()))
            if inside & low and inside & high:
                return None
        return k

    def sides(self, k: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The parameters before stage k, and those from it on."""
        below = {id(p) for j in range(k) for p in parameters_of(self.net, self.recipe, j)}
        named = dict(self.net.named_parameters())
        low = {n: p for n, p in named.items() if id(p) in below}
        return low, {n: p for n, p in named.items() if n not in low and not n.endswith("embed.weight")}

    def pushed(self, spare: int) -> reference.Gradients:
        """Gradients of a pass with fixed errors at the outputs."""
        one = Pass(self.case.passes[0].batch, self.case.passes[0].length, seed=9)
        self.user.learner.zero_grad()
        self.guarded("other weights", lambda: self.user.push(data.batch(self.recipe, one, spare=spare)))
        return compare.gradients_of(self.net)

    def is_plain(self, when: str, inside: Callable[[], Any]) -> None:
        """The network does plain backprop."""
        batch, net = data.batch(self.recipe, self.case.passes[0]), self.net
        self.plain.load_state_dict(net.state_dict())
        wanted = reference.exact(self.plain, self.recipe, batch, frozenset()).gradients
        net.zero_grad()
        try:
            with inside():
                data.loss_of(self.recipe, unwrapped(reference.run(net, batch)), batch).backward()
        except Exception as error:
            self.verdict.fail(f"{when} raises", f"{refusals.sentence(error)} at {refusals.place(error)}")
            return
        differ = compare.differing(compare.gradients_of(net), wanted)
        if differ:
            self.verdict.fail(f"{when} is not plain", ", ".join(differ[:6]))


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same in NumPy, copied."""
    return {name: t.detach().numpy().copy() for name, t in tensors.items()}


def prove(case: Case, as_if: str | None = None) -> Verdict:
    """The verdict of one case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Proof(case, as_if).run()
