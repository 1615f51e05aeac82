"""A paper that two seconds can reproduce: tiny nets on the carried digits."""

from skipback.core.method import Paper
from skipback.lab.papers.base import GPU, Expected, Figure, Gap, Row, Seed, Table, deviations
from skipback.lab.papers.scores import ACCURACY, TRAIN_ACCURACY, cosine

PAPER = Paper(title="A toy", authors="Ada Toy", year=2026, venue="nowhere", url="https://example.org")
SEED = Seed(name="toy", url="https://example.org")
DEVIATIONS = deviations("Of all.", ("Of other tables.", ("other",)))
NET = {"dataset": "digits", "depth": 1, "width": 8, "epochs": 2, "lr": 1e-2}


def known(value, **more):
    return Expected(score=ACCURACY, value=value, source="here", **more)


TABLES = (
    Table(
        name="small",
        title="Digits, 64-8-10",
        rows=(
            Row(
                label="BP",
                recipe={**NET, "method": "bp"},
                expected=(known(80.0, std=20.0, n=3), known(50.0, at=1, std=40.0, n=3)),
            ),
            Row(
                label="DFA, ternary",
                recipe={**NET, "method": "dfa", "feedback": "ternary"},
                expected=(known(10.0, std=0.1, n=3, unverified=True), Expected(score=cosine(1))),
            ),
            Row(label="shallow", recipe={**NET, "method": "shallow"}, expected=(Expected(score=ACCURACY),)),
        ),
        seeds=2,
        gaps=(Gap(label="gap", of="DFA, ternary", floor="shallow", ceiling="BP", expected=known(50.0)),),
        figures=(
            Figure(name="accuracy", title="Accuracy", score=ACCURACY),
            Figure(name="rate", title="Against the rate", score=ACCURACY, x="lr", line="method", log=True),
            Figure(name="empty", title="Of a score that is not measured", score=cosine(9)),
        ),
    ),
    Table(
        name="other",
        title="What cannot be trained here",
        rows=(
            Row(label="absent", recipe={**NET, "dataset": "susy", "method": "bp"}, expected=(known(1.0),)),
            Row(label="large", recipe={**NET, "method": "bp"}, expected=(known(1.0),), needs=GPU),
            Row(label="never", recipe={**NET, "method": "bp"}, expected=(known(1.0),), unavailable="not given away"),
            Row(label="unknown", recipe={**NET, "method": "bp", "wings": 2}, expected=(known(1.0),)),
        ),
    ),
    Table(
        name="unmeasured",
        title="A score that runs do not have",
        rows=(
            Row(label="cosine", recipe={**NET, "method": "bp"}, expected=(Expected(score=cosine(9)),)),
            Row(label="sweep", recipe={**NET, "method": "dfa"}, expected=(Expected(score=TRAIN_ACCURACY),)),
        ),
    ),
)
