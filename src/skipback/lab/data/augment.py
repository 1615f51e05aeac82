"""Augmentation of whole batches, on their device: no image ever passes through Python by itself.

An augmentation is a frozen record that says how many random `numbers` in 0..1 it needs per image and maps images
x (B, C, H, W) with such numbers u (B, numbers). They are drawn by one generator for a whole epoch at once
(`IndexedRows.epoch`), so the images do not depend on the batch size or the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Augment(Protocol):
    """Maps images (B, C, H, W) by random numbers (B, `numbers`) in 0..1."""

    @property
    def numbers(self) -> int:
        """How many random numbers one image needs."""

    def __call__(self, x: Tensor, u: Tensor, /) -> Tensor:
        """Map the images; `x` itself is never changed."""


@dataclass(frozen=True)
class Augments:
    """Augmentations, one after the other, each with numbers of its own."""

    steps: tuple[Augment, ...]

    @property
    def numbers(self) -> int:
        """Those of all steps."""
        return sum(step.numbers for step in self.steps)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Map the images."""
        for step, part in zip(self.steps, u.split([step.numbers for step in self.steps], dim=1), strict=True):
            x = step(x, part)
        return x


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left and right with probability `p`: torchvision's RandomHorizontalFlip."""

    numbers: ClassVar[int] = 1
    p: float = 0.5

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Map the images; they keep their type."""
        # rows of images and their mirror images: copying whole rows is five times as fast as writing some back
        chosen = torch.arange(len(x), device=x.device) + len(x) * (u[:, 0] < self.p)
        return torch.cat([x, x.flip(-1)]).index_select(0, chosen)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A window of the image's size at a random place of the padded image: torchvision's RandomCrop(size, padding).

    Attributes:
        padding: pixels on each side.
        fill: their value, in the units of the images.
    """

    numbers: ClassVar[int] = 2
    padding: int = 4
    fill: float = 0

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Map the images; they keep their type."""
        padded = F.pad(x, (self.padding,) * 4, value=self.fill)
        top, left = below(u, torch.tensor(2 * self.padding + 1)).unbind(1)
        return _windows(padded, top, left, x.shape[-2], x.shape[-1])


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Cover a square of `size` pixels whose centre is any pixel, so that it can reach over the edge.

    DeVries and Taylor (2017), arXiv 1708.04552, where `fill` is 0 on normalised images: their mean.
    """

    numbers: ClassVar[int] = 2
    size: int = 16
    fill: float = 0

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Map the images; they keep their type."""
        rows, columns = (self._covered(u[:, k], x.shape[k - 2]) for k in (0, 1))
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.fill)

    def _covered(self, u: Tensor, size: int) -> Tensor:
        """Which rows (or columns) of each image (B, size) the square covers."""
        start = below(u, torch.tensor(size))[:, None] - self.size // 2
        place = torch.arange(size, device=u.device)
        return (place >= start) & (place < start + 2 * (self.size // 2))


@dataclass(frozen=True, kw_only=True)
class ScaledCrop:
    """dfa-torch's `-augment`: a square smaller by s = 0..`margin` pixels anywhere, mirrored or not, scaled back.

    Scaled as torch7's `image.scale` does (bilinear, corners on corners). The original draws offsets from 1..s, which
    fails for s = 0, and augments its test images too; here offsets are 0..s, and a feed augments training rows only.
    """

    numbers: ClassVar[int] = 4
    margin: int = 8

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Map the images to float32."""
        cut = below(u[:, 0], torch.tensor(self.margin + 1))
        top, left = below(u[:, 1:3], (cut + 1)[:, None]).unbind(1)
        rows, columns = (
            start[:, None] + torch.linspace(0, 1, size, device=u.device) * (size - 1 - cut)[:, None]
            for start, size in ((top, x.shape[-2]), (left, x.shape[-1]))
        )
        columns = torch.where(u[:, 3:] < 0.5, columns.flip(1), columns)
        return resample(x, rows, columns)


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """A window of random area and shape anywhere, scaled to `size`: torchvision's RandomResizedCrop(size).

    FDFA trains AlexNet on CIFAR-100 so, at 224. Windows are never larger than the result there; where they are, this
    takes single pixels (no antialiasing).

    Attributes:
        size: height and width of the result.
        scale: least and greatest area, as a share of the image's.
        ratio: least and greatest width / height.
    """

    numbers: ClassVar[int] = 22  # ten tries of an area and a ratio, and a place
    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Map the images to float32 (B, C, size, size)."""
        height, width = self.windows(u[:, :20], x.shape[-2], x.shape[-1])
        top = below(u[:, 20], x.shape[-2] - height + 1)
        left = below(u[:, 21], x.shape[-1] - width + 1)
        return resample(x, halfway(top, height, self.size), halfway(left, width, self.size))

    def windows(self, u: Tensor, H: int, W: int) -> tuple[Tensor, Tensor]:
        """Height and width (B,) of each window: the first of ten tries that fits into H x W.

        Where none does, the whole image, narrowed to the nearest allowed ratio.
        """
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, ::2]) * (H * W)
        low, high = map(math.log, self.ratio)
        ratio = torch.exp(low + (high - low) * u[:, 1::2])
        width, height = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
        fits = (width > 0) & (width <= W) & (height > 0) & (height <= H)
        first = fits.int().argmax(1, keepdim=True)
        least = round(min(H, W / self.ratio[0])), round(min(W, H * self.ratio[1]))
        tall, wide = (
            torch.where(fits.any(1), side.gather(1, first).squeeze(1), whole).long()
            for side, whole in zip((height, width), least, strict=True)
        )
        return tall, wide


@dataclass(frozen=True, kw_only=True)
class Resize:
    """All of the image, scaled to `size`: torchvision's Resize, for the test images of `ResizedCrop`. A transform."""

    size: int = 224

    def __call__(self, x: Tensor) -> Tensor:
        """Map the images to float32 (B, C, size, size)."""
        shape = (self.size, self.size)
        return F.interpolate(x.to(torch.float32), shape, mode="bilinear", align_corners=False, antialias=True)


def below(u: Tensor, limit: Tensor) -> Tensor:
    """Whole numbers 0..limit - 1 from uniform numbers in 0..1."""
    return (u * limit.to(u.device)).long()  # the largest u, 1 - 2**-24, times the limit is still below it in float32


def halfway(start: Tensor, length: Tensor, size: int) -> Tensor:
    """The places (B, size) in the image that pixels of the result show: pixel centres on pixel centres.

    Held inside the window, so that nothing beyond its edge is mixed in.
    """
    step = (torch.arange(size, device=start.device) + 0.5) / size
    place = step * length[:, None] - 0.5
    return start[:, None] + torch.minimum(place.clamp_min(0), (length - 1)[:, None])


def resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples (B, C, H', W') of images (B, C, H, W), at fractional rows (B, H') and columns (B, W').

    A product with two matrices: the weight of pixel j at place p is max(0, 1 - |p - j|).
    """
    down, across = (
        (1 - (place[:, :, None] - torch.arange(size, device=x.device)).abs()).clamp_min_(0)[:, None]
        for place, size in ((rows, x.shape[-2]), (columns, x.shape[-1]))
    )
    return down @ (x.to(torch.float32) @ across.mT)


def _windows(x: Tensor, top: Tensor, left: Tensor, H: int, W: int) -> Tensor:
    """Windows of H x W of images (B, C, H', W'), each at its own place.

    Every run of W values in memory is a row of a view, so that the windows are one copy of whole rows.
    """
    B, C, height, width = x.shape
    runs = x.reshape(-1).as_strided((x.numel() - W + 1, W), (1, 1))
    planes = torch.arange(B * C, device=x.device).view(B, C, 1) * (height * width)
    rows = (top[:, None] + torch.arange(H, device=x.device)) * width + left[:, None]
    return runs.index_select(0, (planes + rows[:, None]).view(-1)).view(B, C, H, W)
