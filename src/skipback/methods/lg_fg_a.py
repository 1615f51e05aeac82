"""Local greedy losses, activities perturbed: each block learns by a forward gradient of its own classifier's loss.

    z_l = A_l h_l + a_l        L_l = cross-entropy(z_l, t)        e_l = dL_l/dz_l = (softmax(z_l) - t) / N
    teaching_{l,n} = s_n u_{l,n}        s_n = <e_{l,n}, A_l u_{l,n}>        dA_l = e_l^T h_l

    A_l   classifier of port l (C, D_l), learned; a_l its bias (C,)
    u_l   noise at port l, one number per sample and unit from N(0, 1), drawn at each step (N, D_l)
    t     target (N, C), one-hot for classes

Inside a block autograd applies f' and the rest; no gradient passes between blocks. The derivative reaches as far as
the block's classifier, so its variance does not grow with depth. Needs the target, no output and no weight of another
block: a block could learn as soon as its own output is there.

Paper: Ren, Kornblith, Liao, Hinton, "Scaling Forward Gradient With Local Losses", ICLR 2023, arXiv 2210.03310.
Defaults: one direction per step; classifiers start from U(-1/sqrt(D), 1/sqrt(D)), torch's default for a linear layer.

Deviations of the library's convention from the paper:
1. Blocks. The paper's blocks have several layers, each perturbed, and its losses are split over patches and groups of
   channels too. Here a block is what lies between two ports (by default one layer), its port is perturbed, one loss is
   taken of all units of the port, and autograd is exact inside the block.
2. Place. Noise enters behind the activation function (deviation 1 of `fg_a`).
3. Head. It learns from the user's own loss, by its exact gradient, and the classifiers by the exact one of theirs.
4. Loss. The local losses are means over the batch, and cannot see what the user's loss is multiplied with: pass
   `scale`.
"""

from __future__ import annotations

from skipback.estimate import Combine, Estimate, Space, mean
from skipback.papers import REN_2023
from skipback.routes.perturbed import Perturbed

PAPER = REN_2023


def lg_fg_a(*, tangents: int = 1, combine: Combine = mean) -> Perturbed:
    """Local greedy forward gradient. Pass the target along: `learner(x, target=t)`, and `example=` to `attach`.

    Args:
        tangents: random directions per step (K).
        combine: how their derivatives become one gradient: `estimate.mean` (unbiased) or `estimate.projection`.
    """
    estimate = Estimate(space=Space.ACTIVITIES, tangents=tangents, combine=combine, local=True)
    return Perturbed(paper=PAPER, estimate=estimate)


def as_published() -> Perturbed:
    """One direction per step; its blocks and its place are ours (deviations 1 and 2)."""
    return lg_fg_a()
