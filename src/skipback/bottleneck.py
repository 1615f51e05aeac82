"""A gradient bottleneck: a linear layer of whose gradients a fixed random share of the entries passes.

    y = x W^T + b                                   as ever
    dW = m_W * (g^T x)    db = m_b * sum_n g_n      dx = m_x * (g W)

    g             gradient at the layer's output (N, out)
    m_W, m_b, m_x masks of zeros and ones, each entry 1 with probability `passing`, drawn once and never changed

So that share of the weights is trained, and backprop reaches the layers below through that share of the numbers. With
one B for each port, as direct feedback has it, the layers below are taught past it.

Paper: Launay, Poli, Krzakala, Principled Training of Neural Networks with Direct Feedback Alignment (2019), arXiv
1906.04554, section on bottlenecks; its code masks in a backward hook, with p = b / 800.
Deviations: (1) one mask: where two networks or two passes are compared, as in the alignment with backprop, the masks
are the same ones, where the code's reference network draws its own, so that its cosines below the layer are p times the
true ones; (2) the rows of m_x are those of a batch in order, as published, and repeat where a batch has more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from typing_extensions import override


class MaskedLinear(nn.Linear):
    """A linear layer of whose gradients a fixed random share passes. See the module.

    The masks are buffers, kept in checkpoints. Drawn on the CPU, they are the same on every device under one seed.

    Args:
        inputs: units that come in.
        outputs: units that go out.
        passing: p, the probability that an entry of a gradient passes: above 0, at most 1.
        rows: of m_x: the samples of a batch.
        bias: whether there is one.
        generator: of the masks; `None` for torch's own.

    Raises:
        ValueError: `passing` or `rows` is out of range. In `forward`: x is not (N, inputs).
    """

    weight_mask: Tensor
    bias_mask: Tensor
    input_mask: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        passing: float,
        rows: int,
        bias: bool = True,
        generator: Generator | None = None,
    ) -> None:
        if not 0 < passing <= 1:
            raise ValueError(f"MaskedLinear: passing must be above 0 and at most 1, got {passing}")
        if rows < 1:
            raise ValueError(f"MaskedLinear: rows must be at least 1, got {rows}")
        super().__init__(inputs, outputs, bias=bias)
        self.passing = passing
        shapes = {"weight_mask": (outputs, inputs), "bias_mask": (outputs,), "input_mask": (rows, inputs)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.rand(shape, generator=generator) < passing)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"MaskedLinear: x must be (N, {self.in_features}), got {tuple(x.shape)}")
        bias = None if self.bias is None else _passed(self.bias_mask, self.bias)
        return F.linear(_passed(self._rows(len(x)), x), _passed(self.weight_mask, self.weight), bias)

    def _rows(self, count: int) -> Tensor:
        """The mask of a batch of so many rows."""
        rows = len(self.input_mask)
        return self.input_mask[:count] if count <= rows else self.input_mask.repeat(-(-count // rows), 1)[:count]

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, passing={self.passing:g}"


def _passed(mask: Tensor, value: Tensor) -> Tensor:
    """The value; its gradient is that of the entries where the mask is true."""
    return torch.where(mask, value, value.detach())
