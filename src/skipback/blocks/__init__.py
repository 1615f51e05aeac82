"""Blocks: find where the graph of any `nn.Module` is cut, check that no gradient crosses, and cut it.

`trees` knows what modules exchange, and names those that start a block; `cuts` holds the records, `contexts` what is
open for a while on a network; `passes` records one forward pass, `paths` reads it, `constants` tells what is no
block's value, and `find` decides. `outputs` are what a network returns, as one tensor; `rows` and `specs` say which
rows of a port and the output belong together.
Nothing here knows a method.
"""

from skipback.blocks.constants import run_otherwise
from skipback.blocks.contexts import OnPort, Sites, cutting, hooked, tapped
from skipback.blocks.cuts import Cut, Layout, Path, Place, Segment
from skipback.blocks.find import NO_OUTPUT, find
from skipback.blocks.passes import Cutter, Gate, Met, Pass, behind, check_inside, in_backward
from skipback.blocks.paths import read
from skipback.blocks.trees import first_tensor, map_tensors, named_outputs, packed, swap, tensors, units

__all__ = [
    "NO_OUTPUT",
    "Cut",
    "Cutter",
    "Gate",
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
    "hooked",
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
