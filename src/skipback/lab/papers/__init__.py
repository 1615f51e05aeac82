"""The papers whose tables can be reproduced: one file each, read when it is asked for."""

from __future__ import annotations

import importlib

from skipback.lab.errors import LabError, unknown
from skipback.lab.papers.base import Row, Study, Table

__all__ = ["KEYS", "Row", "Study", "Table", "studies", "study", "table"]

KEYS = ("flugel2024", "bacho2024", "nokland2016", "poli2017", "launay2019")
"""Their files, in the order in which they are listed."""
ALIASES = {
    "f3": "flugel2024",
    "fdfa": "bacho2024",
    "dfa-torch": "nokland2016",
    "direct-feedback-alignment": "poli2017",
    "principled-dfa-training": "launay2019",
}
"""The names of the code bases, for who knows the code and not the paper."""


def study(name: str) -> Study:
    """One paper.

    Raises:
        LabError: there is no such paper; the message has the nearest one.
    """
    key = ALIASES.get(name.lower(), name)
    if key not in KEYS:
        raise LabError(unknown("paper", name, [*KEYS, *ALIASES]))
    module = importlib.import_module(f"{__name__}.{key}")
    return Study(paper=module.PAPER, seed=module.SEED, tables=module.TABLES, deviations=module.DEVIATIONS)


def studies() -> list[Study]:
    """All papers."""
    return [study(key) for key in KEYS]


def table(of: Study, name: str) -> Table:
    """One table of a paper.

    Raises:
        LabError: it has no such table; the message has the nearest one.
    """
    found = next((one for one in of.tables if one.name == name), None)
    if found is None:
        raise LabError(unknown(f"table of {of.key}", name, [one.name for one in of.tables]))
    return found
