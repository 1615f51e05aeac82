"""The layer on the learners' outputs: dense, or the random diagonals of `skipback.lab.nets.rd`. Trained by SGD."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipback import init
from skipback.lab import nets
from skipback.lab.stacking.learners import summed
from skipback.lab.stacking.settings import Stack


class Readout:
    """The layer in training.

    Args:
        options: of the stack.
        features: of the training and the test rows, (N, K C) each.
        t: their classes.
        outputs: C.

    Attributes:
        rows: one for each epoch: errors in percent and the training loss.
    """

    def __init__(self, options: Stack, features: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], outputs: int) -> None:
        self.options, self.features, self.t = options, features, t
        self.targets = F.one_hot(t[0], outputs).to(torch.float32)
        torch.manual_seed(options.weight_seed or 0)
        self.net = self._net(features[0].shape[1], outputs).to(features[0].device)
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=options.layer_lr or 0.0)
        self.order = torch.Generator().manual_seed(options.order_seed or 0)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def _net(self, inputs: int, outputs: int) -> nn.Module:
        if self.options.layer == "rd":
            return nets.build("rd", (inputs,), outputs)
        net = nn.Linear(inputs, outputs)
        init.normal(net, 1.0)
        return net

    @property
    def over(self) -> str | None:
        """Why it is trained no more; `None` while it is."""
        if len(self.rows) == self.options.layer_epochs:
            return f"after {len(self.rows)} epochs"
        stop, errors = self.options.layer_stop, [row["train_error_percent"] / 100 for row in self.rows[-2:]]
        if stop is not None and len(errors) == 2 and abs(errors[1] - errors[0]) <= stop:
            return f"the training error changed by no more than {stop:g} in epoch {len(self.rows)}"
        if self.rows and not self.rows[-1]["train_loss"] < float("inf"):
            return "diverged"
        return None

    def epoch(self) -> dict[str, Any]:
        """Train once over the rows. Returns what was seen: the training error is that of the outputs on the way."""
        (x, test), start, size = self.features, time.perf_counter(), self.options.batch_size
        wrong, total = torch.zeros((), dtype=torch.int64, device=x.device), torch.zeros((), device=x.device)
        for ids in torch.randperm(len(x), generator=self.order).to(x.device).split(size):
            y = self.net(x[ids])
            loss = summed(y, self.targets[ids])
            # the scripts' rate of the random diagonals is of a mean over the batch
            (loss / len(ids) if self.options.layer == "rd" else loss).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            wrong += (y.detach().argmax(1) != self.t[0][ids]).sum()
            total += loss.detach()
        self.seconds += time.perf_counter() - start
        self.rows.append(
            {
                "epoch": len(self.rows) + 1,
                "train_loss": total.item() / self.targets.numel(),
                "train_error_percent": 100 * wrong.item() / len(x),
                "test_error_percent": error_percent(self.net(test).detach(), self.t[1]),
                "train_seconds": self.seconds,
            }
        )
        return self.rows[-1]

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "layer": dict(self.net.state_dict()),
            "order": self.order.get_state(),
            "rows": self.rows,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.net.load_state_dict(state["layer"])
        self.order.set_state(state["order"])
        self.rows, self.seconds = state["rows"], state["seconds"]


def error_percent(y: Tensor, t: Tensor) -> float:
    """How many outputs (N, C) have their largest number at another class."""
    return 100 * (y.argmax(1) != t).double().mean().item()
