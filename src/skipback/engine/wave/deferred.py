"""Deferred: the updates of all blocks in one tick, in one call of the update."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from skipback.update import Parameters, Update


class DeferredUpdate(Update):
    """Collects gradients until `flush`, as each call of an update costs more than a small block's arithmetic.

    Args:
        update: applies all gradients at `flush`.
    """

    def __init__(self, update: Update) -> None:
        super().__init__(update.make)
        self.update, self.fuses = update, update.fuses
        self.parameters: list[nn.Parameter] = []
        self.gradients: list[Tensor | None] = []

    @override
    def apply(self, parameters: Parameters, gradients: Sequence[Tensor | None]) -> None:
        """Store the gradients for `flush`."""
        self.parameters += parameters
        self.gradients += gradients

    @override
    def fusable_rate(self, parameter: nn.Parameter) -> float | None:
        return self.update.fusable_rate(parameter)

    def flush(self) -> None:
        """Apply all stored gradients."""
        parameters, gradients, self.parameters, self.gradients = self.parameters, self.gradients, [], []
        self.update.apply(tuple(parameters), gradients)
