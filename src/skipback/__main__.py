"""`python -m skipback` and the command `skipback`: the lab's command line, or what must be installed for it."""

from __future__ import annotations

import sys

from skipback import lab


def main() -> int:
    """Run the command line. Returns the exit code."""
    absent = lab.missing()
    if absent:  # asked for all at once: a run must not fail at its last step, where the report is drawn
        print(f'error: the command line needs {", ".join(absent)}: pip install "skipback[lab]"', file=sys.stderr)
        return 2
    from skipback.lab import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
