"""Models of torchvision: classes of images and of clips, dense outputs, and a detector that returns its losses."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import vision
from entries import CLASSES, Entry, Inputs, N, images
from torch import Tensor, nn

IMAGES = """
convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_small
regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t
"""
VIT = {"image_size": 64, "patch_size": 16, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48}
MAXVIT = {
    "input_size": (64, 64),
    "stem_channels": 16,
    "partition_size": 2,
    "block_channels": [16, 32],
    "block_layers": [1, 2],
    "head_dim": 8,
    "stochastic_depth_prob": 0.0,
}


def _models(name: str = "") -> Any:
    return importlib.import_module(f"{vision.load().__name__}.models{name}")


def build(name: str, **changes: Any) -> nn.Module:
    """A model by its name, with random weights."""
    net: nn.Module = _models().get_model(name, weights=None, num_classes=CLASSES, **changes)
    return net


def _entry(name: str, inputs: Callable[[], Inputs], changes: dict[str, Any] | None = None, **more: Any) -> Entry:
    make = functools.partial(build, name, **(changes or {}))
    return Entry(library="torchvision", name=name, build=make, inputs=inputs, **more)


def _small(name: str, module: str, **changes: Any) -> Entry:
    """A model by its class, smaller than any that has a name."""
    return Entry(
        library="torchvision",
        name=name,
        build=lambda: getattr(_models(module), name)(num_classes=CLASSES, **changes),
        inputs=images(64),
    )


def _detection() -> Inputs:
    """Images with a box in each: a detector that trains takes the targets and returns its losses."""
    box = {"boxes": torch.tensor([[10.0, 10.0, 100.0, 100.0]]), "labels": torch.tensor([1])}
    return (list(torch.rand(N, 3, 320, 320)), [box] * N), {}


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


SCRATCH: dict[str, Any] = {"weights_backbone": None}
ENTRIES = [
    *(_entry(name, images(64)) for name in IMAGES.split()),
    _entry("inception_v3", images(96), {"init_weights": True, "aux_logits": False}),
    _entry("mc3_18", images(32, 3, 4)),
    _small("VisionTransformer", ".vision_transformer", **VIT),
    _small("MaxVit", ".maxvit", **MAXVIT),
    _entry("lraspp_mobilenet_v3_large", images(32), SCRATCH, classes=1),
    _entry("deeplabv3_mobilenet_v3_large", images(32), SCRATCH, classes=1),
    _entry("ssdlite320_mobilenet_v3_large", _detection, SCRATCH, pick=_total, classes=None),
]
