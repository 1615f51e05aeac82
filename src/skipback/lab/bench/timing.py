"""Fair timing on a noisy machine: variants interleaved, medians of paired ratios.

On the CPU it is the CPU time of one thread, which other programs on the machine hardly change. A GPU works on its own
while Python goes on, so there it is the time on the clock on the wall, read when the GPU has done all its work.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Variant = Callable[[], object]
"""One training step, as a call without arguments."""
Clock = Callable[[], float]
"""Seconds since some moment."""


def clock(device: torch.device) -> Clock:
    """The clock by which work on a device is timed."""
    return waiting(torch.cuda.synchronize) if device.type == "cuda" else time.process_time


def waiting(wait: Callable[[], object], now: Clock = time.perf_counter) -> Clock:
    """A clock that is read when what was begun is done.

    Args:
        wait: until it is.
        now: the clock.
    """

    def read() -> float:
        wait()
        return now()

    return read


def interleaved(
    variants: Mapping[str, Variant], *, rounds: int, warm_up: int = 3, now: Clock = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each call, one call of every variant per round, in an order that changes by round.

    Args:
        variants: calls.
        rounds: how many.
        warm_up: calls of each before.
        now: the clock; CPU time unless it says otherwise.

    Raises:
        ValueError: torch has several threads. Their CPU time adds up, so a variant that waits less would look slower.
    """
    if now is time.process_time and torch.get_num_threads() != 1:
        raise ValueError(f"torch has {torch.get_num_threads()} threads: call torch.set_num_threads(1) before measuring")
    for call in variants.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0).shuffle  # noqa: S311
    for _ in range(rounds):
        shuffle(order)  # else each would always find the caches as the same other one leaves them
        for name in order:
            start = now()
            variants[name]()
            seconds[name].append(now() - start)
    return seconds


def repeated(call: Variant, times: int) -> Variant:
    """Several calls in one: a training loop finds its own weights and code in the cache, a lone step finds none."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def speeds(seconds: Mapping[str, list[float]], over: str, *, steps: int = 1) -> dict[str, dict[str, float]]:
    """Per variant: the median in milliseconds, and how many times as fast as `over` (median of per-round ratios).

    Args:
        seconds: of each call, by variant.
        over: the variant that is 1.
        steps: in one call.
    """
    return {
        name: {
            "median_ms": 1e3 * statistics.median(times) / steps,
            "times_as_fast": statistics.median(b / a for a, b in zip(times, seconds[over], strict=True)),
        }
        for name, times in seconds.items()
    }
