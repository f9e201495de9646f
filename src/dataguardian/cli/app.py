"""The program: its verbs, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from dataguardian import __version__
from dataguardian.cli import output
from dataguardian.cli.signals import STOP, told
from dataguardian.domain.errors import CancelledError, DataGuardianError, UsageError

DEBUG_VARIABLE = "DATAGUARDIAN_DEBUG"

_SERVICE = "The service"
_VERBS: Mapping[str, tuple[str, str | None]] = {
    # Where each lies, and under which heading the help has it, in this order.
    "backup": ("backup:backup", None),
    "list": ("list:list_", None),
    "verify": ("verify:verify", None),
    "restore": ("restore:restore", None),
    "repair": ("repair:repair", None),
    "key": ("keyprove:key", None),  # its last verb, which knows the others
    "recovery-kit": ("recoverykit:recovery_kit", None),
    "doctor": ("doctor:doctor", None),
    "up": ("up:up", _SERVICE),
    "status": ("status:status", _SERVICE),
    "datasource": ("datasource:datasource", _SERVICE),
    "storage": ("storage:storage", _SERVICE),
    "job": ("job:job", _SERVICE),
    "execution": ("execution:execution", _SERVICE),
    "notification": ("notification:notification", _SERVICE),
    "scrub": ("scrub:scrub", _SERVICE),
    "setting": ("setting:setting", _SERVICE),
    "queues": ("queues:queues", _SERVICE),
    "apply": ("apply:apply", _SERVICE),
    "export": ("export:export", _SERVICE),
    "user": ("users:user", _SERVICE),
    "token": ("tokens:token", _SERVICE),
    "secrets": ("secrets:secrets", _SERVICE),
    "audit": ("audit:audit", _SERVICE),
    "db": ("db:db", _SERVICE),
}


def program(arguments: Sequence[str] = ()) -> typer.Typer:
    """Returns the program with the verb that the arguments begin with, or with all of them when they begin otherwise:
    reading all takes a third of a small backup's time.
    """
    app = typer.Typer(
        name="dataguardian",
        help="Backups of databases and files that are known to restore.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 integrity, 4 a client program is missing, "
        "5 cannot connect, not allowed or not found, 130 and 143 stopped by a signal.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_program)
    for name in arguments[:1] if arguments[:1] and arguments[0] in _VERBS else _VERBS:
        place, panel = _VERBS[name]
        module, _, attribute = place.partition(":")
        verb = getattr(importlib.import_module(f"dataguardian.cli.{module}"), attribute)
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(verb)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        output.show(f"dataguardian {__version__}")
        raise typer.Exit


def _program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None and not version:
        output.show(context.get_help())
        raise typer.Exit(UsageError.exit_code)


def run_program() -> None:
    """Runs the command line and ends the process with its exit code."""
    arguments = sys.argv[1:]
    output.prepare_streams()
    output.remember_secrets_of(arguments)
    as_json = "--json" in arguments
    try:
        STOP.install()
        app = program(arguments)
        STOP.check()  # most of the time until here goes into imports, which a stop does not end
        code = app(args=arguments, prog_name="dataguardian", standalone_mode=False) or 0
        STOP.finish()
    except Exception as error:  # noqa: BLE001 -- the last line of defence: no stack trace reaches the user
        code = _tell(_as_ours(error), as_json=as_json)
    sys.exit(code)


def _tell(error: DataGuardianError, *, as_json: bool) -> int:
    STOP.finish()
    try:
        output.fail(error, as_json=as_json)
    except DataGuardianError as unwritable:
        output.fail(unwritable, as_json=False)
    if os.environ.get(DEBUG_VARIABLE) == "1":
        output.note("".join(traceback.format_exception(error)))
    return error.exit_code


def _as_ours(error: Exception) -> DataGuardianError:
    """Returns any exception as one of the tree: wrong usage that Typer found, or something that nobody foresaw. What a
    stop led to is a stop, whatever it looks like.
    """
    if STOP.signum is not None and not isinstance(error, CancelledError):
        ours: DataGuardianError = told(error, STOP.signum)
        ours.__cause__ = error
        return ours
    if isinstance(error, DataGuardianError):
        return error
    if hasattr(error, "format_message"):  # Typer's errors about arguments; their class moves between its releases
        ours = UsageError(error.format_message(), hint=f"{_command_of(error)} --help")
    else:
        ours = DataGuardianError(
            f"unexpected {type(error).__name__}: {error}",
            hint=f"this is a bug in DataGuardian: please report it with the output of {DEBUG_VARIABLE}=1",
        )
    ours.__cause__ = error
    for note in getattr(error, "__notes__", []):
        ours.add_note(note)
    return ours


def _command_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return getattr(context, "command_path", None) or "dataguardian"
