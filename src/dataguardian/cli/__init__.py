"""The command line: one file per verb."""

from __future__ import annotations

import gc
import os
import sys

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python's 700 makes the collector walk every imported module many times: a third of the start-up."""
_FOR_OTHERS = 0o077
_STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def main() -> None:
    """Runs the program on the process's arguments and ends the process."""
    _replace_closed_streams()
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
        gc.freeze()  # the interpreter's end would walk everything twice more: 30 ms of a short command's 200


def _replace_closed_streams() -> None:
    """Sends a standard stream that the caller has closed (`>&-`) nowhere.

    Its number would be that of the next file that is opened, a part of a backup perhaps, and what is meant for the user
    would be written into that.
    """
    for number, (name, flags) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)  # it gets the lowest number that is free
            os.set_inheritable(opened, opened == number)
            setattr(sys, name, os.fdopen(opened, "r" if flags == os.O_RDONLY else "w"))
