"""The numbers that the FDFA code reaches, reached by us. Run: python benchmarks/fdfa.py

MNIST, 784-800-800-10 with batch norm and ReLU, pixels in -1..1, cross-entropy, Adam 1e-4 for weights and feedback, lr
of the weights times 0.95 per epoch, batch 64; test accuracy after 2 epochs, and the cosine between teaching and exact
gradient at both ports (256 training samples, eval mode). Needs MNIST (SKIPBACK_DATA). Written to results/fdfa.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipback as sb
import timing
from skipback.draws import KaimingUniform
from skipback.core.feedback import Fixed
from skipback.lab import data, machine

SOURCE = "FDFA code (Florian-BACHO/FDFA, 20dd074), its own functions run on the same data, seed 1"
METHODS = {
    "bp": sb.bp(),
    "fdfa": sb.fdfa(),
    "dkp": sb.dkp(),
    "dfa": sb.dfa(feedback=Fixed(KaimingUniform(a=0.0))),
}
REFERENCE = {"bp": 97.57, "fdfa": 97.43, "dkp": 97.11, "dfa": 96.68}
COSINES = {"fdfa": (0.909, 0.986), "dkp": (0.562, 0.668), "dfa": (0.515, 0.618)}
TOLERANCE = 0.5


def pixels(split: data.Split) -> Tensor:
    """The images as (pixel / 255 - 0.5) / 0.5, from the standardised ones."""
    x = split.x - split.x.min()
    return x / x.max() * 2 - 1


def network() -> nn.Sequential:
    """784-800-800-10 with batch norm and ReLU."""
    hidden = [layer for i, o in ((784, 800), (800, 800)) for layer in (nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(800, 10))


def train(method: sb.Method, x: Tensor, t: Tensor, seed: int, epochs: int) -> sb.Learner:
    """Train one network as the FDFA code does."""
    torch.manual_seed(seed)
    learner = sb.attach(network(), method, example=x[:2], seed=seed, show=None)
    weights = list(learner.net.parameters())
    feedback = [p for p in learner.parameters() if all(p is not w for w in weights)]
    groups = [{"params": weights}, *([{"params": feedback}] if feedback else [])]
    optimizer = torch.optim.Adam(groups, lr=1e-4, fused=True)
    for _ in range(epochs):
        learner.train()
        for ids in torch.randperm(len(x)).split(64):
            F.cross_entropy(learner(x[ids]), t[ids]).backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] *= 0.95  # of the weights alone, as there
    return learner.eval()


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, t: Tensor) -> float:
    """Percent of the samples that are classified right."""
    right = sum((net(xs).argmax(1) == ts).sum().item() for xs, ts in zip(x.split(1000), t.split(1000), strict=True))
    return 100 * right / len(x)


def row(name: str, mnist: data.Dataset, seeds: int, epochs: int) -> dict[str, object]:
    """One method over some seeds, beside the reference."""
    x, t = pixels(mnist.train), mnist.train.t
    learners = [train(METHODS[name], x, t, seed, epochs) for seed in range(1, seeds + 1)]
    scores = [accuracy(learner, pixels(mnist.test), mnist.test.t) for learner in learners]
    aligned = [[a.cosine for a in sb.alignment(one, x[:256], t[:256], F.cross_entropy)] for one in learners]
    difference = statistics.fmean(scores) - REFERENCE[name]
    return {
        "name": name,
        "reference": REFERENCE[name],
        "ours": scores,
        "mean": statistics.fmean(scores),
        "std": statistics.stdev(scores),
        "difference": difference,
        "within": abs(difference) <= TOLERANCE,
        "cosines_reference": COSINES.get(name, ()),
        "cosines": [statistics.fmean(port) for port in zip(*aligned, strict=True)],
    }


def main() -> None:
    """Train all methods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/fdfa.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine.fast_float32()
    mnist = data.load("mnist")
    rows = [row(name, mnist, options.seeds, options.epochs) for name in METHODS]
    command = f"python benchmarks/fdfa.py --seeds {options.seeds} --epochs {options.epochs}"
    timing.write(options.out, command, {"source": SOURCE, "rows": rows})


if __name__ == "__main__":
    main()
