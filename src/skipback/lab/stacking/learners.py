"""The weak learners of a stack, trained as one batched net: each has its own feedback and order, and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import skipback
from skipback import init, update
from skipback.lab import checkpoint, choices, nets
from skipback.lab.data import Split
from skipback.lab.errors import LabError, about
from skipback.lab.losses import LOSSES
from skipback.lab.stacking.settings import Stack
from skipback.learner import Learner

CHUNK = 1000


class Learners:
    """K networks of one shape, trained together by the sum of the cross-entropies of sigmoids.

    Args:
        options: of the stack.
        train: the training rows, on the device.
        outputs: C.

    Attributes:
        epoch: how many they have been trained.
        right: of each learner, how many of its training outputs in the last epoch were right, before their updates.

    Raises:
        LabError: the method has no such feedback, or no batched form.
    """

    def __init__(self, options: Stack, train: Split, outputs: int) -> None:
        self.options, self.train, self.outputs = options, train, outputs
        self.targets = F.one_hot(train.t, outputs).to(torch.float32)
        members = range(options.learners)
        self.learners = [self._learner(k) for k in members]
        seed = options.order_seed or 0
        self.orders = [torch.Generator().manual_seed(seed + k) for k in members]
        self.epoch, self.right = 0, torch.zeros(options.learners, dtype=torch.int64, device=train.x.device)

    def _learner(self, k: int) -> Learner:
        options, example = self.options, self.train.x[:2]
        torch.manual_seed((options.weight_seed or 0) + (k if options.start == "different" else 0))
        sizes: dict[str, Any] = {"depth": options.depth, "width": options.width}
        net = nets.build("mlp", tuple(example.shape[1:]), self.outputs, activation=options.activation, **sizes)
        init.normal(net, options.std)
        drawn = choices.has_feedback(options.method, as_published=False)
        if not drawn and options.feedback != Stack.model_fields["feedback"].default:
            raise LabError(f"--feedback {options.feedback}: method {options.method!r} has no choice of feedback")
        method = choices.method(
            options.method,
            as_published=False,
            feedback=options.feedback if drawn else None,
            signal=None,
            loss=LOSSES["bce"],
            samples=len(self.train),
        )
        seed = (options.feedback_seed or 0) + k
        with about(f"method {options.method!r}"):
            return skipback.attach(net.to(example.device), method, example=example, seed=seed, show=None)

    def fit(self, path: Path, progress: Callable[[str], object]) -> None:
        """Train for the epochs that are left, and keep each of them in a file.

        Raises:
            LabError: the method has no batched form.
        """
        if path.exists():
            self._restore(checkpoint.load(path))
        if self.epoch == self.options.epochs:
            return
        try:
            many = skipback.Many(self.learners)
        except ValueError as error:
            raise LabError(f"method {self.options.method!r}: {error}") from None
        updates = [update.sgd(self.options.lr) for _ in self.learners]
        while self.epoch < self.options.epochs:
            self._train(many, updates)
            self.epoch += 1
            checkpoint.write(path, self._state())
            progress(f"learners: epoch {self.epoch} of {self.options.epochs}")
        many.unstack()

    def _train(self, many: skipback.Many, updates: list[update.Update]) -> None:
        self.right.zero_()
        for learner in self.learners:
            learner.train()
        for ids in self._batches():
            x, t = self.train.x[ids], self.targets[ids]
            many.step(x, t, loss=summed, update=updates, watch=partial(_count, self.right))

    def _batches(self) -> Iterator[Tensor]:
        """The rows of each step (K, B): every learner has an order of its own."""
        orders = [torch.randperm(len(self.train), generator=order) for order in self.orders]
        whole = torch.stack(orders).to(self.train.x.device)
        yield from whole.split(self.options.batch_size, dim=1)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The outputs of all learners side by side (N, K C)."""
        found = []
        for learner in self.learners:
            net = learner.eval()
            found.append(torch.cat([net(part) for part in x.split(CHUNK)]))
        return torch.cat(found, 1)

    def _state(self) -> dict[str, Any]:
        return {
            "learners": [dict(learner.state_dict()) for learner in self.learners],
            "orders": [order.get_state() for order in self.orders],
            "epoch": self.epoch,
            "right": self.right,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for learner, kept in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(kept)
        for order, kept in zip(self.orders, state["orders"], strict=True):
            order.set_state(kept)
        self.epoch = state["epoch"]
        self.right.copy_(state["right"])


def summed(y: Tensor, t: Tensor) -> Tensor:
    """The binary cross-entropy, summed over batch and outputs: its gradient is sigmoid(y) - t."""
    return F.binary_cross_entropy_with_logits(y, t, reduction="sum")


def _count(right: Tensor, y: Tensor, t: Tensor) -> None:
    right.add_((y.argmax(-1) == t.argmax(-1)).sum(1))
