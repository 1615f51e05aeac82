"""Whole MNIST training, data included, against the loop that most people write. Run: python benchmarks/mnist.py

784-500-10, tanh, cross-entropy, Adam, at batch 50 (the published setting of F3) and 128; an epoch trains on 60,000
images and tests on 10,000. The plain loop is backprop with `torch.optim.Adam` as it comes and a `DataLoader` whose
data set makes, per image, a PIL image, a tensor and a normalised tensor (the steps of the usual transforms;
torchvision itself has no build for this torch). Ours is the loop of `skipback train`, with its evaluation and
alignment; once more with F3's steps written by hand, which is what the kernels alone take. Needs MNIST
(SKIPBACK_DATA). Written to results/mnist_speed.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import timing
from by_hand import by_hand
from skipback import precision
from skipback.lab import data, machine
from skipback.lab.config import Run
from skipback.lab.trainer import Trainer

HAND = "the same, f3's steps written by hand"


class ToTensor:
    """PIL image to a float tensor (1, H, W) in 0..1."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        array = torch.from_numpy(np.array(image, np.uint8, copy=True))
        pixels = array.view(image.size[1], image.size[0], 1).permute(2, 0, 1).contiguous()
        return pixels.to(torch.get_default_dtype()).div(255)


class Normalize(nn.Module):
    """(x - mean) / std per channel."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = [mean], [std]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = torch.as_tensor(self.mean, dtype=x.dtype), torch.as_tensor(self.std, dtype=x.dtype)
        if (std == 0).any():
            raise ValueError("std is zero")
        return x.clone().sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


class Images(Dataset):
    """uint8 images (N, 28, 28) with the usual per-image transforms."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels
        self.transforms = [ToTensor(), Normalize(0.1307, 0.3081)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        x = Image.fromarray(self.images[i].numpy())
        for transform in self.transforms:
            x = transform(x)
        return x, int(self.labels[i])


def plain(train: Images, test: Images, batch: int):
    """One epoch of the loop that most people write, as a call."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.Tanh(), nn.Linear(500, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1.5e-4)
    train_loader, test_loader = DataLoader(train, batch_size=batch, shuffle=True), DataLoader(test, batch_size=1000)

    def epoch() -> None:
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # what a plain loop has
        net.train()
        for x, t in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), t).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            right = sum((net(x).argmax(1) == t).sum().item() for x, t in test_loader)
        assert right > 8_000, "the opponent must learn, too"

    return epoch


def trainer_of(method: str, mnist: data.Dataset, batch: int) -> Trainer:
    """What `skipback train` makes."""
    run = Run(dataset="mnist", method=method, width=500, depth=1, lr=1.5e-4, batch_size=batch, loss="ce", epochs=1)
    return Trainer(run, mnist)


def ours(method: str, mnist: data.Dataset, batch: int):
    """One epoch of `skipback train`, with everything that it measures, as a call."""
    trainer = trainer_of(method, mnist, batch)

    def epoch() -> None:
        machine.fast_float32()  # what `skipback train` sets
        loss = trainer.epoch()
        row = trainer.row(1, loss)
        assert row["test_accuracy_percent"] > 80

    return epoch


def hand(mnist: data.Dataset, batch: int):
    """One epoch of the same loop, its F3 steps written by hand: what the kernels alone would take."""
    trainer = trainer_of("f3", mnist, batch)
    step = by_hand(trainer.learner, "adam", lr=trainer.run.lr, kernel=True)

    def epoch() -> None:
        precision.choose_product("none")  # small products are torch's own
        trainer.learner.train()
        total = sum(step(batch.x, batch.t, batch.ids) for batch in trainer.feed.epoch(batch, trainer.shuffle))
        machine.fast_float32()
        assert trainer.row(1, float(total))["test_accuracy_percent"] > 80

    return epoch


def pixels(split: data.Split) -> Images:
    """The official uint8 images, back from the standardised ones."""
    x = split.x.squeeze(1)
    return Images(((x - x.min()) / (x.max() - x.min()) * 255).round().to(torch.uint8), split.t)


def main() -> None:
    """Measure some epochs of each, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/mnist_speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    mnist = data.load("mnist")
    train, test = pixels(mnist.train), pixels(mnist.test)
    result = {}
    for batch in (50, 128):
        calls = {"plain": plain(train, test, batch)}
        calls |= {f"skipback train --method {m}": ours(m, mnist, batch) for m in ("bp", "dfa", "f3", "drtp")}
        if precision.exact():
            calls[HAND] = hand(mnist, batch)
        seconds = timing.interleaved(calls, rounds=options.epochs, warm_up=1)
        result[f"batch {batch}"] = timing.speeds(seconds, over="plain")
    timing.write(options.out, f"python benchmarks/mnist.py --epochs {options.epochs}", result)


if __name__ == "__main__":
    main()
