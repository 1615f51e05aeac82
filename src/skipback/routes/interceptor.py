"""Interceptor: while the network runs, intercept every torch function that takes a weight.

No layer is replaced: a `TorchFunctionMode` is on during the network's forward pass. Linear maps and convolutions by a
weight go to the route; other products by a weight are refused by name; everything else (activations, norms, softmax and
products of activations, pooling, sums, embeddings) is left to autograd, whose gradient is exact.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skipback.blocks import tensors
from skipback.routes.calls import CALLS, LayerCall

OnLayerCall = Callable[[str, nn.Parameter, LayerCall], Tensor]
"""(name of the weight, the whole parameter, the call) -> the layer's output."""

_RECURRENT = "write the cell out with nn.Linear layers"
_PRODUCT = "write it as torch.nn.functional.linear(x, weight), or as an nn.Linear"
_TRANSPOSED = "use nn.Upsample (or nn.PixelShuffle) and nn.Conv"
REFUSED = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _RECURRENT),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _RECURRENT),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _TRANSPOSED),
    **dict.fromkeys(
        ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "inner", "tensordot", "einsum"), _PRODUCT
    ),
    **dict.fromkeys(("addmm", "addmv", "addbmm", "baddbmm", "chain_matmul", "multi_dot"), _PRODUCT),
    **dict.fromkeys(("bilinear", "convolution", "scaled_dot_product_attention"), _PRODUCT),
}
"""Functions that multiply by a weight, and what to do instead."""

_ENDS = ("_TransportedBackward", "EmbeddingBackward0", "EmbeddingBagBackward0", "IndexBackward0")
"""Autograd nodes whose output is an activity: a tensor behind one is no function of weights alone."""


def _ungated(function: Any) -> Callable[..., Any]:
    """A Python function of torch without its `has_torch_function` dispatch, which would call the mode again."""
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


ATTENTION = _ungated(F.multi_head_attention_forward)


class WeightInterceptor(TorchFunctionMode):
    """Hands linear maps and convolutions by a weight to the route, during one pass of a network.

    Args:
        names: names of the network's parameters, by `id`.
        on_call: computes a linear map or a convolution by one of them.
    """

    def __init__(self, names: Mapping[int, str], on_call: OnLayerCall) -> None:
        super().__init__()
        self.names, self.on_call = names, on_call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand a function to the route, refuse it, or leave it to autograd. Torch switches the mode off in here."""
        kwargs = kwargs or {}
        if func in CALLS:  # also without grad: a checkpoint runs so first, and with grad in backward
            return self._call(func, CALLS[func](*args, **kwargs), args, kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return ATTENTION(*args, **kwargs)
        if torch.is_grad_enabled() and (name := getattr(func, "__name__", "")) in REFUSED:
            self._refuse(name, tensors((args, kwargs)))
        return func(*args, **kwargs)

    def owner(self, tensor: Tensor) -> nn.Parameter | None:
        """The parameter that a tensor is or views; `None` for other tensors."""
        base: Any = tensor if tensor._base is None else tensor._base
        return base if id(base) in self.names else None

    def _call(self, func: Any, call: LayerCall, args: Any, kwargs: Any) -> Any:
        weight = self.owner(call.weight)
        if weight is not None:
            y = self.on_call(self.names[id(weight)], weight, call)
            return y if call.squeeze is None else y.squeeze(call.squeeze)
        if call.weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"torch.{func.__name__} got a weight {tuple(call.weight.shape)} that is no parameter of the network, "
                f"but computed{self._origin(call.weight)}: it has no feedback, and its error would pass by backprop. "
                "Remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations), or train it by a "
                "direct method such as skipback.dfa()"
            )
        return func(*args, **kwargs)

    def _refuse(self, name: str, operands: list[Tensor]) -> None:
        for operand in operands:
            weight = next(self._weights(operand), None)
            if weight is not None and not (name == "bilinear" and weight.dim() < 2):
                raise RuntimeError(
                    f"parameter {self.names[id(weight)]!r} takes part in torch.{name}, and the layerwise route has no "
                    f"feedback there: {REFUSED[name]}; or train the network by a direct method such as skipback.dfa()"
                )

    def _weights(self, operand: Tensor) -> Iterator[nn.Parameter]:
        """The weight matrices that an operand is, views, or is computed from without any activity."""
        owner = self.owner(operand)
        if owner is not None:
            yield from [owner] if owner.dim() >= 2 else []
        elif operand.grad_fn is not None:
            yield from (p for p in _sources(operand) if id(p) in self.names and p.dim() >= 2)

    def _origin(self, weight: Tensor) -> str:
        names = [self.names[id(p)] for p in _sources(weight) if id(p) in self.names]
        return f" from {', '.join(map(repr, names))}" if names else " elsewhere"


def _sources(tensor: Tensor) -> list[nn.Parameter]:
    """The parameters that a tensor is computed from; none if an activity is among its inputs."""
    found: list[nn.Parameter] = []
    todo: list[Any] = [tensor.grad_fn]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name() in _ENDS:
            return []
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), nn.Parameter):
            found.append(leaf)
        todo.extend(parent for parent, _ in node.next_functions)
    return found
