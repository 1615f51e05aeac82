"""skipback trains PyTorch networks without backpropagation.

    learner = skipback.attach(net, skipback.dfa())
    optimizer = torch.optim.Adam(learner.parameters())
    loss = F.cross_entropy(net(x), t); loss.backward(); optimizer.step()

Names are imported on first use, so that the command line answers `--help` without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from skipback._moved import MOVED, find_old_names
from skipback.methods import TABLE

if TYPE_CHECKING:
    from skipback import (
        blocks,
        bottleneck,
        draws,
        estimate,
        init,
        measure,
        memory,
        methods,
        precision,
        signals,
        structures,
        transport,
        update,
    )
    from skipback.adversaries import adversarial
    from skipback.advice import SkipbackWarning
    from skipback.core import feedback
    from skipback.core.method import Direct, Exact, HeadOnly, Method, Paper
    from skipback.engine.capture.captured import captured
    from skipback.engine.capture.steps import Captured
    from skipback.engine.many.many import Many
    from skipback.engine.stages import stages
    from skipback.engine.wave.wavefront import Wavefront, wavefront
    from skipback.learner import Learner, attach
    from skipback.load import load_run
    from skipback.measure.alignment import alignment
    from skipback.measure.audit import audit
    from skipback.measure.feedback import feedback_alignment
    from skipback.measure.gradients import gradient_alignment
    from skipback.measure.growth import growth
    from skipback.measure.norms import norm_ratio
    from skipback.measure.rank import feedback_rank
    from skipback.measure.saturation import saturation
    from skipback.measure.stability import stability
    from skipback.measure.track import track
    from skipback.methods.augmented_dfa import augmented_dfa
    from skipback.methods.bp import bp
    from skipback.methods.brsf import brsf
    from skipback.methods.dfa import dfa
    from skipback.methods.dkp import dkp
    from skipback.methods.drtp import drtp
    from skipback.methods.ebd import ebd
    from skipback.methods.f3 import f3
    from skipback.methods.fa import fa
    from skipback.methods.fdfa import fdfa
    from skipback.methods.fg_a import fg_a
    from skipback.methods.fg_w import fg_w
    from skipback.methods.frsf import frsf
    from skipback.methods.fwm import fwm
    from skipback.methods.grape import grape
    from skipback.methods.ifa import ifa
    from skipback.methods.kp import kp
    from skipback.methods.ldfa import ldfa
    from skipback.methods.lg_fg_a import lg_fg_a
    from skipback.methods.normalised_dfa import normalised_dfa
    from skipback.methods.principled_dfa import principled_dfa
    from skipback.methods.sdfa import sdfa
    from skipback.methods.shallow import shallow
    from skipback.methods.ternary_dfa import ternary_dfa
    from skipback.methods.tiny_dfa import tiny_dfa
    from skipback.methods.usf import usf
    from skipback.methods.weight_mirror import weight_mirror
    from skipback.routes.anchored import Anchored, anchored
    from skipback.routes.layerwise import Layerwise
    from skipback.routes.perturbed import Perturbed

find_old_names()

_HOME = {
    **dict.fromkeys(("Direct", "Exact", "HeadOnly", "Method", "Paper"), "core.method"),
    **dict.fromkeys(("Anchored", "anchored"), "routes.anchored"),
    "SkipbackWarning": "advice",
    "Learner": "learner",
    "attach": "learner",
    "load_run": "load",
    "Layerwise": "routes.layerwise",
    "Perturbed": "routes.perturbed",
    "Captured": "engine.capture.steps",
    "captured": "engine.capture.captured",
    "Many": "engine.many.many",
    "stages": "engine.stages",
    "Wavefront": "engine.wave.wavefront",
    "wavefront": "engine.wave.wavefront",
    "adversarial": "adversaries",
    "alignment": "measure.alignment",
    "audit": "measure.audit",
    "feedback_alignment": "measure.feedback",
    "feedback_rank": "measure.rank",
    "gradient_alignment": "measure.gradients",
    "growth": "measure.growth",
    "norm_ratio": "measure.norms",
    "saturation": "measure.saturation",
    "stability": "measure.stability",
    "track": "measure.track",
    **{name: f"methods.{name}" for name in TABLE},
}
_MODULES = {
    "feedback": "core.feedback",
    **{name: name for name in ("blocks", "bottleneck", "draws", "estimate", "init", "measure", "memory", "methods")},
    "precision": "precision",
    **{name: name for name in ("signals", "structures", "transport", "update")},
}

__all__ = [
    "Anchored",
    "Captured",
    "Direct",
    "Exact",
    "HeadOnly",
    "Layerwise",
    "Learner",
    "Many",
    "Method",
    "Paper",
    "Perturbed",
    "SkipbackWarning",
    "Wavefront",
    "adversarial",
    "alignment",
    "anchored",
    "attach",
    "audit",
    "augmented_dfa",
    "blocks",
    "bottleneck",
    "bp",
    "brsf",
    "captured",
    "dfa",
    "dkp",
    "draws",
    "drtp",
    "ebd",
    "estimate",
    "f3",
    "fa",
    "fdfa",
    "feedback",
    "feedback_alignment",
    "feedback_rank",
    "fg_a",
    "fg_w",
    "frsf",
    "fwm",
    "gradient_alignment",
    "grape",
    "growth",
    "ifa",
    "init",
    "kp",
    "ldfa",
    "lg_fg_a",
    "load_run",
    "measure",
    "memory",
    "methods",
    "norm_ratio",
    "normalised_dfa",
    "precision",
    "principled_dfa",
    "saturation",
    "sdfa",
    "shallow",
    "signals",
    "stability",
    "stages",
    "structures",
    "ternary_dfa",
    "tiny_dfa",
    "track",
    "transport",
    "update",
    "usf",
    "wavefront",
    "weight_mirror",
]
__all__ = sorted({*__all__, *TABLE})  # a method is public by its line in the table; listed above, it is typed as well


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = globals()[name] = getattr(importlib.import_module(f"skipback.{_HOME[name]}"), name)
        return found
    if name in _MODULES:
        return importlib.import_module(f"skipback.{_MODULES[name]}")
    if f"skipback.{name}" in MOVED:
        return importlib.import_module(f"skipback.{name}")  # which warns
    raise AttributeError(f"module 'skipback' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
