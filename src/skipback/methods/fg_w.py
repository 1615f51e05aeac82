"""Forward gradient, weights perturbed: one random direction for all weights, and the loss's derivative along it.

    s = <dL/dw, v> = <e, dy>        g(w) = s v         E[g] = dL/dw, since E[v v^T] = I

    v     direction, one number per parameter from N(0, 1), drawn at each step and shared by the batch
    dy    tangent of the output for the parameters' tangent v, from one pass in forward mode (N, C)
    e     gradient of the loss at the output (N, C)

With K directions: the mean of s_k v_k, or the projection of the gradient on their span (`estimate.projection`). No
feedback, no reverse mode, and no activation is kept: memory is that of inference, and K directions. Unbiased also where
samples are coupled (batch norm). The price is the variance, which grows with the number of parameters.

Paper: Baydin, Pearlmutter, Syme, Wood, Torr, "Gradients without Backpropagation", 2022, arXiv 2202.08587.
Several directions: Flügel et al., "Beyond Backpropagation: Optimization with Multi-Tangent Forward Gradients",
IJCNN 2025, arXiv 2410.17764.
Defaults: one direction per step, as in the paper and in the code of FDFA (`main_fwd_grad.py`).

Deviations of the library's convention from the published code:
1. Loop. The published code computes the derivative of the loss itself; here forward mode stops at the output and meets
   dL/dy in `loss.backward()`: the same number, for any loss, with the training loop left as it is. It costs a second
   forward pass.
2. Batch norm and buffers. The FDFA code refuses networks with buffers; here they work, and the extra pass leaves them
   as they were.
3. Parameters that the output does not depend on get no gradient (published: noise of mean zero).
"""

from __future__ import annotations

from skipback.core.method import Paper
from skipback.estimate import Combine, Estimate, Space, mean
from skipback.routes.perturbed import Perturbed

PAPER = Paper(
    title="Gradients without Backpropagation",
    authors="Atılım Güneş Baydin, Barak A. Pearlmutter, Don Syme, Frank Wood, Philip Torr",
    year=2022,
    venue="arXiv",
    url="https://arxiv.org/abs/2202.08587",
)


def fg_w(*, tangents: int = 1, combine: Combine = mean) -> Perturbed:
    """Forward gradient with perturbed weights.

    Args:
        tangents: random directions per step (K); each costs one forward pass.
        combine: how their derivatives become one gradient: `estimate.mean` (unbiased) or `estimate.projection`.
    """
    return Perturbed(paper=PAPER, estimate=Estimate(space=Space.WEIGHTS, tangents=tangents, combine=combine))


def as_published() -> Perturbed:
    """The published update: one direction per step."""
    return fg_w()
