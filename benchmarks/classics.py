"""The numbers of two classic code bases, reached by us. Run: python benchmarks/classics.py --seeds 3

    dfa-torch        Nøkland 2016 (anokland/dfa-torch): MNIST 784-800-800-10, RMSprop 1e-4, batch 64
    principled-dfa   Launay 2019 (lightonai/principled-dfa-training): MNIST 784-800-800-800-10, SGD 5e-4, batch 128;
                     hidden layers are taught by the sum over the batch, the head by the mean

A reference is one run on the same data: of dfa-torch rewritten in PyTorch, of principled-dfa itself. Seeds are 0, 1 ..
and all rows get one before any gets two. A run is kept in results/classics.json as soon as it is there, and made again
only with --again. Needs MNIST (SKIPBACK_DATA).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipback as sb
from skipback.draws import Gaussian, Uniform
from skipback.core.feedback import Fixed
from skipback.lab import data, machine
from skipback.lab.records import atomic_write, to_json
from skipback.methods import fa, principled_dfa
from skipback.structures import Sliced

TOLERANCE = 0.7


def mlp(*after: Callable[[], nn.Module], hidden: int) -> nn.Sequential:
    """784 - 800 (`hidden` times) - 10, with these modules after each hidden layer."""
    blocks = [m for k in range(hidden) for m in (nn.Linear(800 if k else 784, 800), *[make() for make in after])]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(800, 10))


class Bottleneck(nn.Linear):
    """Linear; of the entries of its three gradients (weights, biases, input) a frozen random share passes, no more."""

    def __init__(self, passing: float, batch: int) -> None:
        super().__init__(800, 800)
        self.masks = [torch.bernoulli(torch.full(s, passing)) for s in ((800, 800), (800,), (batch, 800))]

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        pairs = zip(self.masks, (self.weight, self.bias, x), strict=True)
        weight, bias, x = (mask * p + (1 - mask) * p.detach() for mask, p in pairs)
        return F.linear(x, weight, bias)


def bottleneck(passing: int) -> nn.Sequential:
    """The middle layer lets `passing` of 800 through."""
    net = mlp(nn.Tanh, hidden=3)
    net[3] = Bottleneck(passing / 800, batch=128)
    return net


@torch.no_grad()
def zero(learner: sb.Learner, x: Tensor, t: Tensor, *, kept: int = 0) -> None:
    """All weights and biases 0; but for the first layer (`kept` = 2) in FA, where that is an ordinary one."""
    for p in list(learner.net.parameters())[kept:]:
        p.zero_()


def prealigned(learner: sb.Learner, x: Tensor, t: Tensor) -> None:
    """Weights that carry the error as the feedback does."""
    sb.init.prealigned(learner, x, t, F.cross_entropy)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of the reference. `cosines` are those at the ports after the last epoch, the first port first."""

    nokland: bool  # dfa-torch: pixels in 0..1, test error; else standardised, no incomplete batches, test accuracy
    name: str
    reference: dict[int, float]  # epoch: percent
    method: sb.Method
    of: str = "dfa"  # its name
    net: Callable[[], nn.Sequential]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    start: Callable[[sb.Learner, Tensor, Tensor], None] | None = None  # changes the weights, given one batch
    blocks: list[str] | str = "auto"
    eps: float = 0.0  # adversarial: x + eps sign(dL/dx), by exact backprop
    keep: bool = False  # ... whose clean gradients are added to the method's
    cosines: tuple[float, ...] = ()
    train_error: float | None = None  # percent in the last epoch, on what was trained


def bce(y: Tensor, t: Tensor) -> Tensor:
    """Summed over batch and outputs, so that the error is sigmoid(y) - t."""
    return F.binary_cross_entropy_with_logits(y, F.one_hot(t, 10).float(), reduction="sum")


def nokland(name: str, reference: dict, method: sb.Method, cosines: tuple = (), f: Callable = nn.Tanh, **rest):
    """A row of dfa-torch."""
    own = {"net": lambda: mlp(f, hidden=2), "method": method, "loss": bce, "cosines": cosines, **rest}
    return Row(nokland=True, name=name, reference=reference, **own)


def launay(name: str, reference: dict, *after: Callable, **rest) -> Row:
    """A row of principled-dfa: softmax(y) - t summed; |B| is 1 on average unless the row says otherwise."""
    own = {
        "net": lambda: mlp(*after, hidden=3), "method": principled_dfa.as_published(), "of": "principled_dfa", **rest
    }  # fmt: skip
    return Row(nokland=False, name=name, reference=reference, **own)


def narrow(passing: int, reference: dict, *cosines: float) -> Row:
    """The code puts no port before the bottleneck: layers 1 and 2 are one block there, with backprop inside."""
    rest = {"net": lambda: bottleneck(passing), "blocks": ["4", "6"], "cosines": cosines}
    return launay(f"bottleneck {passing}", reference, **rest)


# fmt: off
CE, LOUD, TARGET = F.cross_entropy, sb.dfa(feedback=Fixed(Uniform(1.0))), sb.drtp(feedback=Fixed(Uniform()))
ROWS = [
    nokland("BP", {1: 7.58, 2: 6.38, 3: 5.40, 4: 4.68}, sb.bp(), of="bp"),
    nokland("FA", {1: 8.71, 2: 6.85, 3: 5.82, 4: 4.93}, fa.as_published(), start=partial(zero, kept=2),
            of="fa"),
    nokland("DFA", {1: 8.59, 2: 7.06, 3: 6.29, 4: 5.51}, sb.dfa(), (0.775, 0.849), start=zero),
    nokland("DFA, feedback within 1", {3: 6.04, 4: 5.42}, LOUD, (0.775, 0.846), start=zero),
    nokland("DFA ReLU", {3: 4.88, 4: 4.15}, sb.dfa(), (0.725, 0.604), nn.ReLU),
    nokland("FA ReLU, starts aligned", {3: 4.14, 4: 3.57}, fa.as_published(), f=nn.ReLU, of="fa"),
    nokland("DFA ce", {1: 7.87, 2: 6.77, 3: 6.72, 4: 6.29}, sb.dfa(), (0.856, 0.872), start=zero, loss=CE),
    nokland("DFA ce as coded: target only", {3: 8.74, 4: 8.20}, TARGET, (0.201, 0.352), start=zero, loss=CE,
            of="drtp"),
    nokland("DFA adversarial", {3: 9.33}, sb.dfa(), (0.80, 0.82), start=zero, eps=0.08, train_error=30.8),
    nokland("DFA adversarial, clean gradients kept", {3: 7.44}, sb.dfa(), (0.795, 0.775), start=zero, eps=0.08,
            keep=True, train_error=33.7),
    launay("tanh", {1: 86.5, 2: 90.1, 3: 91.0}, nn.Tanh, cosines=(0.574, 0.497, 0.287)),
    launay("tanh, feedback N(0, 1)", {1: 94.3, 2: 95.7, 3: 96.2}, nn.Tanh, cosines=(0.202, 0.230, 0.298),
           method=principled_dfa.as_published(feedback=Sliced(Gaussian(1.0)))),
    launay("ReLU", {1: 87.6, 2: 90.4, 3: 91.8}, nn.ReLU, cosines=(0.659, 0.443, 0.116)),
    launay("LeakyReLU 0.5", {1: 88.2, 2: 90.3, 3: 91.5}, lambda: nn.LeakyReLU(0.5), cosines=(0.691, 0.449, 0.133)),
    launay("tanh, batch norm", {1: 91.3, 2: 93.0, 3: 94.2}, nn.Tanh, lambda: nn.BatchNorm1d(800)),
    # of the input 0.1: the reference does not say, the grid of the code does
    launay("tanh, dropout 0.5", {1: 70.7, 2: 86.8}, cosines=(0.47, 0.38, 0.23),
           net=lambda: nn.Sequential(nn.Dropout(0.1), *mlp(nn.Dropout, nn.Tanh, hidden=3))),
    launay("tanh, prealigned", {1: 89.7, 2: 91.2}, nn.Tanh, start=prealigned, cosines=(0.763, 0.916, 0.996)),
    narrow(8, {1: 53.7, 2: 74.9, 3: 81.5}, 0.097, 0.307),
    narrow(73, {1: 65.2, 2: 82.1, 3: 86.6}, 0.422, 0.285),
    narrow(308, {3: 90.2}, 0.522, 0.287),
    narrow(800, {3: 92.0}, 0.510, 0.291),
    launay("BP at that rate", {1: 65.2, 2: 72.7, 3: 74.5}, nn.Tanh, method=sb.bp(), of="bp"),
]
# fmt: on


def adversarial(learner: sb.Learner, x: Tensor, t: Tensor, row: Row) -> Tensor:
    """The images, moved along the sign of their exact gradient."""
    x = x.clone().requires_grad_()
    with learner.exact():
        row.loss(learner(x), t).backward()
    if not row.keep:
        learner.zero_grad()
    return (x + row.eps * x.grad.sign()).detach()


def epoch(learner: sb.Learner, optimizer: torch.optim.Optimizer, x: Tensor, t: Tensor, row: Row) -> float:
    """Train once over the data. Returns the percent of wrong answers on the way."""
    learner.train()
    wrong = 0
    size = 64 if row.nokland else 128
    for ids in torch.randperm(len(x)).split(size):
        if len(ids) < size and not row.nokland:
            continue
        xs = adversarial(learner, x[ids], t[ids], row) if row.eps else x[ids]
        y = learner(xs, target=t[ids])
        row.loss(y, t[ids]).backward()
        optimizer.step()
        optimizer.zero_grad()
        wrong += (y.argmax(1) != t[ids]).sum().item()
    learner.eval()
    return 100 * wrong / len(x)


def train(row: Row, mnist: data.Dataset, seed: int) -> dict[str, object]:
    """One seed of one row: the score after each epoch, the cosines at the ports on 128 test images, the train error."""
    low, high = mnist.train.x.min(), mnist.train.x.max()
    x, test = ((s.x - low) / (high - low) if row.nokland else s.x for s in (mnist.train, mnist.test))
    t, test_t = mnist.train.t, mnist.test.t
    torch.manual_seed(seed)
    learner = sb.attach(row.net(), row.method, x[:128], row.blocks, seed=seed, show=None)
    if row.start:
        row.start(learner, x[:128], t[:128])
    weights, scores = learner.parameters(), {}
    optimizer = torch.optim.RMSprop(weights, lr=1e-4) if row.nokland else torch.optim.SGD(weights, lr=5e-4)
    for k in range(1, max(row.reference) + 1):
        train_error = epoch(learner, optimizer, x, t, row)
        with torch.no_grad():
            right = (torch.cat([learner.net(part) for part in test.split(1000)]).argmax(1) == test_t).sum().item() / 100
        scores[str(k)] = round(100 - right if row.nokland else right, 2)
    cosines = [round(port.cosine, 3) for port in sb.alignment(learner, test[:128], test_t[:128], row.loss)]
    return {"scores": scores, "cosines": cosines, "train_error": round(train_error, 2)}


def summary(row: Row, runs: dict[str, dict]) -> dict[str, object]:
    """A row of the results: the reference beside our mean, after each epoch that the reference knows."""
    mean = {k: statistics.fmean(run["scores"][str(k)] for run in runs.values()) for k in row.reference}
    last = [run["scores"][str(max(row.reference))] for run in runs.values()]
    difference = {k: round(mean[k] - value, 2) for k, value in row.reference.items()}
    return {
        "code": "dfa-torch" if row.nokland else "principled-dfa",
        "name": row.name,
        "method": row.of,
        "score": "test error %" if row.nokland else "test accuracy %",
        "reference": row.reference,
        "mean": {k: round(value, 2) for k, value in mean.items()},
        "n": len(runs),
        "std": round(statistics.stdev(last), 2) if len(last) > 1 else None,
        "difference": difference,
        "within": abs(difference[max(row.reference)]) <= TOLERANCE,
        "cosines_reference": row.cosines,
        "cosines": [
            round(statistics.fmean(c), 3) for c in zip(*[run["cosines"] for run in runs.values()], strict=True)
        ],
        "train_error_reference": row.train_error,
        "train_error": round(statistics.fmean(run["train_error"] for run in runs.values()), 2),
        "seeds": runs,
    }


def line(row: dict) -> str:
    """A row of the table."""
    pairs = [f"{value:.2f} {row['mean'][k]:.2f} ({row['difference'][k]:+.2f})" for k, value in row["reference"].items()]
    verdict = "within" if row["within"] else "NOT within"
    return f"{row['code']}, {row['name']}, n={row['n']}: {'; '.join(pairs)}; {verdict}; {row['cosines']}"


def write(options: argparse.Namespace, runs: dict[str, dict]) -> list[dict]:
    """Keep the results. Returns their rows."""
    rows = [summary(row, runs[row.name]) for row in ROWS if runs.get(row.name)]
    environment = machine.describe(torch.device("cpu"), f"python benchmarks/classics.py --seeds {options.seeds}")
    atomic_write(options.out, to_json({"environment": environment, "tolerance": TOLERANCE, "rows": rows}))
    return rows


def main() -> None:
    """Train what is asked and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", default=names, choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="train these rows anew")
    parser.add_argument("--out", type=Path, default=Path("results/classics.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine.fast_float32()
    mnist = data.load("mnist")
    kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    runs = {row["name"]: row["seeds"] for row in kept if not (options.again and row["name"] in options.rows)}
    wanted = [(seed, row) for seed in range(options.seeds) for row in ROWS if row.name in options.rows]
    for seed, row in wanted:
        if str(seed) not in runs.setdefault(row.name, {}):
            runs[row.name][str(seed)] = train(row, mnist, seed)
            print(row.name, seed, runs[row.name][str(seed)], flush=True)
            write(options, runs)
    for row in write(options, runs):
        if row["name"] in options.rows:
            print(line(row))


if __name__ == "__main__":
    main()
