"""The command line: one file per verb."""

from __future__ import annotations

import gc
import os
import sys

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python's 700 makes the collector walk every imported module many times: a third of the start-up."""
_FOR_OTHERS = 0o077


def main() -> None:
    """Runs the program on the process's arguments and ends the process."""
    os.umask(os.umask(_FOR_OTHERS) | _FOR_OTHERS)  # also for the programs that we start and the folders they make
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 20)
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
    finally:
        STOP.retire()
