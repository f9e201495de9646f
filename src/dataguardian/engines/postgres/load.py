"""An archive into a database: by pg_restore alone, or by way of a script when the server is older than the clients."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dataguardian.domain.errors import DataGuardianError, DiskFullError, MissingToolError, RestoreFailedError
from dataguardian.engines.postgres.config import connection_string, without_password
from dataguardian.engines.processes import ChildProcess
from dataguardian.engines.tools import ToolSet

_HEAD_BYTES = 64 * 1024
# pg_restore sets this whatever the server is; releases before 17 do not know it.
_TOO_NEW = re.compile(rb"(?m)^SET transaction_timeout = 0;\n")
_HINTS = (
    (re.compile(r'role "(.*)" does not exist'), "create role {0} first, or restore the whole cluster with its globals"),
    (re.compile(r'extension "(.*)" is not available'), "install extension {0} on the target server"),
    (re.compile(r'tablespace "(.*)" does not exist'), "create tablespace {0} first"),
    (re.compile(r"permission denied|must be (?:owner|superuser)"), "restore as a superuser or as the objects' owner"),
    (re.compile(r"(?i)invalid (?:lc_|locale)|locale .* not|encoding"), "install the source's locale on the server"),
    (re.compile(r"terminating connection|server closed the connection"), "see the server's log, then restore again"),
)


@dataclass
class Load:
    """One archive on its way into `database` (known to the user as `shown_as`). An aborted load ends its children
    before their input ends, so that a part is never taken for the whole.
    """

    stream: str
    database: str
    shown_as: str
    tools: ToolSet
    environment: dict[str, str]
    one_transaction: bool = False
    _refused: threading.Event = field(default_factory=threading.Event)

    def directly(self, chunks: Iterable[bytes]) -> None:
        """Raises RestoreFailedError, DiskFullError or MissingToolError, and passes on what `chunks` raises."""
        argv = [self.tools.path("pg_restore"), "--exit-on-error", "--no-password", *self._options()]
        with ChildProcess(argv, env=self.environment, stdin=True, stdbuf=True) as child:
            feed(child, chunks)
            self._expect_success(child)

    def by_script(self, chunks: Iterable[bytes]) -> None:
        """The same through psql, leaving out what only newer servers understand."""
        convert = [self.tools.path("pg_restore"), "--file=-"]
        run = [self.tools.path("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]
        with (
            ChildProcess([*run, *self._options()], env=self.environment, stdin=True) as psql,
            ChildProcess(
                convert, env=without_password(self.environment), stdin=True, stdout=True, stdbuf=True
            ) as converter,
        ):
            pump = threading.Thread(target=self._pump, args=(converter, psql), daemon=True)
            pump.start()
            feed(converter, self._until_refused(chunks))
            if not self._refused.is_set():
                self._expect_success(converter)
                pump.join()
                psql.close_stdin()
            self._expect_success(psql)

    def _options(self) -> list[str]:
        transaction = ["--single-transaction"] if self.one_transaction else []
        return [*transaction, f"--dbname={connection_string(self.database)}"]

    def _until_refused(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._refused.is_set():
                return
            yield chunk

    def _pump(self, source: ChildProcess, target: ChildProcess) -> None:
        """Carries the script over; goes on reading when psql has ended, so that nobody waits for ever."""
        head = bytearray()
        buffer = memoryview(bytearray(1 << 20))
        try:
            while len(head) < _HEAD_BYTES and (count := source.readinto(buffer)):
                head += buffer[:count]
            target.write(_TOO_NEW.sub(b"", bytes(head), count=1))
            while count := source.readinto(buffer):
                target.write(buffer[:count])
        except (OSError, ValueError):
            self._refused.set()
            while _can_read(source, buffer):
                pass

    def _expect_success(self, child: ChildProcess) -> None:
        if child.wait() != 0:
            raise _failure(child, self.stream, self.shown_as)


def feed(child: ChildProcess, chunks: Iterable[bytes]) -> None:
    """Writes all chunks and closes the input. A child that stops reading is not an error here: its exit code tells,
    and chunks are only drawn on when that code is good.
    """
    reading = True
    for chunk in chunks:
        if not reading:
            continue
        try:
            child.write(chunk)
        except BrokenPipeError:
            reading = False
            if child.wait() != 0:
                return
    if reading:
        child.close_stdin()


def _failure(child: ChildProcess, stream: str, database: str) -> DataGuardianError:
    text = without_data(child.stderr_text)
    if "unsupported version" in text:
        return MissingToolError(f"stream {stream!r}: {text}", hint="install newer PostgreSQL client programs")
    if "No space left on device" in text:
        return DiskFullError(
            f"restoring database {database!r}: {text}", hint="make room where the server keeps its data"
        )
    matches = ((pattern.search(text), hint) for pattern, hint in _HINTS)
    hint = next((hint.format(*match.groups()) for match, hint in matches if match), "")
    return RestoreFailedError(f"restoring database {database!r}: {text or f'{child.name} failed'}", hint=hint)


def without_data(text: str) -> str:
    """Returns pg_restore's words without the failed command and the row, which may hold secrets."""
    text = text.split("\nCommand was:", maxsplit=1)[0]
    return re.sub(r'(CONTEXT: +COPY [^\n]*?): "[^\n]*', r"\1", text).strip()


def _can_read(child: ChildProcess, buffer: memoryview) -> bool:
    try:
        return child.readinto(buffer) > 0
    except (OSError, ValueError):
        return False  # an abort has closed the pipe
