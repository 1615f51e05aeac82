"""Stability: does the teaching of a port point the same way in every batch?

A direction that changes from batch to batch averages out over training, however well it aligns within one. The faeval
study of feedback alignment measures this for backprop's gradient; here the teaching is measured beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipback.blocks import Layout, map_tensors
from skipback.blocks.contexts import untouched
from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.alignment import NORM_FLOOR, Verdict
from skipback.measure.aside import layout_of, prepare
from skipback.measure.rank import participation


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What was measured at one port. m_k is the mean over the samples of batch k, of K.

    Attributes:
        port: the block's name.
        cosine: mean over the K (K - 1) / 2 pairs of cos(m_j, m_k) of the teachings; 0 where invalid.
        null_band: two standard deviations of `cosine` if each sample had the sign of a coin, 2 sqrt(2 / (K (K - 1) r)),
            with r the effective rank of the teachings of all samples: the directions that a mean can take.
        verdict: valid outside of the band, suspicious inside of it, invalid where the mean of a batch vanishes or is no
            number (for methods that send nothing to the ports: always).
        exact_cosine: the same cosine of backprop's gradients dL/dh.
        exact_null_band: its own null band.
        exact_verdict: its own verdict.
    """

    port: str
    cosine: float
    null_band: float
    verdict: Verdict
    exact_cosine: float
    exact_null_band: float
    exact_verdict: Verdict


def stability(
    learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None, batches: int = 4
) -> list[Stability]:
    """Compare the mean teaching at every port, and the mean exact gradient, across batches. Nothing changes.

    Weights stay the same from batch to batch, dropout masks do not.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs: of all batches together.
        t: the target.
        loss: loss(output, target).
        ids: for delayed signals.
        batches: K, parts that the samples are split into, in their order and as equal as can be.

    Raises:
        ValueError: there are less than two batches or less than one sample for each, or the signal is a delayed one and
            `ids` is missing.
    """
    inputs = prepare(learner, x, ids)
    if not 2 <= batches <= len(t):
        raise ValueError(f"batches must be from 2 to the number of samples ({len(t)}), got {batches}")
    layout = layout_of(learner, inputs)
    with untouched(learner.net), torch.enable_grad():  # one for all batches: in another each, the masks would repeat
        found = [_batch(learner, layout, part, loss) for part in _split(inputs, t, ids, batches)]
    return [_compare(port, [one[port] for one in found]) for port in found[0]]


Part = tuple[tuple[Any, ...], Tensor, Tensor | None]
Pair = tuple[Tensor, Tensor]
"""The teachings and the exact gradients at one port, (N, D) each."""


def _split(inputs: tuple[Any, ...], t: Tensor, ids: Tensor | None, batches: int) -> list[Part]:
    positions = torch.arange(len(t)).tensor_split(batches)
    return [(map_tensors(inputs, picked), picked(t), map_tensors(ids, picked)) for picked in map(_picker, positions)]


def _picker(positions: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that selects these samples from a tensor with one row per sample."""
    return lambda tensor: tensor[positions.to(tensor.device)]


def _batch(learner: Learner, layout: Layout, part: Part, loss: Loss) -> dict[str, Pair]:
    inputs, t, ids = part
    teach = learner.teaching_probe(*inputs)
    outputs, ports = learner.observe(*inputs, layout=layout)
    e, gradients = outputs.error(loss(outputs.taken, t), ports)
    direct = learner.direct
    teachings = {} if direct is None else teach(learner.signal_inputs(e, outputs.y, t, ids), e.shape)
    return {
        port: (_rows(teachings.get(port, torch.zeros_like(gradient))), _rows(gradient))
        for port, gradient in gradients.items()
    }


def _rows(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).double()


def _compare(port: str, pairs: list[Pair]) -> Stability:
    cosine, band, verdict = _stable([teaching for teaching, _ in pairs])
    exact_cosine, exact_band, exact_verdict = _stable([gradient for _, gradient in pairs])
    return Stability(
        port=port,
        cosine=cosine,
        null_band=band,
        verdict=verdict,
        exact_cosine=exact_cosine,
        exact_null_band=exact_band,
        exact_verdict=exact_verdict,
    )


def _stable(batches: list[Tensor]) -> tuple[float, float, Verdict]:
    """The mean cosine of the means of every two batches, its null band, and whether it may be read."""
    means = torch.stack([batch.mean(0) for batch in batches])
    norms = means.norm(dim=1, keepdim=True)
    if not float(norms.min()) > NORM_FLOOR:  # also where it is not a number
        return 0.0, 0.0, Verdict.INVALID
    pairs = [float(a @ b) for a, b in itertools.combinations(means / norms, 2)]
    cosine = sum(pairs) / len(pairs)
    band = 2 / (len(pairs) * participation(torch.cat(batches))) ** 0.5
    return cosine, band, Verdict.VALID if abs(cosine) > band else Verdict.SUSPICIOUS
