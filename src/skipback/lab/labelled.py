"""Graphs of which some nodes have a label: the batch of a loss and of a signal are those nodes alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from skipback.core.method import Direct, Method
from skipback.core.records import Needs, SignalInputs
from skipback.lab.data.nodes import labelled
from skipback.routes.anchored import Anchored
from skipback.signals import Wrapper


@dataclass(frozen=True)
class Labelled(Wrapper):
    """The signal of the labelled nodes, as though they were the whole batch; 0 for all others.

    A loss over the labelled nodes has no gradient at the outputs of the others. A signal that is made of targets (DRTP)
    or of stored errors (F3) does not see that, and would teach every node; and its mean would be over all of them. A
    memory has a row for every node.
    """

    @property
    def needs(self) -> Needs:
        """Those of the inner signal, and the target, which says which nodes have a label."""
        return self.signal.needs | Needs.TARGET

    @property
    @override
    def means(self) -> bool:
        """Never over all rows: a mean is over the labelled ones already, so nothing is left to correct."""
        return False

    @override
    def __call__(self, step: SignalInputs) -> Tensor:
        assert step.target is not None
        has = labelled(step.target)
        values = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
        part = SignalInputs(**{name: None if value is None else value[has] for name, value in values.items()})
        return torch.zeros_like(step.target).index_put((has,), self.signal(part))


def of_labelled(method: Method) -> Method:
    """The method with a signal for the labelled nodes alone; a gradient of the loss is that already."""
    if isinstance(method, Anchored):
        return dataclasses.replace(method, method=of_labelled(method.method))
    if isinstance(method, Direct) and not method.signal.scales:
        return dataclasses.replace(method, signal=Labelled(method.signal))
    return method
