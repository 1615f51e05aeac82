"""Many networks of one shape, trained as one: each kernel is called once for all of them.

A step of a small network spends its time on kernel calls, not on arithmetic. Members have their own weights, feedback,
memory, optimizer state and batches; each ends where a run of its own would, but for the rounding of batched products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipback.core.records import Loss, Watch
from skipback.distributed import world
from skipback.engine.many.groups import MemberGroup, grouped, own_states, settings, unbound
from skipback.engine.many.layers import MemberLayer, MemberStack
from skipback.engine.many.losses import loss_and_gradient
from skipback.engine.many.members import check_member, dense_rules
from skipback.engine.many.teacher import Teacher
from skipback.learner import Learner
from skipback.step.chain import NetworkFingerprint
from skipback.update import Update, check_update


class Many:
    """N learners whose networks have one shape, trained together on one device, in one process.

    Weights, feedback, memory and optimizer state of the members become views of stacked tensors, so each member can be
    evaluated, measured or saved at any time. Until `unstack`, train members by `step` only, and do not move them to
    another device or dtype. Members may differ in weights, draw, signal, and in the settings of their updates.

    Args:
        learners: made by `attach(..., example=x)`, all on one route: bp, shallow, or direct with fixed matrices.

    Attributes:
        learners: the members.
        updates: the update of each member, whose optimizer has the state that a run of its own would have.

    Raises:
        ValueError: a member has no batched form, or differs in shape.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        if not learners:
            raise ValueError("there is no learner to train")
        self.learners, self.nets = list(learners), [learner.net for learner in learners]
        self.layers = [MemberLayer(rules) for rules in zip(*dense_rules(learners), strict=True)]
        directs = [learner.direct for learner in learners if learner.direct is not None]
        self.teacher = Teacher(directs) if directs else None
        route = learners[0].route
        assert route is not None
        self.taught = range(len(self.layers))[route.taught]
        self.weights = [stack for layer in self.layers for stack in layer.stacks]
        self.updates: list[Update] = []
        self.copies: dict[Update, list[Update]] = {}
        self.groups: list[MemberGroup] = []
        self.settings: object = None
        self.fingerprint = NetworkFingerprint(nn.ModuleList(self.nets))

    def __len__(self) -> int:
        return len(self.learners)

    def step(
        self,
        x: Tensor,
        t: Tensor,
        *,
        loss: Loss,
        update: Update | Sequence[Update],
        ids: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """One training step of all members, equal to `learner.step` of each.

        Args:
            x: the members' inputs (N, B, ...); `x.expand(N, *x.shape)` is one batch for all, without a copy.
            t: their targets (N, B, ...).
            loss: loss(output, target) of one member.
            update: steps the weights: a new one for all (each member gets its own copy), or a list of N. Members
                in a row with equal settings are stepped in one call. Pass the same at every step.
            ids: (N, B), for delayed signals.
            watch: is called once with the outputs (N, B, C) and the targets (N, B, ...), without gradients.

        Returns:
            The losses (N,), before the update.

        Raises:
            ValueError: the shapes do not fit, a member is in eval mode, ids are missing, or an update is of something
                else, or of a kind that has no batched form.
            TypeError: an update is none, or the loss returns no tensor.
            RuntimeError: a member was moved, frozen, hooked, or got another layer; its method was taken off; `unstack`
                was called; or inference mode or autocast is on.
        """
        self._check(x, t, ids)
        self._bind(update)
        with torch.no_grad():
            if self.teacher is not None:
                self.teacher.open(x, t, ids)
            y = x
            for layer in self.layers:
                y = layer.run(y)
            losses, e = loss_and_gradient(loss, y, t)
            if watch is not None:
                watch(y, t)
            gradients = self._exact(e) if self.teacher is None else self._direct([*self.teacher(e, y, t, ids), e])
            self._apply(gradients)
        return losses

    def unstack(self) -> list[Learner]:
        """Copy weights and state of each member into memory of its own. Returns the members."""
        for stack in self._stacks():
            stack.end()
        own_states(self.updates)
        self.layers = []
        return self.learners

    def _exact(self, e: Tensor) -> list[Tensor]:
        """The gradients by backprop, from the output down to the lowest trained block."""
        found: list[Tensor] = []
        g = e
        for k in reversed(self.taught):
            delta, gradients = self.layers[k].backward(g)
            found = [*gradients, *found]
            g = torch.bmm(delta, self.layers[k].weight.whole) if k > self.taught.start else g
        return found

    def _direct(self, teachings: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of each block from its teaching."""
        return [gradient for layer, g in zip(self.layers, teachings, strict=True) for gradient in layer.backward(g)[1]]

    def _apply(self, gradients: Sequence[Tensor]) -> None:
        places = range(len(self.weights) - len(gradients), len(self.weights))
        for group in self.groups:
            group.apply(gradients, places)

    def _bind(self, update: Update | Sequence[Update]) -> None:
        """Bind each member's update, and form the groups again if an update or a setting has changed."""
        updates = list(update) if isinstance(update, list | tuple) else self._copies(update)
        if updates != self.updates:
            _check_updates(updates, len(self))
            own_states(self.updates)
            self.updates, self.settings, self.groups = updates, None, []
        optimizers = [u.bind(learner.parameters()) for u, learner in zip(self.updates, self.learners, strict=True)]
        now = settings(optimizers)
        if now != self.settings:
            if not self.groups or not all(group.follow() for group in self.groups):
                self.groups = grouped(self.updates, self.weights, optimizers)
            self.settings = now  # last: a refusal must be repeated at the next step

    def _copies(self, update: Any) -> list[Update]:
        """The copies of one update, one for each member, cached from step to step.

        Raises:
            ValueError: the update has an optimizer already, whose settings and state the copies would not have.
        """
        check_update(update)
        if update not in self.copies:
            if update.optimizer is not None:
                raise ValueError(
                    "one update for all must be a new one, but this one has an optimizer from somewhere else: pass a "
                    "list of one for each member"
                )
            self.copies[update] = [unbound(update) for _ in self.learners]
        return self.copies[update]

    def _stacks(self) -> list[MemberStack]:
        return [*self.weights, *([] if self.teacher is None else self.teacher.stacks)]

    def _check(self, x: Tensor, t: Tensor, ids: Tensor | None) -> None:
        if not self.layers:
            raise RuntimeError("unstack() was called: build Many() again to go on")
        for n, learner in enumerate(self.learners if self._changed(x.device.type) else ()):
            check_member(n, learner, now=True)
        N = len(self)
        for name, given in (("x", x), ("t", t), ("ids", ids)):
            if given is not None and (given.dim() < 2 or given.shape[:2] != (N, x.shape[1])):
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}: its first dimensions must be {N} members and the samples "
                    f"of a batch. One batch for all is {name}.expand({N}, *{name}.shape)"
                )
        for stack in self._stacks():
            stack.check()
        if not self.fingerprint.holds():
            raise RuntimeError(
                "a member has changed since Many() was built: a layer or parameter was exchanged, frozen or hooked. "
                "Call unstack(), and build Many() again"
            )

    def _changed(self, device: str) -> bool:
        """Whether a member or the surroundings may not fit any more: to ask each member takes longer than a step."""
        away = torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device) or world() > 1
        return away or not all([learner.attached and learner.net.training for learner in self.learners])  # noqa: C419


def _check_updates(updates: Sequence[Update], members: int) -> None:
    for update in updates:
        check_update(update)
    if len(set(updates)) != members or len(updates) != members:
        raise ValueError(f"update must be one for all, or a list of {members} different ones, one for each member")
