"""Why a connection could not be had. libpq gives the server's words only, in whatever language the server speaks, and
drops the SQLSTATE that came with them; a trace of one more try still has it.
"""

from __future__ import annotations

import os
import re
import select
import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DiskFullError,
    NotAllowedError,
    NotFoundError,
    TargetInUseError,
    UnreachableError,
)

if TYPE_CHECKING:
    import psycopg

_SECONDS = 5.0
_TRACE_BYTES = 1 << 20
_CODE = re.compile(rb'^B\t\d+\tErrorResponse\t.*? C "([0-9A-Z]{5})"', re.MULTILINE)

_BY_SQLSTATE: dict[str, type[DataGuardianError]] = {
    "3D000": NotFoundError,
    "28": AuthenticationError,
    "42501": NotAllowedError,
    "53100": DiskFullError,
    "55006": TargetInUseError,
    "57P": UnreachableError,
    "53300": UnreachableError,  # too many connections
    "08": UnreachableError,
}
# What libpq and English servers say: no second try is needed for those.
_BY_MESSAGE: tuple[tuple[re.Pattern[str], type[DataGuardianError]], ...] = (
    (re.compile(r'FATAL:  database ".*" does not exist', re.DOTALL), NotFoundError),
    (re.compile(r"FATAL:  permission denied for database|not currently accepting connections"), NotAllowedError),
    (re.compile(r"authentication failed|no password supplied|pg_hba\.conf|role \".*\" (does not exist|is not permitted)"
                r"|certificate|SSL|channel binding", re.DOTALL), AuthenticationError),
    (re.compile(r"Connection refused|could not translate host name|failed to resolve host|No such file or directory"
                r"|timeout expired|Network is unreachable|No route to host|too many clients|starting up|shutting down"),
     UnreachableError),
)  # fmt: skip


def kind_by_code(sqlstate: str, fallback: type[DataGuardianError]) -> type[DataGuardianError]:
    return next((kind for prefix, kind in _BY_SQLSTATE.items() if sqlstate.startswith(prefix)), fallback)


def kind_of(failure: psycopg.Error, parameters: Mapping[str, Any]) -> type[DataGuardianError]:
    """Returns what it means that a connection with these parameters of libpq failed."""
    text = str(failure)
    known = next((kind for pattern, kind in _BY_MESSAGE if pattern.search(text)), None)
    if known is not None:
        return known
    code = failure.sqlstate or _traced_code(parameters)
    if code is not None:
        # Said of a connection, 55000 is a database that admits none.
        return NotAllowedError if code == "55000" else kind_by_code(code, UnreachableError)
    asked = failure.pgconn is not None and (failure.pgconn.used_password or failure.pgconn.needs_password)
    return AuthenticationError if asked else UnreachableError


def _traced_code(parameters: Mapping[str, Any]) -> str | None:
    """Connects again and returns the SQLSTATE of the server's refusal, None when there was none."""
    import psycopg  # noqa: PLC0415 -- an optional package, loaded when it is needed

    with os.fdopen(_private_file(), "rb") as trace:
        try:
            _connect(parameters, trace.fileno())
        except (psycopg.Error, OSError, ValueError):
            return None
        codes = _CODE.findall(os.pread(trace.fileno(), _TRACE_BYTES, 0))
    return codes[-1].decode() if codes else None


def _private_file() -> int:
    """Returns a descriptor of a file that nobody else can open: a trace may hold a password."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("trace")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)  # noqa: PTH108 -- a descriptor is what is wanted
    return descriptor


def _connect(parameters: Mapping[str, Any], trace: int) -> None:
    from psycopg import conninfo, pq  # noqa: PLC0415 -- see above

    pgconn = pq.PGconn.connect_start(conninfo.make_conninfo(**parameters).encode())
    try:
        pgconn.trace(trace)
        pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        limit = time.monotonic() + _SECONDS
        while (status := pgconn.connect_poll()) in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
            ours = [pgconn.socket]
            reads, writes = (ours, []) if status == pq.PollingStatus.READING else ([], ours)
            if not any(select.select(reads, writes, [], max(0.0, limit - time.monotonic()))):
                return
        pgconn.untrace()
    finally:
        pgconn.finish()
