"""The contract of draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipback.draws import Draw
from skipback.testing.laws import check_tensor, generator, law, name_of, only_given, record

SIZES = ((5, 7), (7, 5), (3, 3), (1, 6), (6, 1), (2, 4), (2, 9))
"""C and D; the last ones are powers of a number of values, which a cartesian product needs."""


def check_draw(draw: Draw, *, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Check the laws of `skipback.draws.Draw`.

    Args:
        draw: a draw; it may refuse some of the sizes by a ValueError.
        sizes: C and D of the matrices that it is asked for.

    Raises:
        AssertionError: a law is broken.
    """
    what, filled = name_of(draw), []
    with record(draw):
        for C, D in sizes:
            try:
                filled.append(_check_size(draw, C, D))
            except ValueError as error:
                refusal = error
    law(bool(filled), f"{what} refuses all of {list(sizes)}" + ("" if filled else f" ({refusal}): pass sizes="))


def _check_size(draw: Draw, C: int, D: int) -> Tensor:
    what = f"{name_of(draw)} of {C} x {D}"
    with only_given(what):
        B, again = draw(C, D, generator()), draw(C, D, generator())
    check_tensor(B, (C, D), torch.float32, what)
    law(B.device.type == "cpu", f"{what} lies on {B.device}: draw on the CPU, so that every device has the same bits")
    law(torch.equal(B, again), f"{what} differs for the same seed: draw from the generator alone")
    law(not B.requires_grad, f"{what} requires grad")
    law(B.numel() == 0 or B.is_contiguous(), f"{what} has strides {B.stride()}: entries must have memory of their own")
    law(B.data_ptr() != again.data_ptr(), f"{what} is the same memory at each call, which learning would write over")
    return B
