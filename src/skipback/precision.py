"""Precisions: in which arithmetic `learner.step` computes. The weights, and what the optimizer keeps, stay float32.

    onednn()   float32 products by oneDNN instead of MKL: twice as fast on AMD processors, and as exact
    bf16()     bfloat16 where `torch.autocast` takes it; gradients arrive, and weights change, in float32

A precision holds for one step: the settings of torch are put back at its end, also when it raises. There is no float16,
which loses small gradients without a scaled loss: for it, `torch.autocast`, `torch.amp.GradScaler` and `backward`.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

EXACT = 1e-3
"""Largest error of products of normal numbers with 512 terms: float32 leaves less than 1e-4, bfloat16 about 0.3."""


class Precision(ABC):
    """In which arithmetic a step computes."""

    @abstractmethod
    def during(self, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Inside, torch computes so.

        Args:
            parameters: of the learner.

        Raises:
            ValueError: these parameters, or this machine, cannot.
        """


@dataclass(frozen=True)
class OneDNN(Precision):
    """Float32 products by oneDNN; made by `onednn`."""

    @contextlib.contextmanager
    @override
    def during(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        _check_float32("onednn", parameters)
        device = parameters[0].device
        if device.type != "cpu":
            raise ValueError(
                f"precision=onednn(): the network is on {device}, oneDNN computes on the CPU: leave it out"
            )
        _check_exact()
        before = product()
        choose_product("bf16")
        try:
            yield
        finally:
            choose_product(before)


@dataclass(frozen=True)
class BF16(Precision):
    """bfloat16 by autocast; made by `bf16`."""

    @contextlib.contextmanager
    @override
    def during(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        _check_float32("bf16", parameters)
        with torch.autocast(parameters[0].device.type, torch.bfloat16):
            yield


def onednn() -> OneDNN:
    """Float32 by oneDNN's product on the CPU, for the time of a step.

    torch reaches it by a setting that is named after bfloat16 (`torch.backends.mkldnn.matmul.fp32_precision`), and a
    processor with bfloat16 tiles (Intel AMX) really rounds to that. So the product itself is checked, once.

    Raises:
        ValueError: this processor rounds.
    """
    _check_exact()
    return OneDNN()


def bf16() -> BF16:
    """Compute in bfloat16 as `torch.autocast` does; float32 weights, and an update in float32.

    The numbers are those of `torch.autocast(device, torch.bfloat16)` around the forward pass and the loss, `backward`
    outside of it, and a `torch.optim` optimizer. A stored error (F3) is read as it is stored: the type of the output,
    to which `backward` rounds it, is not known when it is sent.

    Worth it for wide layers and, with `compile=True`, for convolutions. Forward mode (FDFA) runs in float32 all the
    same, as autocast mixes types there, and without its closed form: for it, `onednn()` is faster.
    """
    return BF16()


def checked(precision: Any) -> Precision:
    """Return it, if it is a precision.

    Raises:
        TypeError: it is not; the message says what to pass instead.
    """
    if isinstance(precision, Precision):
        return precision
    if precision in (torch.float16, "float16", "fp16", "half"):
        raise TypeError(
            "precision: float16 loses small gradients unless the loss is scaled, which a step cannot try again: use "
            "torch.autocast(device, torch.float16), torch.amp.GradScaler and loss.backward(), or precision.bf16()"
        )
    raise TypeError(
        f"precision must be skipback.precision.onednn(), skipback.precision.bf16() or None, got {precision!r}"
    )


def product() -> str:
    """The setting for float32 products on the CPU, as torch names it."""
    setting: str = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return setting


def choose_product(setting: str) -> None:
    """Set it: "bf16" is oneDNN's product, "none" is torch's own choice."""
    torch.backends.mkldnn.matmul.fp32_precision = setting  # type: ignore[attr-defined]


def exact() -> bool:
    """Whether oneDNN multiplies float32 exactly on this machine. Changes no setting."""
    return error() < EXACT


@functools.cache
def error() -> float:
    """The largest error of oneDNN's float32 products on this machine; infinite without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return float("inf")
    before = product()
    choose_product("bf16")
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return error_of(torch.matmul)
    finally:
        choose_product(before)


def error_of(multiply: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The largest error of float32 products of normal numbers, of 512 terms as forwards and of 64 as for a gradient."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 512, generator=generator) for _ in range(2))
    wrong = [multiply(x, y) - x.double() @ y.double() for x, y in ((a, b.T), (a.T, b))]
    return max(w.abs().max().item() for w in wrong)


def _check_exact() -> None:
    if not exact():
        raise ValueError(
            f"precision=onednn(): on this processor oneDNN does not multiply float32 exactly: the largest error of a "
            f"product of 512 terms is {error():.2g}, and float32 stays below {EXACT:g}. Leave precision out, which is "
            "torch's own product, or take precision.bf16(), if bfloat16 will do"
        )


def _check_float32(name: str, parameters: Sequence[Tensor]) -> None:
    """Refuse parameters that are trained in another type: of them there is no float32 master."""
    for p in parameters:
        if p.dtype is not torch.float32 and p.requires_grad:
            raise ValueError(
                f"precision={name}() trains float32 weights, but one of shape {tuple(p.shape)} is {p.dtype}: call "
                "net.float() before attach(), or leave precision out to compute in the type of the weights"
            )
