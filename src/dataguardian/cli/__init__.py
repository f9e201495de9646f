"""The command line: one file per verb."""

from __future__ import annotations


def main() -> None:
    """Runs the program on the process's arguments and ends the process."""
    from dataguardian.cli.app import run_program

    run_program()
