"""Backpropagation: the reference that every method is compared with.

    dL/dh_{l-1} = dL/dh_l @ dh_l/dh_{l-1}      from the head down, through the transposed forward weights

Needs the output, and the weights of all later blocks. The graph is left as it is, so this is plain PyTorch.

Paper: Rumelhart, Hinton, Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
Deviations: none.
"""

from __future__ import annotations

from skipback.core.method import Exact, Paper

PAPER = Paper(
    title="Learning representations by back-propagating errors",
    authors="David E. Rumelhart, Geoffrey E. Hinton, Ronald J. Williams",
    year=1986,
    venue="Nature 323, 533-536",
    url="https://doi.org/10.1038/323533a0",
)


def bp() -> Exact:
    """Backpropagation."""
    return Exact(paper=PAPER)


def as_published() -> Exact:
    """The `bp` mode of the F3 code: the same, the loss is a mean and so are all gradients."""
    return bp()
