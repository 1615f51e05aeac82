"""Forward gradient, activities perturbed: each port is taught along its own noise, by the loss's derivative along it.

    teaching_{k,n} = s_n u_{k,n}        s_n = <e_n, dy_n> = sum_k <dL/dh_{k,n}, u_{k,n}>        E = dL/dh_{k,n}

    u_k   noise at port k, one number per sample and unit from N(0, 1), drawn at each step (N, *P_k)
    dy    tangent of the output for noise at all ports at once, from one pass in forward mode (N, C)
    e     gradient of the loss at the output (N, C)

Inside a block autograd applies f' and the rest. A layer has fewer units than weights, and each sample its own noise, so
the variance is far below that of `fg_w`. No feedback; needs the output, and forward mode through later blocks.

Paper: Ren, Kornblith, Liao, Hinton, "Scaling Forward Gradient With Local Losses", ICLR 2023, arXiv 2210.03310.
Several directions: Flügel et al., "Beyond Backpropagation: Optimization with Multi-Tangent Forward Gradients",
IJCNN 2025, arXiv 2410.17764.
Defaults: one direction per step.

Deviations of the library's convention from the paper:
1. Place. The paper perturbs pre-activations z, and leaves inactive ReLUs alone. Here noise enters at the port, so
   behind f, pooling and reshapes, and autograd multiplies by f' afterwards. Both are unbiased. The variance differs:
   units with f' = 0 are perturbed too and add to s, while pooling leaves fewer units to perturb.
2. Head. It gets the exact gradient, which is local to it (e, and its own input).
3. Coupled samples. s_n looks at the sample's own output. Batch norm in training mode couples samples, and what h_n
   does to the outputs of others is left out of the estimate's expectation. `fg_w` has it.
"""

from __future__ import annotations

from skipback.estimate import Combine, Estimate, Space, mean
from skipback.papers import REN_2023
from skipback.routes.perturbed import Perturbed

PAPER = REN_2023


def fg_a(*, tangents: int = 1, combine: Combine = mean) -> Perturbed:
    """Forward gradient with perturbed activities.

    Args:
        tangents: random directions per step (K); each costs one forward pass.
        combine: how their derivatives become one gradient: `estimate.mean` (unbiased) or `estimate.projection`.
    """
    return Perturbed(paper=PAPER, estimate=Estimate(space=Space.ACTIVITIES, tangents=tangents, combine=combine))


def as_published() -> Perturbed:
    """One direction per step; its place is ours (deviation 1)."""
    return fg_a()
