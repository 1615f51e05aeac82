"""torchvision without its operators: the Python half imports although the C++ half was built against another torch.

The wheel of torchvision is linked against one build of torch. On another (CPU against CUDA, say) its operators do not
load, and `import torchvision` then fails where it describes them: "operator torchvision::nms does not exist". Networks
and transforms need no operator, and timm and transformers need only those.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def load() -> Any:
    """Import torchvision; descriptions of operators that did not load are left out."""
    describe = torch.library.register_fake
    torch.library.register_fake = functools.partial(_described_if_loaded, describe)
    try:
        return importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = describe


def _described_if_loaded(describe: Callable[..., Any], operator: str, *args: Any, **kwargs: Any) -> Any:
    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return describe(operator, *args, **kwargs)(function)
        except RuntimeError:
            if not operator.startswith("torchvision::"):
                raise
            return function

    return note if not (args and callable(args[0])) else describe(operator, *args, **kwargs)
