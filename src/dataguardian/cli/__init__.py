"""The command line: one file per verb."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the program on the process's arguments and ends the process."""
    from dataguardian.cli.signals import STOP
    from dataguardian.domain.errors import CancelledError

    try:
        STOP.install()
        from dataguardian.cli.app import run_program

        run_program()
    except CancelledError as error:  # a signal came while the program was being loaded
        from dataguardian.cli import output

        output.fail(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
