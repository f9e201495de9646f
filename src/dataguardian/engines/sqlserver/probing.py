"""What a probe tells of a server: its release, its size, who is connected. What a server does not tell is left out."""

from __future__ import annotations

import re
from typing import Any

from dataguardian.engines.sqlserver.server import look
from dataguardian.engines.sqlserver.session import Session

_VERSION = re.compile(r"\d+(?:\.\d+)+")
_SIZE = "SELECT SUM(CAST(size AS bigint)) * 8192 AS found FROM {}"
_SIZE_OF_TABLES = "SELECT SUM(CAST(pg_total_relation_size(object_id) AS bigint)) AS found FROM sys.tables"
"""For Babelfish, whose views of files are empty."""
_CONNECTIONS = (
    "SELECT COUNT(*) AS found FROM sys.dm_exec_sessions WHERE is_user_process = 1",
    "SELECT COUNT(*) AS found FROM sys.sysprocesses",
)


def version_of(session: Session) -> str:
    """Returns `16.0.4135.4`, as far as the server says it."""
    for query in (
        "SELECT CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)) AS found",
        "SELECT @@VERSION AS found",
    ):
        found = _first(session, query)
        match = _VERSION.search(found) if isinstance(found, str) else None
        if match:
            return match[0]
    return ""


def facts_of(session: Session, *, whole_server: bool) -> dict[str, Any]:
    size = _SIZE.format("sys.master_files" if whole_server else "sys.database_files")
    facts: dict[str, Any] = {"version": version_of(session)}
    queries = {"size_bytes": (size, _SIZE_OF_TABLES), "connections": _CONNECTIONS}
    for name, ways in queries.items():
        found = next((value for query in ways if (value := _first(session, query)) is not None), None)
        if isinstance(found, int):
            facts[name] = found
    return facts


def _first(session: Session, query: str) -> object:
    rows = look(session, query)
    return next(iter(rows[0].values())) if rows else None
