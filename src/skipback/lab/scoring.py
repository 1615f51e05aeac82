"""How a run's network is scored: in eval mode, batch by batch, over whole splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from skipback.lab import metrics
from skipback.lab.data.pipeline import Feeds
from skipback.lab.data.pipeline_rows import Feed
from skipback.lab.losses import TaskLoss
from skipback.lab.tasks import Rules
from skipback.learner import Learner

EVAL_BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores a network on splits.

    Attributes:
        learner: with the network.
        rules: of the task.
        loss: that is trained; here always its mean.
        data: what the outputs mean.
        splits: the rows, by the name that stands before each score.
        judged: which of them judges the run: the test split, or the rows that were held out.
    """

    learner: Learner
    rules: Rules
    loss: TaskLoss
    data: Feeds
    splits: Mapping[str, Feed]
    judged: str

    def evaluate(self, scores: dict[str, metrics.Metric] | None = None) -> dict[str, float]:
        """Score all splits.

        Args:
            scores: what is asked of the split that judges besides the loss; `None` for what a row of metrics has.
        """
        wanted = {self.judged: scores} if scores is not None else {}
        found = [self._score(feed, name, wanted.get(name)) for name, feed in self.splits.items()]
        return {name: value for split in found for name, value in split.items()}

    @torch.no_grad()
    def _score(self, feed: Feed, split: str, scores: dict[str, metrics.Metric] | None) -> dict[str, float]:
        net, samples = self.learner.eval(), 0
        total = torch.zeros((), device=next(net.parameters()).device)
        scores = self.rules.scores(self.data) if scores is None else scores
        for batch in feed.ordered(EVAL_BATCH):
            y = net(*batch.inputs)
            total += self.loss.of_output(y, batch.t) * len(batch)
            samples += len(batch)
            for score in scores.values():
                score.update(*self.rules.rows(y, batch.t))
        mean = total.item() / samples
        found = {"loss": mean, **self.rules.of_loss(mean, self.data), **{name: s.value() for name, s in scores.items()}}
        return {f"{split}_{name}": value for name, value in found.items()}
