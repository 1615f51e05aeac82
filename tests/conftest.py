"""What every test stands on: one thread (the machine is shared) and a seed, so that a failure comes back.

And which tests `make quick` runs: the marker `quick` is set here alone.
"""

import gc
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

QUICK = [
    Path(__file__).parent / "core" / name
    for name in (
        *("methods", "layerwise", "perturbed"),  # each update against its oracle in NumPy
        *("test_contract.py", "test_identities.py", "test_guards.py"),
        *("test_blocks.py", "test_draws.py", "test_memory.py", "test_package.py", "test_signals.py"),
    )
]
assert all(path.exists() for path in QUICK), "a test of `make quick` has moved: name it here"
NETS = {"conv", "functional_residual"}
"""Of nets.CASES, on which `make quick` holds the methods to the contract; the oracles are of an MLP."""


def pytest_collection_modifyitems(items):
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        case = params.get("case")
        if (case is None or case in NETS) and any(item.path.is_relative_to(path) for path in QUICK):
            item.add_marker(pytest.mark.quick)
        elif case is not None and any(str(value).endswith("-published") for value in params.values()):
            # other constants in the same code: its own method is on all networks, and it is on two of them
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pytest_collection_finish():
    """Keep torch and the tests themselves out of each full collection, which takes 0.2 s otherwise."""
    gc.collect()
    gc.freeze()
