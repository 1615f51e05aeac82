"""Old module names keep working for one version, with a warning that names the new one."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence

MOVED = {
    "skipback.types": "skipback.core.records",
    "skipback.feedback": "skipback.core.feedback",
    "skipback.method": "skipback.core.method",
    "skipback.blocks.units": "skipback.blocks.trees",
    "skipback.core.blocks": "skipback.blocks",
    "skipback.core.outputs": "skipback.blocks.outputs",
    "skipback.core.rows": "skipback.blocks.rows",
}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for an old name; `None` for all others."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The module under its new name."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} has moved: import {new}", DeprecationWarning, stacklevel=2)
        module = types.ModuleType(spec.name)
        names = vars(importlib.import_module(new))
        module.__dict__.update({name: value for name, value in names.items() if name != "__path__"})
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is left to be run."""


def find_old_names() -> None:
    """Have old module names found from now on."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
