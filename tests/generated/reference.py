"""The reference: the plain network, run once as it is and once cut by its own tape. Knows nothing of skipback.

`exact` is a plain pass; it also finds every value that could be a port, and the outputs that it leads to. `cut` runs
the network with a choice among those values, and gives each block what is taught at its port, and the head what arrives
at the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from generated.data import Batch, loss_of
from generated.oracle import Error
from generated.outputs import Role, roles, unwrapped
from generated.recipes import Recipe
from generated.tape import Mark, Tape, listening

Gradients = dict[str, Tensor | None]


@dataclass(frozen=True)
class Exact:
    """A plain pass.

    Attributes:
        outputs: all tensors that the network returned.
        gradients: backprop's.
        errors: of each output that can teach.
        marks: every value that could be a port.
        leads: of each mark, whether it leads to each of those outputs.
        returned: the hidden values that were returned: by the number of the error, their marks.
        called: the names of the modules that ran.
    """

    outputs: list[Tensor]
    gradients: Gradients
    errors: list[Error]
    marks: list[Mark]
    leads: list[list[bool]]
    returned: dict[int, Mark]
    called: frozenset[str]


def run(net: nn.Module, batch: Batch) -> Any:
    """One forward pass, with the random numbers of this batch."""
    torch.manual_seed(batch.seed)
    return net(batch.x) if batch.labels is None else net(batch.x, labels=batch.labels)


def teaching(recipe: Recipe, outputs: Sequence[Tensor]) -> list[tuple[Role, Tensor]]:
    """The outputs that can teach."""
    return [(role, y) for role, y in zip(roles(recipe), outputs, strict=True) if role.kind in ("head", "hidden")]


def errors_of(recipe: Recipe, outputs: Sequence[Tensor], batch: Batch) -> list[Tensor]:
    """DL/dy at each output that can teach, as if the loss was taken outside of the network."""
    leaves = [y.detach().clone().requires_grad_(y.is_floating_point()) for y in outputs]
    loss_of(recipe, leaves, batch, inside=False).backward()
    return [torch.zeros_like(y) if y.grad is None else y.grad for _, y in teaching(recipe, leaves)]


def exact(net: nn.Module, recipe: Recipe, batch: Batch, blocks: frozenset[str]) -> Exact:
    """Run the network as it is."""
    net.zero_grad()
    with listening(Tape(blocks), net) as tape:
        outputs = unwrapped(run(net, batch))
    taught = teaching(recipe, outputs)
    leads = _leads([y for _, y in taught], tape.marks)
    hidden = {k: tape.last[id(y)] for k, (role, y) in enumerate(taught) if role.kind == "hidden" and id(y) in tape.last}
    loss_of(recipe, outputs, batch).backward()
    errors = [
        Error(_batch_first(e, role), _batch_first(y, role), role.maker, role.kind == "hidden")
        for e, (role, y) in zip(errors_of(recipe, outputs, batch), taught, strict=True)
    ]
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    return Exact(outputs, gradients, errors, tape.marks, leads, hidden, frozenset(tape.calls))


def _batch_first(value: Tensor, role: Role) -> Any:
    value = value.detach().movedim(role.batch, 0)
    return (value.unsqueeze(1) if value.dim() == 1 else value).numpy()


def _leads(outputs: Sequence[Tensor], marks: Sequence[Mark]) -> list[list[bool]]:
    """Which outputs each value leads to."""
    edges = [mark.edge for mark in marks]
    found = [
        torch.autograd.grad(y.sum(), edges, allow_unused=True, retain_graph=True)
        if y.requires_grad and edges
        else [None] * len(edges)
        for y in outputs
    ]
    return [[gradients[k] is not None for gradients in found] for k in range(len(edges))]


Taught = Callable[[Mark], Tensor | None]
"""What arrives at a port; `None` if nothing can."""


def behind(plain: Exact, choice: Mapping[str, int]) -> dict[int, Mark]:
    """The hidden values that are returned and lie behind the port of their block."""
    return {k: mark for k, mark in plain.returned.items() if mark.level > choice.get(mark.owner, mark.level)}


def cut(
    net: nn.Module,
    recipe: Recipe,
    batch: Batch,
    choice: Mapping[str, int],
    plain: Exact,
    errors: Sequence[Tensor],
    taught: Taught,
    *,
    hidden: bool,
) -> Gradients:
    """The gradients of a network that is cut at this choice of values.

    `hidden`: what lies behind a port is an output like others, and does not teach its block by its own gradient.
    """
    beyond = behind(plain, choice)
    found = _taught(net, recipe, batch, plain, choice, errors, taught, set(range(len(errors))) - beyond.keys())
    if hidden or not beyond:
        return found
    own = {mark.owner: mark.level for mark in beyond.values()}
    beside = _taught(net, recipe, batch, plain, {**choice, **own}, errors, None, set(beyond))
    return {name: _sum(found[name], beside[name]) for name in found}


def _taught(
    net: nn.Module,
    recipe: Recipe,
    batch: Batch,
    plain: Exact,
    choice: Mapping[str, int],
    errors: Sequence[Tensor],
    taught: Taught | None,
    which: Set[int],
) -> Gradients:
    tops = {(mark.owner, mark.call): mark.level for mark in plain.marks}  # the last one of each stays
    with listening(Tape(frozenset(choice), choice, tops), net) as tape:
        outputs = unwrapped(run(net, batch))
    both = zip(teaching(recipe, outputs), errors, strict=True)
    ends = [(y, e) for k, ((_, y), e) in enumerate(both) if k in which]
    if taught is not None:
        ends += [(mark.port, t) for mark in tape.marks if mark.port is not None and (t := taught(mark)) is not None]
    ends = [(y, e) for y, e in ends if y.requires_grad]
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad([y for y, _ in ends], list(named.values()), [e for _, e in ends], allow_unused=True)
    found: Gradients = dict.fromkeys(name for name, _ in net.named_parameters())
    return {**found, **dict(zip(named, gradients, strict=True))}


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b
