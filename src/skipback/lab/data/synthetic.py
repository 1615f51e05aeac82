"""Made-up tasks, drawn anew from a fixed seed: a teacher network, a linear map, and the two of the DRTP paper.

`RandomState` is used because its stream never changes between versions of NumPy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skipback.lab.data import table
from skipback.lab.data.base import Card, Dataset, Task
from skipback.lab.data.source import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Arrays = tuple["NDArray[Any]", "NDArray[Any]"]
_DRTP = (
    "Frenkel, C., Lefebvre, M. and Bol, D. (2021). Learning Without Feedback: Fixed Random Learning Signals Allow for "
    "Feedforward Training of Deep Neural Networks. Frontiers in Neuroscience 15. https://arxiv.org/abs/1909.01311"
)
_DRTP_HOME = "https://github.com/ChFrenkel/DirectRandomTargetProjection"


def teacher_student() -> tuple[Arrays, Arrays]:
    """Y = V tanh(W x), x ~ N(0, I) of 20, a fixed teacher of 50 hidden units, weights N(0, 1 / fan-in); 5 outputs."""
    import numpy as np

    random = np.random.RandomState(0)
    hidden, output = random.randn(50, 20) / math.sqrt(20), random.randn(5, 50) / math.sqrt(50)
    x = random.randn(6000, 20)
    t = np.tanh(x @ hidden.T) @ output.T
    return (x[:5000], t[:5000]), (x[5000:], t[5000:])


def linear_map() -> tuple[Arrays, Arrays]:
    """Y = M x: M (10, 10) of whole numbers from -10 to 9, x ~ N(0, I); the training rows are those of the notebook."""
    import numpy as np

    random = np.random.RandomState(1234)  # with this seed the published run comes back digit by digit
    matrix = random.randint(-10, 10, (10, 10)).astype(float)
    x, more = random.randn(1000, 10), np.random.RandomState(1235).randn(1000, 10)
    return (x, x @ matrix.T), (more, more @ matrix.T)


def drtp_regression() -> tuple[Arrays, Arrays]:
    """X ~ N(m, 1) of 256 with m uniform in +-pi, one m a row; t_i = cos(mean(x) + pi (i - 4.5) / 9), i = 0..9."""
    import numpy as np

    random = np.random.RandomState(0)
    centre = math.pi * (2 * random.rand(6000, 1) - 1)
    x = centre + random.randn(6000, 256)
    t = np.cos(x.mean(axis=1, keepdims=True) + math.pi * (np.arange(10) - 4.5) / 9)
    return (x[:5000], t[:5000]), (x[5000:], t[5000:])


def drtp_classification() -> tuple[Arrays, Arrays]:
    """Ten classes of five clusters each in 256 dimensions, 128 of them informative; 25,000 and 5,000 rows."""
    x, t = clusters(30_000, features=256, informative=128, classes=10, per_class=5, separation=4.5, seed=0)
    return (x[:25_000], t[:25_000]), (x[25_000:], t[25_000:])


def clusters(
    samples: int, *, features: int, informative: int, classes: int, per_class: int, separation: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What scikit-learn's make_classification draws (no redundant features, 1 % random labels, shuffled).

    Clusters sit at corners of a hypercube of side 2 * separation, each a normal cloud times a random matrix; class is
    cluster modulo classes. Source: Guyon, I. (2003), Design of experiments for the NIPS 2003 variable selection.
    """
    import numpy as np

    random, count = np.random.RandomState(seed), classes * per_class
    centres = 2.0 * separation * _corners(count, informative, random) - separation
    sizes = np.full(count, samples // classes // per_class) + (np.arange(count) < samples - samples // count * count)
    ends = np.cumsum(sizes)
    x, t = np.zeros((samples, features)), np.repeat(np.arange(count) % classes, sizes)
    x[:, :informative] = random.standard_normal((samples, informative))
    for start, end, centre in zip(ends - sizes, ends, centres, strict=True):
        shape = 2 * random.uniform(size=(informative, informative)) - 1
        x[start:end, :informative] = x[start:end, :informative] @ shape + centre
    x[:, informative:] = random.standard_normal((samples, features - informative))
    wrong = random.uniform(size=samples) < 0.01
    t[wrong] = random.randint(classes, size=wrong.sum())
    rows, columns = np.arange(samples), np.arange(features)
    random.shuffle(rows)
    random.shuffle(columns)
    return x[rows][:, columns], t[rows].astype(np.int64)


def _corners(count: int, dimensions: int, random: np.random.RandomState) -> NDArray[np.float64]:
    """Distinct corners (count, dimensions) of 0 and 1: the last 30 coordinates differ, those before are free."""
    import numpy as np

    if dimensions > 30:
        free = random.randint(2, size=(count, dimensions - 30))
        return np.hstack([free, _corners(count, 30, random)]).astype(float)
    chosen: dict[int, None] = {}  # in the order of drawing
    while len(chosen) < count:
        chosen[int(random.randint(2**dimensions))] = None
    return np.array([[corner >> bit & 1 for bit in reversed(range(dimensions))] for corner in chosen], float)


def build(_: Any, task: Task, *, card: Card, make: Callable[[], tuple[Arrays, Arrays]]) -> Dataset:
    """The drawn rows as float32, not standardised: the tasks are defined as they are."""
    splits = make()
    classes = card.outputs[task] if task is Task.CLASSIFICATION else 0
    train, test = (table.split(x.astype("float32"), t if classes else t.astype("float32")) for x, t in splits)
    return Dataset(
        name=card.name,
        task=task,
        outputs=card.outputs[task],
        train=train,
        test=test,
        classes=tuple(map(str, range(classes))),
    )


def _card(name: str, title: str, task: Task, inputs: int, outputs: int, train: int, test: int, **more: Any) -> Card:
    return Card(
        name=name,
        title=title,
        tasks=(task,),
        shape=(inputs,),
        outputs={task: outputs},
        train=train,
        test=test,
        licence="none needed: computed here",
        **more,
    )


_MADE: tuple[tuple[Card, Callable[[], tuple[Arrays, Arrays]]], ...] = (
    (
        _card(
            "teacher-student",
            "Teacher-student, the outputs of a random tanh network",
            Task.REGRESSION,
            20,
            5,
            5000,
            1000,
            citation="Saad, D. and Solla, S. A. (1995). On-line learning in soft committee machines. PRE 52, 4225.",
            homepage="https://doi.org/10.1103/PhysRevE.52.4225",
            traps=("Without noise: a network of the teacher's form can reach zero error.",),
        ),
        teacher_student,
    ),
    (
        _card(
            "linear-map",
            "Linear map, y = M x with a random matrix of whole numbers",
            Task.REGRESSION,
            10,
            10,
            1000,
            1000,
            citation="Poli, I. (2017). Direct-Feedback-Alignment. https://github.com/iacolippo/Direct-Feedback-Alignment",
            homepage="https://github.com/iacolippo/Direct-Feedback-Alignment",
            traps=("Targets are not standardised: their variance is about 330.",),
        ),
        linear_map,
    ),
    (
        _card(
            "drtp-regression",
            "DRTP's synthetic regression, ten shifted cosines of the mean of 256 inputs",
            Task.REGRESSION,
            256,
            10,
            5000,
            1000,
            citation=_DRTP,
            homepage=_DRTP_HOME,
            traps=("The original draws without a seed: its rows are other ones of the same distribution.",),
        ),
        drtp_regression,
    ),
    (
        _card(
            "drtp-classification",
            "DRTP's synthetic classification, ten classes of five clusters in 256 dimensions",
            Task.CLASSIFICATION,
            256,
            10,
            25_000,
            5000,
            citation=_DRTP,
            homepage=_DRTP_HOME,
            traps=("About 1 % of the labels are random: 99.1 % is the best possible accuracy.",),
        ),
        drtp_classification,
    ),
)
SOURCES = {card.name: Source(card=card, build=functools.partial(build, card=card, make=make)) for card, make in _MADE}
