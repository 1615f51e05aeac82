"""Stages: the blocks of one network on several processes, which train their blocks at the same time.

An early signal (DRTP, F3) teaches a block as soon as it has run: no block waits for the output, no gradient flows back.
"""

from skipback.engine.stages.stage import Stage, stages

__all__ = ["Stage", "stages"]
