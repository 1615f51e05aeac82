"""FDFA: Bacho and Chu 2024, with the code Florian-BACHO/FDFA. Settings: its README and the defaults of main.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipback.lab.papers.base import GPU, Expected, Figure, Row, Seed, Table, by_epoch, deviations, unknown
from skipback.lab.papers.scores import ACCURACY, cosine
from skipback.methods import page

PAPER = page("fdfa").PAPER
SEED = Seed(name="fdfa", url="https://github.com/Florian-BACHO/FDFA", commit="20dd074")
DEVIATIONS = deviations(
    "Tables of the paper were not at hand, and GrAPE (2026) reports that it could not reproduce them. Values are those "
    "of the code's own functions, run on the same data (torch 2.13, CPU), one seed.",
    "As in the code, feedback is stepped by Adam at a constant rate, the weights' rate falls by 5 % an epoch. The "
    "paper's momentum is a moving average of the Jacobian: `FDFA, moving average` is the code's disabled line.",
    "Tangents come from a second forward pass that reverse mode does not record: the same update, less memory.",
    (
        "The conv nets are those of the code, without pooling after the first convolution; its README has 15C5-P2.",
        ("mnist-conv", "fashion-conv", "cifar10-conv"),
    ),
    (
        "main_fwd_grad.py crashes on networks with batch norm, so it has the plain network alone; here any runs.",
        ("forward-gradient",),
    ),
    "The code scores batches of the training size and averages their means; here all test samples count alike.",
    "main.py ignores its command line (a list in the source is used): rows are what its README says that they are.",
)

CODE = "the code's own functions, run by us, seed 1"
METHODS: dict[str, dict[str, Any]] = {
    "BP": {"method": "bp"},
    "DFA": {"method": "dfa", "feedback": "kaiming_he"},
    "DKP": {"method": "dkp", "as_published": True, "feedback_lr": 1e-4, "feedback_decay": 1e-6},
    "FDFA": {"method": "fdfa", "as_published": True, "feedback_lr": 1e-4},
}
AVERAGE: dict[str, Any] = {"method": "fdfa", "as_published": True, "feedback_lr": 1e-2, "feedback_optimizer": "sgd"}
TRAIN = {
    "loss": "ce", "optimizer": "adam", "lr": 1e-4, "schedule": "exponential:0.95", "prepare": "half",
    "batch_size": 64, "epochs": 100,
}  # fmt: skip
DENSE = {"net": "mlp", "activation": "relu", "batch_norm": True}


def group(
    recipe: Mapping[str, Any],
    known: Mapping[str, tuple[Expected, ...]] | None = None,
    *,
    methods: Mapping[str, Mapping[str, Any]] = METHODS,
    needs: str = "",
) -> tuple[Row, ...]:
    """One network, trained by each method.

    Args:
        recipe: what all rows share.
        known: what is expected, by label.
        methods: their own settings, by label.
        needs: of all rows.
    """
    return tuple(
        Row(
            label=label,
            recipe={**TRAIN, **recipe, **own},
            expected=(known or {}).get(label) or unknown(ACCURACY),
            needs=needs,
        )
        for label, own in methods.items()
    )


def _known() -> dict[str, tuple[Expected, ...]]:
    """784-800-800-10 on MNIST: accuracy after epochs 1, 2, 3, 5, 10, and the cosines at both ports after 2 and 10."""
    accuracies = {
        "BP": (97.14, 97.57, 97.95, 98.03, 98.24),
        "DFA": (95.07, 96.68, 97.36, 97.75, 97.85),
        "DKP": (95.96, 97.11, 97.60, 97.97, 98.08),
        "FDFA": (97.13, 97.43, 97.89, 98.10, 98.22),
        "FDFA, moving average": (96.96, 97.51, 97.91, 98.14, 98.27),
    }
    cosines = {
        "DFA": ((0.515, 0.527), (0.618, 0.739)),
        "DKP": ((0.562, 0.473), (0.668, 0.738)),
        "FDFA": ((0.909, 0.805), (0.986, 0.772)),
        "FDFA, moving average": ((0.877, 0.811), (0.891, 0.686)),
    }
    return {
        label: (
            *by_epoch(ACCURACY, dict(zip((1, 2, 3, 5, 10), values, strict=True)), CODE, last=100),
            *(
                expected
                for port, pair in enumerate(cosines.get(label, ()), start=1)
                for expected in by_epoch(cosine(port), dict(zip((2, 10), pair, strict=True)), CODE, last=100)
            ),
        )
        for label, values in accuracies.items()
    }


def _forward() -> tuple[Row, ...]:
    recipe: dict[str, Any] = {**TRAIN, "net": "mlp", "activation": "relu", "width": 800, "method": "fg_w", "lr": 1e-3}
    part = {1: 27.9, 2: 46.6, 3: 52.2, 4: 60.1}
    short = {**recipe, "dataset": "mnist", "depth": 1, "limit": 20_000, "epochs": 4}
    full = tuple(
        Row(label=label, recipe={**recipe, "dataset": name, "depth": 1}, expected=unknown(ACCURACY))
        for label, name in (("MNIST", "mnist"), ("Fashion-MNIST", "fashion-mnist"))
    )
    known = by_epoch(ACCURACY, part, "the code's own main_fwd_grad.py, first 20,000 images, seed 1", last=4)
    return (*full, Row(label="MNIST, first 20,000 images", recipe=short, expected=known))


CURVES = (Figure(name="accuracy", title="Test accuracy by epoch", score=ACCURACY),)
ALL = {**METHODS, "FDFA, moving average": AVERAGE}


def _dense(name: str, dataset: str, title: str, width: int) -> tuple[Table, ...]:
    """Depths 1, 2 and 3."""
    return tuple(
        Table(
            name=f"{name}-{depth}",
            title=f"{title}, {depth} x {width}, batch norm, ReLU",
            rows=group(
                {**DENSE, "dataset": dataset, "depth": depth, "width": width},
                _known() if (name, depth) == ("mnist", 2) else None,
                methods=ALL if (name, depth) == ("mnist", 2) else METHODS,
            ),
            seeds=3,
            figures=CURVES,
        )
        for depth in (1, 2, 3)
    )


def _conv(name: str, dataset: str, title: str) -> Table:
    return Table(
        name=name,
        title=f"{title}, 15C5-40C5-P2-128, batch norm, ReLU",
        rows=group({"dataset": dataset, "net": "fdfa-conv"}),
        seeds=3,
        figures=CURVES,
    )


TABLES = (
    *_dense("mnist", "mnist", "MNIST", 800),
    *_dense("fashion", "fashion-mnist", "Fashion-MNIST", 800),
    *_dense("cifar10", "cifar10", "CIFAR-10", 1000),
    _conv("mnist-conv", "mnist", "MNIST"),
    _conv("fashion-conv", "fashion-mnist", "Fashion-MNIST"),
    _conv("cifar10-conv", "cifar10", "CIFAR-10"),
    Table(
        name="cifar100-alexnet",
        title="CIFAR-100 at 224 x 224, AlexNet with batch norm",
        rows=group(
            {"dataset": "cifar100", "net": "alexnet", "augment": "flip+resized-crop", "batch_size": 128}, needs=GPU
        ),
    ),
    Table(name="forward-gradient", title="784-800-10, ReLU, weight-perturbed forward gradient", rows=_forward()),
)
