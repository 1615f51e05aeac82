"""Growth: does the residual stream explode from port to port?

A stream that grows hundredfold per block leaves gradients near zero in the early blocks, and a cosine with them says
nothing. The thresholds are those of the faeval study of feedback alignment on transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipback.blocks import Cut, tapped
from skipback.blocks.contexts import untouched
from skipback.core.records import Loss
from skipback.learner import Learner
from skipback.measure.alignment import NORM_FLOOR, Verdict
from skipback.measure.aside import layout_of, prepare

HEALTHY, EXPLODED = 25.0, 50.0


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What was measured at one port.

    Attributes:
        port: the block's name.
        norm: mean over samples of |h_n|.
        growth: this norm over that of the port before; 1 at the first one, 0 behind a port of zeros.
        verdict: valid up to 25, suspicious up to 50, invalid (exploded) above, not finite, or where the norm vanishes.
    """

    port: str
    norm: float
    growth: float
    verdict: Verdict


def growth(learner: Learner, x: Any, t: Tensor, loss: Loss, *, ids: Tensor | None = None) -> list[Growth]:
    """Measure |h_{l+1}| / |h_l| along the ports, in the order of the forward pass. Nothing changes.

    The network's growth is the largest of these. It compares like with like where all ports have one width.

    Args:
        learner: with any method.
        x: the input, or a tuple of inputs.
        t: not used; every measure takes the same arguments.
        loss: not used.
        ids: for delayed signals.
    """
    norms = _norms(learner, prepare(learner, x, ids))
    before = [next(iter(norms.values()), 0.0), *norms.values()]
    return [_growth(port, norm, last) for (port, norm), last in zip(norms.items(), before, strict=False)]


def _norms(learner: Learner, inputs: tuple[Any, ...]) -> dict[str, float]:
    norms: dict[str, float] = {}

    def keep(cut: Cut, port: Tensor) -> None:
        norms[cut.block] = float(port.detach().flatten(1).double().norm(dim=1).mean())

    layout = layout_of(learner, inputs)
    with tapped(learner.net, layout, keep), untouched(learner.net), torch.enable_grad(), learner.exact():
        learner.net(*inputs)
    return norms


def _growth(port: str, norm: float, before: float) -> Growth:
    ratio = norm / before if before > NORM_FLOOR else 0.0
    healthy, exploded = ratio <= HEALTHY and norm > NORM_FLOOR, not ratio <= EXPLODED or norm <= NORM_FLOOR
    verdict = Verdict.VALID if healthy else Verdict.INVALID if exploded else Verdict.SUSPICIOUS
    return Growth(port=port, norm=norm, growth=ratio, verdict=verdict)
