"""Users and roles of a backup, added to those of the server: what exists already stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataguardian.domain.errors import RestoreFailedError
from dataguardian.engines.mongodb.archive import OF_ADMIN, ROLES, USERS, Namespace
from dataguardian.engines.mongodb.load import RawDocument, insert
from dataguardian.engines.mongodb.move import drop
from dataguardian.engines.mongodb.names import Names
from dataguardian.engines.mongodb.server import Link, without_data

_PARAMETERS = {USERS: "tempUsersCollection", ROLES: "tempRolesCollection"}


@dataclass
class Users:
    """Of one restore. `databases` maps a database of the backup to the one it went to, `held` are raw documents."""

    link: Link
    names: Names
    databases: Mapping[str, str]
    held: Mapping[Namespace, list[bytes]]

    def restore(self) -> list[str]:
        """Returns warnings: nothing of it fails a restore whose data is in place."""
        from pymongo.errors import PyMongoError  # noqa: PLC0415 -- an optional package, loaded when it is needed

        warnings: list[str] = []
        for database, target in self.databases.items():
            found = {kind: self._documents(database, kind) for kind in (USERS, ROLES)}
            if not any(found.values()):
                continue
            what = f"{len(found[USERS])} users and {len(found[ROLES])} roles of {database}"
            if database != target:
                warnings.append(f"{what} were not restored: they belong to that database, and this one is {target}")
                continue
            try:
                kept = self._merge(database, found)
            except (PyMongoError, RestoreFailedError) as error:
                warnings.append(f"{what} were not restored: {without_data(str(error))}")
            else:
                warnings += [f"{kept} users and roles of {database} exist, and stayed as they are"] if kept else []
        return warnings

    def _documents(self, database: str, kind: str) -> list[bytes]:
        name = kind if database == "admin" else OF_ADMIN + kind
        return self.held.get(Namespace(database, name), [])

    def _merge(self, database: str, found: Mapping[str, list[bytes]]) -> int:
        """Has the server merge them, which is how mongorestore does it too; returns how many exist already."""
        command: dict[str, Any] = {"_mergeAuthzCollections": 1}
        temporary: list[Namespace] = []
        kept = 0
        try:
            for kind, documents in found.items():
                new = self._new_ones(kind, documents)
                kept += len(documents) - len(new)
                if new:
                    temporary.append(Namespace("admin", self.names.new()))
                    insert(
                        self.link, temporary[-1], [RawDocument(raw) for raw in new], shown_as=Namespace("admin", kind)
                    )
                    command[_PARAMETERS[kind]] = str(temporary[-1])
            if temporary:
                self.link.command("admin", command | {"drop": False, "db": "" if database == "admin" else database})
        finally:
            for name in temporary:
                drop(self.link, name)
        return kept

    def _new_ones(self, kind: str, documents: list[bytes]) -> list[bytes]:
        import bson  # noqa: PLC0415 -- an optional package, loaded when it is needed

        known = {str(one["_id"]) for one in self.link.database("admin")[kind].find({}, projection=["_id"])}
        return [raw for raw in documents if str(bson.decode(raw)["_id"]) not in known]
