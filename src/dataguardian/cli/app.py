"""The program: its verbs, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from dataguardian import __version__
from dataguardian.cli import output
from dataguardian.cli.apply import apply
from dataguardian.cli.audit import audit
from dataguardian.cli.backup import backup
from dataguardian.cli.datasource import datasource
from dataguardian.cli.db import db
from dataguardian.cli.doctor import doctor
from dataguardian.cli.execution import execution
from dataguardian.cli.export import export
from dataguardian.cli.job import job
from dataguardian.cli.key import key
from dataguardian.cli.keyprove import prove
from dataguardian.cli.list import list_
from dataguardian.cli.notification import notification
from dataguardian.cli.queues import queues
from dataguardian.cli.recoverykit import recovery_kit
from dataguardian.cli.repair import repair
from dataguardian.cli.restore import restore
from dataguardian.cli.scrub import scrub
from dataguardian.cli.secrets import secrets
from dataguardian.cli.setting import setting
from dataguardian.cli.signals import STOP
from dataguardian.cli.status import status
from dataguardian.cli.storage import storage
from dataguardian.cli.tokens import token
from dataguardian.cli.up import up
from dataguardian.cli.users import user
from dataguardian.cli.verify import verify
from dataguardian.domain.errors import CancelledError, DataGuardianError, UsageError

DEBUG_VARIABLE = "DATAGUARDIAN_DEBUG"

app = typer.Typer(
    name="dataguardian",
    help="Backups of databases and files that are known to restore.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 integrity, 4 a client program is missing, "
    "5 cannot connect, not allowed or not found, 130 and 143 stopped by a signal.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(backup)
app.command("list")(list_)
app.command()(verify)
app.command()(restore)
app.command()(repair)
key.command()(prove)
app.add_typer(key, name="key")
app.command("recovery-kit")(recovery_kit)
app.command()(doctor)

_SERVICE = "The service"
app.command(rich_help_panel=_SERVICE)(up)
app.command(rich_help_panel=_SERVICE)(status)
app.add_typer(datasource, name="datasource", rich_help_panel=_SERVICE)
app.add_typer(storage, name="storage", rich_help_panel=_SERVICE)
app.add_typer(job, name="job", rich_help_panel=_SERVICE)
app.add_typer(execution, name="execution", rich_help_panel=_SERVICE)
app.add_typer(notification, name="notification", rich_help_panel=_SERVICE)
app.command(rich_help_panel=_SERVICE)(scrub)
app.add_typer(setting, name="setting", rich_help_panel=_SERVICE)
app.add_typer(queues, name="queues", rich_help_panel=_SERVICE)
app.command(rich_help_panel=_SERVICE)(apply)
app.command(rich_help_panel=_SERVICE)(export)
app.add_typer(user, name="user", rich_help_panel=_SERVICE)
app.add_typer(token, name="token", rich_help_panel=_SERVICE)
app.add_typer(secrets, name="secrets", rich_help_panel=_SERVICE)
app.add_typer(audit, name="audit", rich_help_panel=_SERVICE)
app.add_typer(db, name="db", rich_help_panel=_SERVICE)


def _show_version(wanted: bool) -> None:
    if wanted:
        output.show(f"dataguardian {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
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
        code = app(args=arguments, prog_name="dataguardian", standalone_mode=False) or 0
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
    """Returns any exception as one of the tree: wrong usage that Typer found, or something that nobody foresaw."""
    if isinstance(error, DataGuardianError):
        return error
    if STOP.signum is not None:
        ours: DataGuardianError = CancelledError(f"stopped, and then: {error!r}", signum=STOP.signum)
    elif hasattr(error, "format_message"):  # Typer's errors about arguments; their class moves between its releases
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
