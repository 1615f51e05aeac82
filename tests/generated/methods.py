"""The methods that generated networks are trained by, with feedback that is not 0 and memories in float64."""

from __future__ import annotations

import torch

import skipback as sb
from generated.data import LENGTHS, SAMPLES, classes
from generated.recipes import Recipe
from skipback import draws, signals
from skipback.methods import dkp, ebd, fdfa, grape, ldfa

LEARNED = ("dkp", "fdfa", "grape", "ebd", "ldfa")
"""Their feedback learns, so they are attached with an example."""
FORWARD_MODE = ("fdfa", "grape")
DIRECT = ("dfa", "sdfa", "drtp", "f3", "tiny_dfa", "principled_dfa", "ternary_dfa", *LEARNED)
ALL = ("bp", "shallow", *DIRECT)


def made(name: str, recipe: Recipe) -> sb.Method:
    """The method of a page, for a network."""
    if name == "f3":
        link = signals.softmax if classes(recipe) else signals.identity
        memory = signals.Delayed(3 * SAMPLES * LENGTHS, of=signals.OutputError(link), dtype=torch.float64)
        return sb.f3(memory=1, signal=memory)
    started = {
        "dkp": lambda: sb.dkp(feedback=dkp.Correlation(draw=draws.Gaussian(), decay=0.0)),
        "fdfa": lambda: sb.fdfa(feedback=fdfa.MeanJacobian(draw=draws.Gaussian())),
        "grape": lambda: sb.grape(feedback=grape.AlignedRows(draw=draws.Gaussian())),
        "ebd": lambda: sb.ebd(feedback=ebd.ErrorCorrelation(draw=draws.Gaussian())),
        "ldfa": lambda: sb.ldfa(feedback=ldfa.Subspace(draw=draws.Gaussian(), decay=0.0)),
    }
    return started[name]() if name in started else getattr(sb, name)()
