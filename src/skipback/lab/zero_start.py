"""The zero start, as dfa-torch (Nøkland 2016) means it: of each method what can leave it, and nothing else.

    direct methods (dfa)     all dense and convolution layers 0, the output's too
    layerwise methods (fa)   the same but for a dense first layer, which is an ordinary one in its MLP; their feedback
                             is drawn, or copied from the weights, before these are set to 0
    backprop, and whatever   the random start that the network was built with: at 0 its hidden weights get no gradient,
    else stays at 0          and would never move

What a method can leave is not a list of names: its gradients at 0 are looked at.
"""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import nn

from skipback import init
from skipback.core.records import Loss, SkipbackWarning
from skipback.init.zero import weight_layers
from skipback.lab import nets
from skipback.lab.config import Run
from skipback.lab.data.pipeline_rows import Batch
from skipback.lab.errors import LabError
from skipback.lab.moving import hidden
from skipback.learner import Learner
from skipback.measure.aside import gradients
from skipback.routes.layerwise import Layerwise
from skipback.routes.perturbed import Perturbed

ALL, BUT_FIRST, RANDOM = "zero", "zero but for the first layer", "random"
"""The starts, as `summary.json` names them."""


def of_net(run: Run) -> bool | None:
    """Whether the network of a run starts at 0, as asked, or by its source where nothing is; `None` if it cannot."""
    choice = inspect.signature(nets.CARDS[run.net].constructor).parameters.get("zero_init")
    return None if choice is None else run.zero_init or (run.start is None and bool(choice.default))


def zero_start(name: str, learner: Learner, batch: Batch, loss: Loss) -> str:
    """Set the weights to 0 that start there under this method. Returns which start it is.

    Args:
        name: of the method.
        learner: with weights as drawn, and the method attached.
        batch: the first training rows, on which the gradients at 0 are looked at.
        loss: loss(output, target).

    Raises:
        LabError: an activation has no slope at 0, so no method could leave it.
    """
    drawn = [(p, p.detach().clone()) for p in learner.net.parameters()]
    kept = _kept(learner)
    try:
        init.zeros(learner.net, kept=kept)
    except ValueError as error:
        raise LabError(f"--zero-init: {error}") from None
    if _leaves(learner, batch, loss):
        return BUT_FIRST if kept else ALL
    with torch.no_grad():
        for p, before in drawn:
            p.copy_(before)
    warnings.warn(
        f"--zero-init: method {name!r} keeps its random start: at 0 its hidden weights get no gradient, and would "
        "never move",
        SkipbackWarning,
        stacklevel=2,
    )
    return RANDOM


def _kept(learner: Learner) -> list[str]:
    """The first layer, where a layerwise method leaves it as drawn."""
    name, layer = next(iter(weight_layers(learner.net).items()), ("", None))
    return [name] if isinstance(layer, nn.Linear) and isinstance(learner.method, Layerwise) else []


def _leaves(learner: Learner, batch: Batch, loss: Loss) -> bool:
    """Whether a hidden block gets a gradient. A network without one can leave any start.

    Of an estimate of backprop's gradient that gradient counts: what it estimates as 0 it only shakes.
    """
    blocks, method = hidden(learner, batch.inputs), learner.method
    learner.train()
    exact = isinstance(method, Perturbed) and not method.estimate.local
    found = gradients(learner, batch.inputs, batch.t, loss, ids=batch.ids, exact=exact)
    return not blocks or any((g := found[name]) is not None and bool(g.any()) for name in blocks)
