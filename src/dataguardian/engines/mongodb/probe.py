"""What a health probe tells of a MongoDB server, and which privilege a dump would lack."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from dataguardian.domain.errors import DataGuardianError, NotAllowedError, NotFoundError
from dataguardian.engines.base import CheckStatus, ProbeResult
from dataguardian.engines.mongodb.dump import is_dumped
from dataguardian.engines.mongodb.server import NOT_ALLOWED, Link, Server

PROBE_SECONDS = 5.0
NEEDED = ("find", "listCollections", "listIndexes")
"""Actions on a database that a dump of it needs; the roles read and backup have them."""
_TRIED_COLLECTIONS = 200
_STATUS: dict[str, CheckStatus] = {"auth_failed": "auth_failed", "unreachable": "unreachable"}


def probe(server: Server, database: str | None) -> ProbeResult:
    try:
        with server.connect(seconds=PROBE_SECONDS) as link:
            metadata = {"version": link.version} | _figures(link, database)
            if missing := missing_privileges(link, [database] if database else link.databases()):
                said = metadata | {"missing_privileges": missing}
                return ProbeResult("error", f"a dump would lack {missing[0]}", said)
            if database is not None:
                check_exists(server, link, database)
            return ProbeResult("ok", metadata=metadata)
    except DataGuardianError as error:
        timed_out = error.code == "unreachable" and "timed out" in error.message
        return ProbeResult("timeout" if timed_out else _STATUS.get(error.code, "error"), error.message)


def check_exists(server: Server, link: Link, database: str) -> None:
    """Raises NotFoundError. A database exists when something is in it, or when it is in the list."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    if link.collections(database):
        return
    with suppress(OperationFailure):  # few may see the list
        if database in link.databases():
            return
    raise NotFoundError(
        f"there is no database {database!r} at {server.place}",
        hint="check the name; a mongodb:// address without one means all databases",
    )


def missing_privileges(link: Link, databases: Iterable[str]) -> list[str]:
    """Returns sentences such as `find on database 'shop'`; none where the server asks nobody who he is."""
    status = link.command("admin", {"connectionStatus": 1, "showPrivileges": True})
    info = status.get("authInfo") or {}
    if not info.get("authenticatedUsers"):
        return []
    privileges = info.get("authenticatedUserPrivileges")
    missing: list[str] = []
    for name in databases:
        if not privileges or not all(_has(privileges, name, action) for action in NEEDED):
            missing += _refused(link, name)
    return missing


def _refused(link: Link, database: str) -> list[str]:
    """Tries what a dump does, where privileges are not listed, or only those on some collections are there."""
    if not _may(link, database, {"listCollections": 1, "nameOnly": True}):
        return [f"listCollections on database {database!r}"]
    names = [str(info["name"]) for info in link.collections(database) if info.get("type") != "view"]
    return [
        f"{action} on collection {database}.{name}"
        for name in [name for name in names if is_dumped(database, name)][:_TRIED_COLLECTIONS]
        for action, command in (("find", {"find": name, "limit": 1}), ("listIndexes", {"listIndexes": name}))
        if not _may(link, database, command)
    ]


def _may(link: Link, database: str, command: dict[str, Any]) -> bool:
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- see above

    try:
        link.command(database, command)
    except OperationFailure as error:
        if error.code == NOT_ALLOWED:
            return False
        raise
    return True


def _has(privileges: Iterable[dict[str, Any]], database: str, action: str) -> bool:
    return any(
        (action in privilege.get("actions", ()) and _covers(privilege.get("resource") or {}, database))
        or ((privilege.get("resource") or {}).get("anyResource") and "anyAction" in privilege.get("actions", ()))
        for privilege in privileges
    )  # fmt: skip


def _covers(resource: dict[str, Any], database: str) -> bool:
    whole = resource.get("collection") == "" and resource.get("db") in ("", database)
    return bool(resource.get("anyResource")) or whole


def _figures(link: Link, database: str | None) -> dict[str, Any]:
    """Returns size and connections, as far as the user may ask for them."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    figures: dict[str, Any] = {}
    with suppress(OperationFailure, NotAllowedError):
        if database is None:
            figures["size_bytes"] = int(link.command("admin", {"listDatabases": 1}).get("totalSize") or 0)
        else:
            figures["size_bytes"] = int(link.command(database, {"dbStats": 1}).get("dataSize") or 0)
    with suppress(OperationFailure, NotAllowedError):
        status = link.command("admin", {"serverStatus": 1})
        figures["connections"] = int((status.get("connections") or {}).get("current") or 0)
    return figures
