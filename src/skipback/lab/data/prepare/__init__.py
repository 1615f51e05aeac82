"""Preprocessing, fitted on the training rows and applied to all: each named after the code base that prepares so.

A preparation is a frozen record with `fit(x) -> transform`; a transform is a frozen record that maps any rows. Nothing
is ever fitted on a test row: `prepared` sees to that.

| name | formula | from |
|---|---|---|
| `Scale()` | (x - min) / max(x - min), both over all training pixels | dfa-torch, its default |
| `simple()` | (x - mean) / std over all pixels | dfa-torch, `simple` |
| `channel()` | the same per channel | dfa-torch, `channel` |
| `image()` | the same per pixel and channel, a constant one divided by 1 | dfa-torch, `image` (there: NaN) |
| `columns()` | the same per column of a table | F3's tables |
| `HALF` | (x / 255 - 0.5) / 0.5 | FDFA, all data sets |
| `MNIST`, `CIFAR10`, `CIFAR`, `IMAGENET` | the same with stored constants | F3 (two), principled-DFA (two) |
| `Yuv()` | luminance and two colour differences | dfa-torch, `-format yuv` |
| `Zca(epsilon)` | (x - mean) P, all training rows decorrelated | dfa-torch, `-whiten` (there 1e-5, on 0..255) |
| `AsTheyAre()` | x | F3, its table of incomes |
| `Compose((a, b))` | b fitted on what a gives | |
"""

from __future__ import annotations

from skipback.lab.data.prepare.affine import (
    CIFAR,
    CIFAR10,
    HALF,
    IMAGENET,
    MNIST,
    Affine,
    Constants,
    Fused,
    Scale,
    Standard,
    channel,
    columns,
    image,
    simple,
)
from skipback.lab.data.prepare.base import AsTheyAre, Compose, Preparation, Transform, in_chunks, prepared
from skipback.lab.data.prepare.categories import Categories, Codes
from skipback.lab.data.prepare.colour import Yuv
from skipback.lab.data.prepare.targets import TargetScale
from skipback.lab.data.prepare.whiten import Whitening, Zca
from skipback.renamed import renamed

__getattr__ = renamed(__name__, {"Chain": "Compose"})

__all__ = [
    "CIFAR",
    "CIFAR10",
    "HALF",
    "IMAGENET",
    "MNIST",
    "Affine",
    "AsTheyAre",
    "Categories",
    "Codes",
    "Compose",
    "Constants",
    "Fused",
    "Preparation",
    "Scale",
    "Standard",
    "TargetScale",
    "Transform",
    "Whitening",
    "Yuv",
    "Zca",
    "channel",
    "columns",
    "image",
    "in_chunks",
    "prepared",
    "simple",
]
