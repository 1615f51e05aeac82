"""Real architectures, each taught in every block or refused in words. `make zoo`, in an environment of its own.

`judge` says what is asked of each; the table of all verdicts is `results/zoo.json`.
"""

from __future__ import annotations

import importlib.util

import graph_nets
import pytest
import timm_nets
import torchvision_nets
import transformers_senses
import transformers_text
from judge import judge

LIBRARIES = ("timm", "torchvision", "transformers", "torch_geometric")
ABSENT = [name for name in LIBRARIES if not importlib.util.find_spec(name)]
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(bool(ABSENT), reason=f"{', '.join(ABSENT)} not installed: make zoo"),
    pytest.mark.filterwarnings("ignore"),  # those of the libraries; the judge notes skipback's own
]
ENTRIES = [
    entry
    for zoo in (timm_nets, torchvision_nets, transformers_text, transformers_senses, graph_nets)
    for entry in zoo.ENTRIES
]
PAIRS = [pytest.param(entry, way, id=f"{entry.id}-{way}") for entry in ENTRIES for way in entry.ways]


@pytest.mark.parametrize(("entry", "way"), PAIRS)
def test_every_block_is_taught_or_the_network_is_refused(entry, way, record_property):
    verdict = judge(entry, way)
    record_property("zoo", {"library": entry.library, "name": entry.name, "way": way, **verdict.record()})
    if verdict.verdict == "wrong":
        pytest.fail("; ".join(verdict.why), pytrace=False)


def test_the_zoo_is_large_and_no_two_have_a_name():
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES) >= 120
