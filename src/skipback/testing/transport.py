"""The contract of transport."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from skipback.testing.laws import (
    check_close,
    check_repeats,
    check_tensor,
    generator,
    law,
    name_of,
    noise,
    only_given,
    record,
)
from skipback.transport import Transport


def check_transport(transport: Transport, *, shapes: Sequence[tuple[int, ...]] = ((5, 7), (6, 4, 3, 3))) -> None:
    """Check the laws of `skipback.transport.Transport`.

    Args:
        transport: what replaces W transposed.
        shapes: of the weights that it is asked for.

    Raises:
        AssertionError: a law is broken.
    """
    with record(transport):
        _check(transport, shapes)


def _check(transport: Transport, shapes: Sequence[tuple[int, ...]]) -> None:
    what = name_of(transport)
    law(transport.learned or not transport.follows, f"{what} follows the gradient of W, but its B is not learned")
    for k, shape in enumerate(shapes):
        W = noise(*shape, seed=k)
        B = _check_init(transport, W)
        _check_weight(transport, W, B)
        _check_redraw(transport, W, B)
        _check_drift(transport, W, B)


def _check_init(transport: Transport, W: Tensor) -> Tensor:
    what = f"{name_of(transport)}.init"
    with only_given(what, W):
        B: Tensor = check_repeats(what, lambda: transport.init(W, generator()))
    check_tensor(B, W.shape, W.dtype, f"the B of {what}")
    law(not _share(B, W), f"{what} returns the memory of W itself, which learning would write over: clone it")
    return B


def _check_weight(transport: Transport, W: Tensor, B: Tensor) -> None:
    what = f"{name_of(transport)}.weight"
    with only_given(what, W, B):
        M = check_repeats(what, lambda: transport.weight(W, B))
    check_tensor(M, W.shape, W.dtype, f"the M of {what}")
    part = slice(1, 3)
    found = transport.weight(W[part], B[part])
    check_close(found, M[part], f"{what} of some rows of W and B is not those rows of M, as a packed layer needs")


def _check_redraw(transport: Transport, W: Tensor, B: Tensor) -> None:
    if not transport.random:
        return
    what = f"{name_of(transport)}.redraw"
    with only_given(f"{what} (an earlier pass may still wait for its backward)", W, B):
        found = check_repeats(what, lambda: transport.redraw(W, B, generator(2)))
    check_tensor(found, W.shape, W.dtype, f"the B of {what}")


def _check_drift(transport: Transport, W: Tensor, B: Tensor) -> None:
    what = f"{name_of(transport)}.drift"
    with only_given(what, W, B):
        drift = check_repeats(what, lambda: transport.drift(W, B, generator(3)))
    if drift is None:
        return
    law(transport.learned, f"{what} returns gradients, but B is not learned: nobody would step it")
    dW, dB = drift
    check_tensor(dB, B.shape, B.dtype, f"the dB of {what}")
    if dW is not None:
        check_tensor(dW, W.shape, W.dtype, f"the dW of {what}")


def _share(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
