"""Comparing an original with its copy by means that are not DataGuardian's: system calls, sqlite3, pg_dump, SQL."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import require_tool
from tests.servers import PostgresServer

_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1
"""
_LARGE_OBJECTS = "SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid"
_SEQUENCES = "SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2"


def tree(root: Path | str) -> dict[bytes, Any]:
    """Returns everything about every name below `root`: kind, mode, owner, time, content, links, attributes."""
    found: dict[bytes, Any] = {}
    first_name: dict[int, bytes] = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in [b".", *folders, *files] if folder == top else [*folders, *files]:
            path = folder + b"/" + name
            status = os.lstat(path)
            relative = os.path.relpath(path, top)
            mode = status.st_mode
            content: object = None
            if stat.S_ISREG(mode):
                data = Path(os.fsdecode(path)).read_bytes()
                content = (len(data), hashlib.sha256(data).hexdigest())
            elif stat.S_ISLNK(mode):
                content = os.readlink(path)  # noqa: PTH115 -- bytes
            linked = None
            if not stat.S_ISDIR(mode):
                linked = first_name.setdefault(status.st_ino, relative) if status.st_nlink > 1 else None
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            found[relative] = (mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, linked, attributes)
    return found


def sqlite_dump(path: Path | str) -> bytes:
    """Returns the statements that make the database again, by the stock shell, and its settings."""
    shell = require_tool("sqlite3")
    pragmas = ";".join(f"PRAGMA {name}" for name in ("user_version", "application_id", "encoding", "page_size"))
    dump = subprocess.run([shell, str(path), ".dump"], check=True, capture_output=True).stdout
    return dump + subprocess.run([shell, str(path), pragmas], check=True, capture_output=True).stdout


def postgres_content(server: PostgresServer, database: str) -> dict[str, Any]:
    """Returns the database's definition as stock pg_dump writes it, and a hash of every table's rows."""
    schema = server.run("pg_dump", "--schema-only", "--create", database=database).decode("utf-8", "surrogateescape")
    rows = {
        table: server.execute(
            database, f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM ONLY {table} t"
        )
        for (table,) in server.execute(database, _TABLES)
    }
    return {
        "schema": re.sub(r"(?m)^(--.*|\\(un)?restrict .*)\n", "", schema),
        "rows": rows,
        "large objects": server.execute(database, _LARGE_OBJECTS),
        "sequences": server.execute(database, _SEQUENCES),
    }


def postgres_globals(server: PostgresServer) -> str:
    """Returns roles, memberships and passwords, as stock pg_dumpall writes them."""
    script = server.run("pg_dumpall", "--globals-only").decode()
    return re.sub(r"(?m)^(--.*|\\(un)?restrict .*)\n", "", script)
