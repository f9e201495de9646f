"""MySQL and MariaDB on their way out: the stock dump program's script, read in passing, and users with their grants."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import ExitStack
from typing import Any, Self

from dataguardian.domain.errors import DumpFailedError, IntegrityError
from dataguardian.engines.mysql.config import LARGEST_PACKET
from dataguardian.engines.mysql.server import quoted
from dataguardian.engines.mysql.statements import Splitter
from dataguardian.engines.mysql.tools import DumpProgram
from dataguardian.engines.processes import ChildProcess

GLOBALS = "globals"
DATABASE_KIND = "sql"
GLOBALS_KIND = "grants"

_ALWAYS = (
    "--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob", "--skip-dump-date",
    "--default-character-set=utf8mb4", "--no-tablespaces", f"--max-allowed-packet={LARGEST_PACKET}",
    "--skip-add-locks",  # a table whose default takes from a sequence cannot be filled while it alone is locked
)  # fmt: skip
# Only newer clients of the same flavour know this line, and others stop at it.
_SANDBOX = b"/*M!999999"
_FIRST_LINE_BYTES = 4096
_EXIT_SECONDS = 60.0


def dump_options(program: DumpProgram, *, history: bool) -> list[str]:
    """Returns the options for a dump by `program`; `history`: whether versioned tables bring their past."""
    options = list(_ALWAYS)
    if program.flavour == "MySQL":
        options += ["--set-gtid-purged=OFF"] if program.release >= (5, 6) else []
        options += ["--column-statistics=0"] if program.release >= (8,) else []
    return [*options, "--dump-history"] if history else options


class DatabaseDump:
    """One database by mysqldump or mariadb-dump. Every statement is looked at as it passes, and the last line must
    be the one that only a complete dump has.
    """

    kind = DATABASE_KIND

    def __init__(
        self,
        name: str,
        argv: list[str],
        environment: dict[str, str],
        *,
        client: str,
        size_hint_bytes: int | None,
        metadata: dict[str, Any],
        packet_bytes: int,
        warnings: list[str],
    ) -> None:
        self.name = name
        self.size_hint_bytes = size_hint_bytes
        self.metadata = metadata
        self.warnings = warnings
        self.restore_by_hand = [command_by_hand(client, name, metadata)]
        self._argv = argv
        self._environment = environment
        self._packet_bytes = packet_bytes
        self._children = ExitStack()
        self._splitter = Splitter()
        self._head: bytes | None = None

    def __enter__(self) -> Self:
        self._dump = self._children.enter_context(
            ChildProcess(self._argv, env=self._environment, stdout=True, stdbuf=True)
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._children.close()

    def readinto(self, buffer: memoryview) -> int:
        if self._head is None:
            self._head = self._without_sandbox()
        if self._head:
            count = min(len(buffer), len(self._head))
            buffer[:count] = self._head[:count]
            self._head = self._head[count:]
        else:
            count = self._dump.readinto(buffer)
        self._look_at(buffer[:count])
        return count

    def finish(self) -> None:
        try:
            code = self._dump.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DumpFailedError(f"{self._dump.name} closed its output but did not end") from error
        said = self._dump.stderr_text
        if code != 0:
            raise DumpFailedError(
                f"{self._dump.name} of database {self.name!r} ended with exit code {code}: {said or 'no message'}",
                hint=f"nothing was kept of it; solve what {self._dump.name} says and start the backup again",
                database=self.name,
                exit_code=code,
            )
        try:
            self._splitter.finish()
        except IntegrityError as error:
            raise self._unsound(error) from error
        self._sum_up()

    def _sum_up(self) -> None:
        self.warnings += [line for line in self._dump.stderr_lines if line.strip()]
        longest_bytes = self._splitter.longest_bytes
        self.metadata |= {"statements": self._splitter.statements, "longest_statement_bytes": longest_bytes}
        if longest_bytes > self._packet_bytes:
            self.warnings.append(
                f"its longest statement has {longest_bytes} bytes, and the server takes {self._packet_bytes}:"
                " a restore needs a larger max_allowed_packet on the server"
            )

    def _without_sandbox(self) -> bytes:
        """Reads the first line, and leaves it out when it is the one that only some clients understand."""
        head = bytearray()
        piece = memoryview(bytearray(_FIRST_LINE_BYTES))
        while b"\n" not in head and len(head) < _FIRST_LINE_BYTES and (count := self._dump.readinto(piece)):
            head += piece[:count]
        return bytes(head.partition(b"\n")[2] if head.startswith(_SANDBOX) else head)

    def _look_at(self, data: memoryview) -> None:
        try:
            for _ in self._splitter.feed(data):
                pass
        except IntegrityError as error:
            raise self._unsound(error) from error

    def _unsound(self, error: IntegrityError) -> DumpFailedError:
        said = self._dump.stderr_text
        return DumpFailedError(
            f"{self._dump.name} of database {self.name!r}: {error.message}" + (f" ({said})" if said else ""),
            hint="start the backup again; if it happens again, check the client programs",
            database=self.name,
        )


class GlobalsDump:
    """Users, roles and what they are granted, as statements that this process asked the server for."""

    name = GLOBALS
    kind = GLOBALS_KIND
    size_hint_bytes: int | None = None

    def __init__(self, script: bytes, *, client: str, metadata: dict[str, Any], warnings: list[str]) -> None:
        self.metadata = metadata
        self.warnings = warnings
        self.restore_by_hand = [f"{client} --force"]
        self._rest = script

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._rest = b""

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self) -> None:
        """There is nothing to wait for."""


def command_by_hand(client: str, database: str, metadata: dict[str, Any]) -> str:
    """Returns what restores the stream with the stock client: into a database of that name, made if need be."""
    charset = f" CHARACTER SET {metadata['charset']} COLLATE {metadata['collation']}"
    create = shlex.quote(f"--execute=CREATE DATABASE IF NOT EXISTS {quoted(database)}{charset}")
    into = shlex.quote(f"--database={database}")
    options = f"--default-character-set=utf8mb4 --max-allowed-packet={LARGEST_PACKET} --binary-mode --comments"
    return f"{client} --default-character-set=utf8mb4 {create} </dev/null && {client} {options} {into}"
