"""The oracle: what direct methods send, and what arrives at a port, in plain NumPy. Never imports skipback, nor torch.

    teaching_l = S B_l        S (N, C) the signal, B_l (C, *P) the feedback of port l

C counts the numbers of all outputs that teach, side by side, in the order in which the network returns them; outputs of
one maker (a head that is called twice) share columns, and their signals add up where a port leads to both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Error:
    """What arrives at one output: dL/dy, batch first, what was made (y), and the module that made it."""

    e: Array
    y: Array
    maker: str
    hidden: bool = False


@dataclass(frozen=True)
class Reading:
    """What an equation leaves open, and a library must choose once for all passes of a network.

    Attributes:
        hidden: whether a hidden value that is returned, and lies behind the port of its block, is among the outputs
            whose errors are sent. Else its gradient stays in that block, as does that of one before the port.
        led_to: whether a port learns only from the heads that it leads to. Of the outputs of one head it never learns
            from those that it does not lead to, as long as it leads to one: they belong to another call.
    """

    hidden: bool = False
    led_to: bool = False


@dataclass(frozen=True)
class Sent:
    """A signal: (N, C), and where the outputs have places (N, *places, C) too."""

    flat: Array
    placed: Array | None


def sent(
    method: str, errors: Sequence[Error], reading: Reading, given: Mapping[str, Any], leads: Sequence[bool]
) -> Sent:
    """The signal of all outputs side by side, for a port that leads to the outputs for which `leads` is true."""
    used = [(error, led) for error, led in zip(errors, leads, strict=True) if reading.hidden or not error.hidden]
    placed = _side_by_side([_channels_last(error.e) for error, _ in used])
    if placed is None:
        joined = np.concatenate([error.e.reshape(len(error.e), -1) for error, _ in used], 1)
        return Sent(_taught_columns(_signal(method, joined, given), used, reading), None)
    taught = _taught_columns(_signal(method, placed, given), used, reading)
    return Sent((np.moveaxis(taught, -1, 1) if taught.ndim == 4 else taught).reshape(len(taught), -1), taught)


def _taught_columns(signal: Array, used: Sequence[tuple[Error, bool]], reading: Reading) -> Array:
    """The signal of all outputs, with columns once for each maker: what it does not teach is left out of the sum."""
    reached = {error.maker for error, led in used if led}
    by_maker: dict[str, Array] = {}
    start = 0
    for error, led in used:
        e = _channels_last(error.e)
        width = e.shape[-1] if signal.ndim > 2 else e[0].size
        part, start = signal[..., start : start + width], start + width
        learns = led or not (error.maker in reached or reading.led_to)
        before = by_maker.get(error.maker, np.zeros_like(part))
        by_maker[error.maker] = before + part if learns else before
    return np.concatenate(list(by_maker.values()), -1)


def _channels_last(e: Array) -> Array:
    return np.moveaxis(e, 1, -1) if e.ndim == 4 else e


def _side_by_side(outputs: Sequence[Array]) -> Array | None:
    """Outputs that share their places, joined over the last dimension."""
    leads = {e.shape[:-1] for e in outputs}
    return np.concatenate(outputs, -1) if len(leads) == 1 and outputs[0].ndim > 2 else None


def _signal(method: str, e: Array, given: Mapping[str, Any]) -> Array:
    """The signal of an error (N, *places, C): a row is a place, and a mean is over the rows."""
    if method == "sdfa":
        return np.sign(e) / e[..., 0].size
    if method == "ternary_dfa":
        return np.sign(e) * (np.abs(e) > 0.1 * np.abs(e).max(-1, keepdims=True))
    if method in ("drtp", "f3"):  # known before the error: over the rows whose error is not exactly 0
        kept = (e != 0).any(-1, keepdims=True)
        return given["rows"] * kept / max(kept.sum(), 1)
    return e


@dataclass
class Memory:
    """F3: M[ids] is what the same sample left at its last visit; before the first one, what outputs of zeros leave."""

    rows: dict[int, Array] = field(default_factory=dict)

    def read(self, ids: Sequence[int], target: Array, *, softmax: bool) -> Array:
        initial = _left(np.zeros_like(target), target, softmax)
        return np.stack([self.rows.get(i, first) for i, first in zip(ids, initial, strict=True)])

    def write(self, ids: Sequence[int], y: Array, target: Array, *, softmax: bool) -> None:
        self.rows.update(zip(ids, _left(y, target, softmax), strict=True))


def _left(y: Array, target: Array, softmax: bool) -> Array:
    if not softmax:
        return y - target
    q = np.exp(y - y.max(-1, keepdims=True))
    return q / q.sum(-1, keepdims=True) - target


def teachings(signal: Sent, B: Array, shape: Sequence[int], batch: int, group: int, rows: Any) -> list[Array]:
    """What may arrive at a port of this shape; nothing if the feedback does not fit it.

    Args:
        signal: what is sent.
        B: (C, *P).
        shape: of the port.
        batch: its dimension of the batch.
        group: how many rows of it belong to one sample.
        rows: the samples that are in it, if not all are.
    """
    first = tuple(np.moveaxis(np.empty(shape), batch, 0).shape)
    P, S = B.shape[1:], signal.flat if rows is None else signal.flat[rows]
    found: list[Array] = []
    if len(B) == S.shape[1] and group == 1 and first[1:] == P:
        found.append(_times(S, B))
    if len(B) == S.shape[1] and group > 1 and first[1:] == P:
        found.append(np.repeat(_times(S, B), group, 0))
    if len(B) == S.shape[1] and group > 1 and (group, *first[1:]) == P:
        found.append(_times(S, B).reshape(first))
    found += _shared(signal, S, B, first, group, rows)
    return [np.moveaxis(t, 0, batch) for t in found]


def correlation(signal: Sent, h: Array, B: Array, group: int, rows: Any) -> Array:
    """S^T h of one port (batch first), of the shape of B: what direct Kolen-Pollack feedback learns from."""
    if signal.placed is not None and len(B) == signal.placed.shape[-1] and B.ndim == 2 and h.ndim > 2:
        h = np.moveaxis(h, 1, -1) if h.ndim == 4 else h
        return signal.placed.reshape(-1, len(B)).T @ h.reshape(-1, h.shape[-1])
    S = signal.flat if rows is None else signal.flat[rows]
    S = np.repeat(S, group, 0) if B.shape[1:] == h.shape[1:] else S
    return (S.T @ h.reshape(len(S), -1)).reshape(B.shape)


def _times(S: Array, B: Array) -> Array:
    return np.tensordot(S, B, 1)


def _shared(signal: Sent, S: Array, B: Array, first: tuple[int, ...], group: int, rows: Any) -> list[Array]:
    """Feedback (C, D) that is shared by the places of a port."""
    if B.ndim != 2 or len(first) < 3 or rows is not None:
        return []
    image = len(first) == 4
    D, spread = (first[1], first[2:]) if image else (first[-1], first[1:-1])
    if B.shape[1] != D:
        return []
    if signal.placed is not None and signal.placed.shape[-1] == len(B):
        if signal.placed.shape[1:-1] != spread:
            return []
        taught = signal.placed @ B
    elif S.shape[1] == len(B):
        each = np.repeat(S @ B, group, 0)
        taught = np.broadcast_to(each.reshape(len(each), *[1] * len(spread), D), (len(each), *spread, D))
    else:
        return []
    return [np.moveaxis(taught, -1, 1) if image else taught]
