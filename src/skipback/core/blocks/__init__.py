"""Blocks: find where the graph of any `nn.Module` is cut, check that no gradient crosses, and cut it.

`trees` knows what modules exchange, `units` names the modules that start a block, `cuts` holds the records and hooks,
`passes` records one forward pass, `paths` reads it, `constants` knows what is no value of a block, and `find` decides.
"""

from skipback.core.blocks.constants import run_otherwise
from skipback.core.blocks.cuts import Cut, Layout, OnPort, Path, Place, Segment, Sites, cutting, hook, tapped
from skipback.core.blocks.find import NO_OUTPUT, find
from skipback.core.blocks.passes import Cutter, Met, Pass, behind, check_inside, in_backward
from skipback.core.blocks.paths import read
from skipback.core.blocks.trees import first_tensor, map_tensors, named_outputs, packed, swap, tensors
from skipback.core.blocks.units import units

__all__ = [
    "NO_OUTPUT",
    "Cut",
    "Cutter",
    "Layout",
    "Met",
    "OnPort",
    "Pass",
    "Path",
    "Place",
    "Segment",
    "Sites",
    "behind",
    "check_inside",
    "cutting",
    "find",
    "first_tensor",
    "hook",
    "in_backward",
    "map_tensors",
    "named_outputs",
    "packed",
    "read",
    "run_otherwise",
    "swap",
    "tapped",
    "tensors",
    "units",
]
