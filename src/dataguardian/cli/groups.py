"""Verbs that have verbs of their own, such as `dataguardian job run`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dataguardian.cli import output
from dataguardian.domain.errors import CancelledError, UsageError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def group(help_text: str) -> typer.Typer:
    """Returns a group that shows its help, and fails, when it is called without a verb."""
    made = typer.Typer(help=help_text, add_completion=False)

    @made.callback(invoke_without_command=True)
    def _without_verb(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            output.show(context.get_help())
            raise typer.Exit(UsageError.exit_code)

    return made


def interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """Asks on the terminal; raises CancelledError when the answer is the end of input."""
    try:
        output.console(error=True).print(output.visible(question), end=" ", soft_wrap=True)
        return sys.stdin.readline().rstrip("\n")
    except (EOFError, KeyboardInterrupt) as error:
        raise CancelledError from error


def confirmed(question: str, *, yes: bool) -> None:
    """Returns when `--yes` was given or somebody says yes; raises CancelledError, or UsageError without a terminal."""
    if yes:
        return
    if not interactive():
        raise UsageError(f"not done without a yes: {question}", hint="add --yes")
    if ask(f"{question} [y/N]").strip().lower() not in {"y", "yes"}:
        raise CancelledError("not done")
