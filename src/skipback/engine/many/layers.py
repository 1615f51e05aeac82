"""Layers: the dense blocks of N members as one batched block, on tensors that stack those of the members.

    a[n] = h[n] W[n]^T + b[n],  y = f(a);   delta = g * f'(a),  dW[n] = delta[n]^T h[n],  db[n] = sum over the batch

h, g: (N, B, in or out); W: (N, out, in); b: (N, out).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipback.step.rules import Dense


class MemberStack:
    """Stacks N tensors into one (N, *shape), and makes each of them a view of its slice, so that both stay equal.

    Args:
        own: one tensor of each member, parameters or buffers.
    """

    def __init__(self, own: Sequence[Tensor]) -> None:
        self.own = list(own)
        self.whole = torch.stack([part.detach() for part in own])
        for part, view in zip(self.own, self.whole, strict=True):
            part.data = view
        self.places = self._places()

    def check(self) -> None:
        """Refuse to train if a member's tensor is no longer a view of the stack.

        Raises:
            RuntimeError: a tensor was moved, or converted.
        """
        if self._places() != self.places:
            raise RuntimeError("a member was moved or converted while it was trained with others: build Many() again")

    def end(self) -> None:
        """Copy each member's slice into memory of its own."""
        for part in self.own:
            part.data = part.data.clone()

    def _places(self) -> list[int]:
        return [part.data_ptr() for part in self.own]


class MemberLayer:
    """One dense block of all members.

    Args:
        rules: the rule of this block, one for each member.
    """

    def __init__(self, rules: Sequence[Dense]) -> None:
        first = rules[0]
        self.activation, self.flatten = first.activation, first.flatten
        self.weight = MemberStack([r.weight for r in rules])
        self.bias = None if first.bias is None else MemberStack([r.bias for r in rules])
        self.stacks = [self.weight] if self.bias is None else [self.weight, self.bias]
        self.saved: tuple[Tensor, Tensor] | None = None

    def run(self, h: Tensor) -> Tensor:
        """From (N, B, in) to (N, B, out)."""
        h = h.flatten(2) if self.flatten else h
        W = self.weight.whole.mT
        a = torch.bmm(h, W) if self.bias is None else torch.baddbmm(self.bias.whole.unsqueeze(1), h, W)
        y = self.activation.f(a)
        self.saved = h, a if self.activation.needs_input else y
        return y

    def backward(self, g: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return delta, which may overwrite g, and the gradients of the stacks. Frees the saved activations."""
        assert self.saved is not None
        (h, saved), self.saved = self.saved, None
        delta = self.activation.backward_owned(g, saved)
        dW = torch.bmm(delta.mT, h)
        return delta, ([dW] if self.bias is None else [dW, delta.sum(1)])
