"""Nøkland 2016, with the code anokland/dfa-torch: BP, FA and DFA on MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipback.lab.papers.base import GPU, Expected, Figure, Row, Seed, Table, by_epoch, deviations
from skipback.lab.papers.scores import ERROR, TRAIN_ERROR, cosine
from skipback.papers import NOKLAND_2016

PAPER = NOKLAND_2016
SEED = Seed(name="dfa-torch", url="https://github.com/anokland/dfa-torch")
DEVIATIONS = deviations(
    "The tables of the paper were not at hand: their values are from memory and marked unverified. Only the 1.45 % of "
    "the abstract and the 1.05 % of a published log (mlp-torch-results.txt) were read.",
    "The code counts 300 epochs and trains 299; so do the rows here.",
    "RMSprop is PyTorch's, with the same rule as Torch7's; in the summer of 2016 Torch7 started its average at 1, "
    "which may be what the paper ran, and damps the first 500 steps or so.",
    "Training error is the one of the pass that trains: with dropout, and on the adversarial inputs.",
    (
        "Whitening there adds 1e-5 to variances of pixels 0..255; pixels are 0..1 here, so 1e-5 / 255² is added.",
        ("cifar10", "cifar100"),
    ),
    (
        "Rates of the dense networks are not known, nor whether their inputs were whitened: the code's default 1e-4 "
        "and pixels in 0..1 are taken.",
        ("cifar10", "cifar100"),
    ),
    (
        "Values of `early` are the mean of no one: one run of the code, written anew in PyTorch by us. `DFA ce as "
        "coded` sends the target alone, which is what the code does under `-criterion ce` (a fault), divided by N.",
        ("early",),
    ),
    "With one hidden layer FA and DFA are the same algorithm, which is why the paper gives them one value.",
)

MEMORY = "paper's table, from memory"
LOG = "mlp-torch-results.txt in iacolippo/Direct-Feedback-Alignment, epoch 299"
REWRITTEN = "the code, written anew in PyTorch and run by us, one seed"
RMSPROP = {"optimizer": "rmsprop", "lr": 1e-4, "batch_size": 64, "epochs": 299}
COMMON = {**RMSPROP, "loss": "bce", "reduction": "sum", "prepare": "scale"}
MNIST = {**COMMON, "dataset": "mnist", "net": "mlp", "activation": "tanh"}
EPSILON = 1e-5 / 255**2


@dataclass(frozen=True)
class Cell:
    """A cell of the paper's tables, in percent: test error, its deviation over five runs, training error."""

    mean: float
    std: float
    train: float | None = None

    @property
    def expected(self) -> tuple[Expected, ...]:
        """Both errors; a training error that is not said is at most 0.01 %, by the caption."""
        test = Expected(score=ERROR, value=self.mean, std=self.std, n=5, source=MEMORY, unverified=True)
        train = Expected(
            score=TRAIN_ERROR,
            value=self.train,
            n=5,
            source=MEMORY if self.train is not None else "not known",
            unverified=self.train is not None,
            note="" if self.train is not None else "not said: 0.01 % or less",
        )
        return test, train


NONE = (Expected(score=ERROR, source=MEMORY, unverified=True, note="does not converge"),)


def own(method: str, activation: str = "tanh") -> dict[str, Any]:
    """The settings of a method: from 0 where the code starts from 0, which ReLU cannot leave.

    Args:
        method: bp, fa or dfa.
        activation: of the network.
    """
    start = {"start": "zero"} if method != "bp" and activation != "relu" else {}
    return {"method": method, "as_published": True, **start}


def group(
    recipe: Mapping[str, Any], name: str, bp: Cell | None, fa: Cell | None, dfa: Cell, *, needs: str = ""
) -> tuple[Row, ...]:
    """A line of the paper's tables: the three methods.

    Args:
        recipe: of the network.
        name: of the line.
        bp: what BP reaches; `None`: it does not converge. So for FA.
        fa: see `bp`.
        dfa: what DFA reaches.
        needs: of its rows.
    """
    cells = {"BP": bp, "FA": fa, "DFA": dfa}
    return tuple(
        Row(
            label=f"{name}, {label}",
            recipe={**recipe, **own(label.lower(), recipe["activation"])},
            expected=NONE if cell is None else cell.expected,
            needs=needs,
        )
        for label, cell in cells.items()
    )


def _size(depth: int, width: int, **more: Any) -> dict[str, Any]:
    return {**MNIST, "depth": depth, "width": width, **more}


DROPOUT = {"dropout": 0.5, "input_dropout": 0.1}
MNIST_ROWS = (
    *group(_size(7, 240), "7x240 tanh", Cell(2.16, 0.13), Cell(2.20, 0.13, 0.02), Cell(2.32, 0.15, 0.03)),
    *group(_size(100, 240), "100x240 tanh", None, None, Cell(3.92, 0.09, 0.12)),
    *group(_size(1, 800), "1x800 tanh", Cell(1.59, 0.04), Cell(1.68, 0.05), Cell(1.68, 0.05)),
    *group(_size(2, 800), "2x800 tanh", Cell(1.60, 0.06), Cell(1.64, 0.03), Cell(1.74, 0.08)),
    *group(_size(3, 800), "3x800 tanh", Cell(1.75, 0.05), Cell(1.66, 0.09), Cell(1.70, 0.04)),
    *group(_size(4, 800), "4x800 tanh", Cell(1.92, 0.11), Cell(1.70, 0.04), Cell(1.83, 0.07, 0.02)),
    *group(
        _size(2, 800, activation="sigmoid"), "2x800 logistic", Cell(1.67, 0.03), Cell(1.82, 0.10), Cell(1.75, 0.04)
    ),
    *group(_size(2, 800, activation="relu"), "2x800 ReLU", Cell(1.48, 0.06), Cell(1.74, 0.10), Cell(1.70, 0.06)),
    *group(
        _size(2, 800, **DROPOUT), "2x800 tanh dropout",
        Cell(1.26, 0.03, 0.18), Cell(1.53, 0.03, 0.18), Cell(1.45, 0.07, 0.24),
    ),
    *group(
        _size(2, 800, adversarial=0.08), "2x800 tanh adversarial",
        Cell(1.01, 0.08), Cell(1.14, 0.03), Cell(1.02, 0.05, 0.12),
    ),
)  # fmt: skip


def _cifar(dataset: str, lr: float, cells: tuple[tuple[Cell, Cell, Cell], ...]) -> tuple[Row, ...]:
    """1x1000, 3x1000, 3x1000 with dropout, and the conv net."""
    dense = {**COMMON, "dataset": dataset, "net": "mlp", "activation": "tanh", "width": 1000}
    conv = {
        **COMMON, "dataset": dataset, "net": "nokland-conv", "activation": "tanh", "lr": lr, "prepare": "zca",
        "zca_epsilon": EPSILON,
    }  # fmt: skip
    one, three, dropped, convolved = cells
    return (
        *group({**dense, "depth": 1}, "1x1000 tanh", *one),
        *group({**dense, "depth": 3}, "3x1000 tanh", *three),
        *group({**dense, "depth": 3, **DROPOUT}, "3x1000 tanh dropout", *dropped),
        *group(conv, "CONV tanh", *convolved, needs=GPU),
    )


CIFAR10 = _cifar(
    "cifar10",
    5e-5,
    (
        (Cell(45.1, 0.7, 2.5), Cell(46.4, 0.4, 3.2), Cell(46.4, 0.4, 3.2)),
        (Cell(45.1, 0.3, 0.2), Cell(47.0, 2.2, 0.3), Cell(47.4, 0.8, 2.3)),
        (Cell(42.2, 0.2, 36.7), Cell(46.9, 0.3, 48.9), Cell(42.9, 0.2, 37.6)),
        (Cell(22.5, 0.4), Cell(27.1, 0.8, 0.9), Cell(26.9, 0.5, 0.2)),
    ),
)
CIFAR100 = _cifar(
    "cifar100",
    2.5e-5,
    (
        (Cell(71.7, 0.2, 38.7), Cell(73.8, 0.3, 37.5), Cell(73.8, 0.3, 37.5)),
        (Cell(72.0, 0.3, 0.2), Cell(75.3, 0.1, 0.5), Cell(75.9, 0.2, 3.1)),
        (Cell(69.8, 0.1, 66.8), Cell(75.3, 0.2, 77.2), Cell(73.1, 0.1, 69.8)),
        (Cell(51.7, 0.2), Cell(60.5, 0.3), Cell(59.0, 0.3)),
    ),
)


def _early() -> tuple[Row, ...]:
    """2x800, the first epochs of every option."""
    recipe = {**_size(2, 800), "epochs": 4, "align_on": "test", "align_rows": 128}
    relu = {"activation": "relu"}
    adversarial = {"adversarial": 0.08, "epochs": 3}
    ce = {"loss": "ce", "reduction": "mean", "method": "dfa", "start": "zero"}
    target = {**ce, "method": "drtp", "feedback": "uniform"}
    table: dict[str, tuple[dict[str, Any], dict[int, float], tuple[float, ...], float | None]] = {
        "BP": (own("bp"), {1: 7.58, 2: 6.38, 3: 5.40, 4: 4.68}, (), None),
        "FA": (own("fa"), {1: 8.71, 2: 6.85, 3: 5.82, 4: 4.93}, (), None),
        "DFA": (own("dfa"), {1: 8.59, 2: 7.06, 3: 6.29, 4: 5.51}, (0.775, 0.849), None),
        "DFA, feedback within 1": (
            {**own("dfa"), "feedback": "uniform:1"}, {3: 6.04, 4: 5.42}, (0.775, 0.846), None
        ),
        "DFA ReLU": ({**own("dfa", "relu"), **relu}, {3: 4.88, 4: 4.15}, (0.725, 0.604), None),
        "FA ReLU, starts aligned": ({**own("fa", "relu"), **relu}, {3: 4.14, 4: 3.57}, (), None),
        "DFA ce": (ce, {1: 7.87, 2: 6.77, 3: 6.72, 4: 6.29}, (0.856, 0.872), None),
        "DFA ce as coded: target only": (target, {3: 8.74, 4: 8.20}, (0.201, 0.352), None),
        "DFA adversarial": ({**own("dfa"), **adversarial}, {3: 9.33}, (0.80, 0.82), 30.8),
        "DFA adversarial, clean gradients kept": (
            {**own("dfa"), **adversarial, "keep_clean_gradients": True}, {3: 7.44}, (0.795, 0.775), 33.7
        ),
    }  # fmt: skip
    rows = []
    for label, (settings, errors, cosines, train) in table.items():
        last = max(errors)
        expected = [*by_epoch(ERROR, errors, REWRITTEN, last=last)]
        expected += [Expected(score=cosine(k), value=v, source=REWRITTEN) for k, v in enumerate(cosines, start=1)]
        if train is not None:
            expected.append(Expected(score=TRAIN_ERROR, value=train, source=REWRITTEN))
        rows.append(Row(label=label, recipe={**recipe, **settings}, expected=tuple(expected)))
    return tuple(rows)


def _readme() -> tuple[Row, ...]:
    """The three commands of the README; the first is what the published log shows."""
    logged = (
        Expected(score=ERROR, value=1.05, source=LOG, note="the log does not show the network"),
        Expected(score=TRAIN_ERROR, value=0.10, source=LOG),
    )
    mnist = Row(
        label="MNIST 2x800 adversarial, DFA", recipe={**_size(2, 800, adversarial=0.08), **own("dfa")}, expected=logged
    )
    loud: dict[str, Any] = {"feedback": "uniform:1", "optimizer": "sgd"}
    sgd = Row(
        label="MNIST 2x800, DFA by SGD, feedback within 1",
        recipe={**_size(2, 800), **own("dfa"), **loud},
        expected=(Expected(score=ERROR, note='README: "X=1 works fine with SGD"'),),
    )
    return mnist, sgd


CURVES = (
    Figure(
        name="error",
        title="Test error by epoch, 2x800 tanh",
        score=ERROR,
        rows=("2x800 tanh, BP", "2x800 tanh, FA", "2x800 tanh, DFA"),
    ),
)
TABLES = (
    Table(
        name="mnist", title="MNIST, test error after the last epoch", rows=MNIST_ROWS, seeds=5, figures=CURVES
    ),
    Table(name="cifar10", title="CIFAR-10, test error after the last epoch", rows=CIFAR10, seeds=5),
    Table(name="cifar100", title="CIFAR-100, test error after the last epoch", rows=CIFAR100, seeds=5),
    Table(name="early", title="MNIST, 2x800: the first epochs of every option", rows=_early(), seeds=3),
    Table(name="readme", title="Commands of the README", rows=_readme()),
)  # fmt: skip
