"""MongoDB: `mongodump --archive` where it is installed, else the same archive by the driver, from raw BSON.

Every database is a stream. A restore always goes by the driver: mongorestore goes on behind errors and replaces
collections one after the other, while ours lie complete beside the target before the first one is renamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dataguardian.domain.errors import IntegrityError
from dataguardian.engines.base import EngineAdapter
from dataguardian.engines.mongodb.config import MongoConfig
from dataguardian.registry import ClientProgram

if TYPE_CHECKING:
    from dataguardian.engines.mongodb.engine import MongoEngine


def build(config: MongoConfig) -> MongoEngine:
    from dataguardian.engines.mongodb.engine import MongoEngine  # noqa: PLC0415 -- every start would pay for it

    return MongoEngine(config)


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:  # noqa: ARG001 -- the protocol's
    """Reads a whole archive without a server: order, lengths, ends and checksums; raises IntegrityError."""
    from dataguardian.engines.mongodb.archive import KIND, ArchiveReader, Prelude  # noqa: PLC0415 -- see above
    from dataguardian.engines.mongodb.metadata import from_json  # noqa: PLC0415 -- see above

    if kind != KIND:
        raise IntegrityError(f"a MongoDB backup has no streams of kind {kind!r}")
    reader = ArchiveReader()
    for chunk in chunks:
        for event in reader.feed(chunk):
            if isinstance(event, Prelude):
                for listed in event.collections:
                    from_json(listed.metadata)
    reader.finish()


def client_programs() -> list[ClientProgram]:
    from dataguardian.engines.mongodb import tools  # noqa: PLC0415 -- see above

    return tools.client_programs()


ADAPTER = EngineAdapter(
    type="mongodb",
    schemes=("mongodb", "mongodb+srv"),
    example="mongodb://user@host:27017/database",
    config=MongoConfig,
    build=build,
    package="pymongo",
    validate=validate,
    programs=client_programs,
)
