"""The relay: the teaching of the first port, propagated forward to all later ports by forward mode.

u_1 = B_1[c]        u_l = (dh_l/dh_1) u_1        one forward pass for each of the C outputs
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from skipback.blocks import Cut
from skipback.core.feedback import ForwardPasses
from skipback.forward.tangents import tangent_pass


def relay(passes: ForwardPasses, first: str, B: Tensor) -> dict[str, Tensor]:
    """Propagate the rows of B forward from the first port.

    Args:
        passes: the network, its ports and the inputs; nothing of them changes.
        first: the block whose port B teaches.
        B: (C, *P_1).

    Raises:
        ValueError: a batch norm in training mode mixes the samples, and subtracts their mean; or a port is not reached
            from the first one.

    Returns:
        The tangents of each block's port (C, N, *P); of a block that is called several times, those of its last call.
    """
    for name, module in passes.net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"module {name!r} is a batch norm: it joins the samples in training, but this method carries the "
                "teaching of each sample forwards by itself. Use a layer or group norm, or dfa()"
            )
    found: dict[str, list[Tensor]] = {}
    for row in B:
        for block, tangent in _once(passes, first, row).items():
            found.setdefault(block, []).append(tangent)
    return {block: torch.stack(rows) for block, rows in found.items()}


def _once(passes: ForwardPasses, first: str, row: Tensor) -> dict[str, Tensor]:
    met: dict[str, Tensor] = {}

    def note(cut: Cut, port: Tensor) -> Tensor:
        primal, arrived = forward_ad.unpack_dual(port)
        if not met and cut.block == first:
            met[first] = row.to(primal).expand_as(primal)
            return met[first]
        if arrived is None:
            raise ValueError(
                f"port {cut.block!r} is not reached from the first port {first!r}, so its teaching cannot be carried "
                "there: this method is for networks in which each block follows the first one. Use dfa()"
            )
        met[cut.block] = arrived.clone()
        return torch.zeros_like(primal)

    tangent_pass(passes.net, passes.layout, passes.args, passes.kwargs, note)
    return met
