"""Renamed: old public names keep working for one version, with a `DeprecationWarning` that says the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module.

    Args:
        module: its `__name__`.
        names: new names by old ones, all in this module.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is now called {names[name]}: the old name goes with version 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return find


def of_version_0_1(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A learner's state of version 0.1, under today's names: feedback was "star.", the count of anchors "anchor."."""
    if not any(key.startswith(("star.", "anchor.")) for key in state):
        return state
    route = "route.inner." if "anchor.passes" in state else "route."
    old = {"star.": route, "anchor.": "route.", "route.": route}
    return {
        next((new + k[len(was) :] for was, new in old.items() if k.startswith(was)), k): v for k, v in state.items()
    }
