"""The lab: the only part that knows data sets, networks and files. Nothing outside imports it.

It needs more than torch: what the extra `skipback[lab]` installs.
"""

from __future__ import annotations

import importlib.util

NEEDS = {
    "numpy": "numpy",
    "pydantic": "pydantic",
    "tyro": "tyro",
    "rich": "rich",
    "safetensors": "safetensors",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "pillow": "PIL",
    "filelock": "filelock",
}
"""Each distribution of the extra, and the module that it installs."""


def missing() -> list[str]:
    """The distributions that are not installed."""
    return [name for name, module in NEEDS.items() if importlib.util.find_spec(module) is None]
