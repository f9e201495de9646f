"""PostgreSQL on its way out: pg_dump's archive, read in passing by a second program, and the cluster's globals."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

from dataguardian.domain.errors import DumpFailedError
from dataguardian.engines.postgres.config import connection_string, quoted_name, without_password
from dataguardian.engines.postgres.selection import Selection
from dataguardian.engines.postgres.server import MAINTENANCE_DATABASES
from dataguardian.engines.processes import ChildProcess
from dataguardian.engines.tools import ToolSet

GLOBALS = "globals"
TAIL_BYTES = 1024

_TRAILER = re.compile(rb"\n-- PostgreSQL database cluster dump complete\n--\s*(\\unrestrict \S+\s*)?\Z")
# pg_dump has closed its output and only has to exit; the checker may still hold a pipe full of archive.
_EXIT_SECONDS = 60.0
_CHECK_SECONDS = 600.0


class DatabaseDump:
    """`pg_dump -Fc` of one database. Every byte also goes to `pg_restore`, which reads the whole archive: an exit
    code alone says nothing of an archive that was cut.
    """

    kind = "pgdump"

    def __init__(
        self,
        name: str,
        tools: ToolSet,
        environment: dict[str, str],
        *,
        size_hint_bytes: int | None,
        metadata: dict[str, Any],
        selection: Selection,
        remarks: Sequence[str] = (),
        opens_read_only: bool = False,
    ) -> None:
        self.name = name
        self.size_hint_bytes = size_hint_bytes
        self.metadata = metadata
        self.warnings: list[str] = []
        self.restore_by_hand = commands_by_hand(name, selection.schemas, opens_read_only=opens_read_only)
        self._options = selection.options
        self._remarks = remarks
        self._tools = tools
        self._environment = environment
        self._children = ExitStack()

    def __enter__(self) -> Self:
        dump = [self._tools.path("pg_dump"), "--format=custom", "--compress=0", "--no-password"]
        dump += [*self._options, f"--dbname={connection_string(self.name)}"]
        self._dump = self._children.enter_context(ChildProcess(dump, env=self._environment, stdout=True, stdbuf=True))
        check = [self._tools.path("pg_restore"), "--file=/dev/null"]
        self._checker = self._children.enter_context(
            ChildProcess(check, env=without_password(self._environment), stdin=True, stdbuf=True)
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._children.close()

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._dump.read_and_feed(buffer, self._checker)
        except BrokenPipeError as error:
            raise self._unsound() from error

    def finish(self) -> None:
        code = _exit_code(self._dump, _EXIT_SECONDS)
        if code != 0:
            raise self._failed(code)
        self._checker.close_stdin()
        if _exit_code(self._checker, _CHECK_SECONDS) != 0:
            raise self._unsound()
        said = [*self._remarks, *self._dump.stderr_lines]
        self.warnings = [f"{self.name}: {line}" for line in said if line.strip()]

    def _failed(self, code: int) -> DumpFailedError:
        return DumpFailedError(
            f"pg_dump of database {self.name!r} ended with exit code {code}: {self._dump.stderr_text or 'no message'}",
            hint="nothing was kept of it; solve what pg_dump says and start the backup again",
            database=self.name,
            exit_code=code,
        )

    def _unsound(self) -> DumpFailedError:
        """What to say when the archive could not be read: the cause is pg_dump's when it failed as well."""
        self._checker.wait(_EXIT_SECONDS)
        try:
            code = self._dump.wait(1.0)
        except subprocess.TimeoutExpired:
            code = 0
        if code != 0:
            return self._failed(code)
        return DumpFailedError(
            f"pg_dump of database {self.name!r} wrote an archive that pg_restore cannot read:"
            f" {self._checker.stderr_text or 'no message'}",
            hint=f"check the client programs in {self._tools.folder}",
            database=self.name,
        )


class GlobalsDump:
    """`pg_dumpall --globals-only`: roles, memberships, tablespaces. Complete when its last comment is there."""

    name = GLOBALS
    kind = "sql"
    size_hint_bytes: int | None = None

    def __init__(
        self, database: str, tools: ToolSet, environment: dict[str, str], *, passwords: bool, metadata: dict[str, Any]
    ) -> None:
        self.metadata = metadata
        self.warnings: list[str] = []
        self.restore_by_hand = ["psql -X -d postgres"]
        self._argv = [tools.path("pg_dumpall"), "--globals-only", "--no-password"]
        self._argv.append(f"--database={connection_string(database)}")
        self._argv += [] if passwords else ["--no-role-passwords"]
        self._environment = environment
        self._passwords = passwords
        self._children = ExitStack()
        self._tail = b""

    def __enter__(self) -> Self:
        self._dump = self._children.enter_context(ChildProcess(self._argv, env=self._environment, stdout=True))
        return self

    def __exit__(self, *exc: object) -> None:
        self._children.close()

    def readinto(self, buffer: memoryview) -> int:
        count = self._dump.readinto(buffer)
        self._tail = (self._tail + bytes(buffer[max(0, count - TAIL_BYTES) : count]))[-TAIL_BYTES:]
        return count

    def finish(self) -> None:
        code = _exit_code(self._dump, _EXIT_SECONDS)
        if code != 0 or not is_complete_sql(self._tail):
            said = self._dump.stderr_text or "its last line is missing"
            raise DumpFailedError(f"pg_dumpall of roles and tablespaces failed (exit code {code}): {said}")
        self.warnings += [f"{GLOBALS}: {line}" for line in self._dump.stderr_lines if line.strip()]
        if not self._passwords:
            self.warnings.append(
                f"{GLOBALS}: roles were saved without their passwords, which only a superuser may read"
            )


def is_complete_sql(tail: bytes) -> bool:
    """Tells whether these last bytes of a pg_dumpall script (at least TAIL_BYTES of it) end as a whole one does."""
    return _TRAILER.search(tail) is not None


def commands_by_hand(database: str, schemas: Sequence[str] = (), *, opens_read_only: bool = False) -> list[str]:
    """Returns the stock commands for an archive. The databases of a fresh cluster exist already.

    `schemas` are those that the archive needs and does not make: then the database must be there as well.
    `opens_read_only` is a database with such a setting, which `--create` gives to the new one before it is filled.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_.]+", database)
    into = shlex.quote(f"--dbname={database if plain else quoted_name(database)}")
    if schemas:
        names = ['"' + name.replace('"', '""') + '"' for name in schemas]
        create = shlex.quote("".join(f"CREATE SCHEMA IF NOT EXISTS {name};" for name in names))
        return [f"psql -X -q {into} -c {create} </dev/null && pg_restore --exit-on-error {into}"]
    if database in MAINTENANCE_DATABASES:
        return [f"pg_restore --exit-on-error {into}"]
    writable = "PGOPTIONS=-cdefault_transaction_read_only=off " if opens_read_only else ""
    return [f"{writable}pg_restore --create --exit-on-error --dbname=postgres", f"pg_restore --exit-on-error {into}"]


def _exit_code(child: ChildProcess, seconds: float) -> int:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise DumpFailedError(f"{child.name} closed its output but did not end within {seconds:.0f} seconds") from error
