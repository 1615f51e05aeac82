"""How many processes train together, and which one this is."""

from __future__ import annotations

import torch.distributed as dist


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 if it trains alone."""
    return dist.get_rank() if world() > 1 else 0
