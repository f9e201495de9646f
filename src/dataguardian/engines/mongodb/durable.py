"""Waiting until a restore will outlast its server: MongoDB acknowledges, by default of a server that stands alone, what
a crash in the next tenth of a second takes back, and in a replica set with an arbiter what a new primary may not have.
"""

from __future__ import annotations

from collections.abc import Collection

from dataguardian.engines.mongodb.archive import Namespace
from dataguardian.engines.mongodb.move import drop
from dataguardian.engines.mongodb.names import Names
from dataguardian.engines.mongodb.server import Link, without_data

WAIT_SECONDS = 60.0


def wait_until_durable(link: Link, names: Names, databases: Collection[str]) -> list[str]:
    """Returns warnings about what the server did not confirm in WAIT_SECONDS: the data is in place all the same."""
    # Journal and oplog keep the order of writes, so one write at the end answers for all before it, of any database.
    # In a sharded cluster each database has a shard of its own for what is made in it.
    asked = sorted(databases) if link.is_mongos else sorted(databases)[:1]
    refusals = {
        database: refusal for database in asked if (refusal := _refusal(link, Namespace(database, names.new())))
    }
    return [
        f"{database}: the restore is complete, but the server did not confirm that a majority of its members has it on"
        f" disk: {refusal}"
        for database, refusal in refusals.items()
    ]


def _refusal(link: Link, place: Namespace) -> str:
    """Writes something of no use and takes it away again; returns why it is not on disk, or nothing."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    concern = {"w": "majority", "j": True, "wtimeout": int(WAIT_SECONDS * 1000)}
    command = {"insert": place.collection, "documents": [{"_id": 1}], "writeConcern": concern}
    try:
        reply = link.command(place.database, command)
        drop(link, place)
    except OperationFailure as error:
        return without_data(str(error))
    return without_data(str((reply.get("writeConcernError") or {}).get("errmsg", "")))
