"""What the zoo needs of pytest: a table of all verdicts, and a limit on memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import table
from verdict import Verdict

VERDICTS: list[table.Row] = []
MEMORY = 14 * 2**30
"""Bytes of address space for one process: a network whose feedback is larger fails, and not the machine."""


def pytest_addoption(parser):
    parser.addoption("--zoo-table", type=Path, help="write the table of all verdicts here")


def pytest_runtest_logreport(report):
    """Where a test gave no verdict (the process died, say), that is the verdict."""
    given = [value for name, value in report.user_properties if name == "zoo"]
    if report.when == "call" and given:
        VERDICTS.extend(given)
    elif report.failed and not given:
        library, name, way = report.nodeid.rpartition("[")[2].rstrip("]").split("-")
        why = [line for line in str(report.longrepr).splitlines() if line.strip()][-1:]
        VERDICTS.append({"library": library, "name": name, "way": way, **Verdict("wrong", why).record()})


def pytest_terminal_summary(terminalreporter, config):
    path = config.getoption("--zoo-table", None)
    if not VERDICTS or hasattr(config, "workerinput"):  # a worker of xdist has seen a part
        return
    found = table.rows(VERDICTS)
    terminalreporter.write_line(table.markdown(found))
    if path is not None:
        table.write(path, found, "make zoo")


@pytest.fixture(autouse=True, scope="session")
def _bounded():
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
