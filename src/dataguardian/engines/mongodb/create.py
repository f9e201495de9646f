"""Collections, views and indexes as a backup's metadata describes them."""

from __future__ import annotations

from typing import Any

from dataguardian.domain.errors import RestoreFailedError
from dataguardian.engines.mongodb.archive import Namespace, version_tuple
from dataguardian.engines.mongodb.metadata import Document, Metadata, is_default_id
from dataguardian.engines.mongodb.server import Link, without_data

_UNKNOWN_INDEX_OPTION = 197
_OPTIONS_OF_NO_CREATE = ("autoIndexId", "recordIdsReplicated", "uuid", "temp")
"""What listCollections may say and `create` does not take, or not any more. Every collection has its index on _id."""


def create(link: Link, name: Namespace, metadata: Metadata, *, shown_as: Namespace) -> None:
    """Makes an empty collection or a view; raises RestoreFailedError, which calls it `shown_as`."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    options = {key: value for key, value in metadata.options.items() if key not in _OPTIONS_OF_NO_CREATE}
    try:
        link.command(name.database, {"create": name.collection} | options)
    except OperationFailure as error:
        raise _refused(f"the server does not make {shown_as}", error) from error


def create_indexes(link: Link, name: Namespace, metadata: Metadata, *, shown_as: Namespace) -> list[str]:
    """Builds all indexes but the one on _id; returns warnings. Raises RestoreFailedError."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- see above

    wanted = [index for index in metadata.indexes if not is_default_id(index)]
    if not wanted:
        return []
    is_plain_simple = _is_plain_simple(link, name, metadata)
    indexes = [_definition(index, is_plain_simple=is_plain_simple) for index in wanted]
    command: dict[str, Any] = {"createIndexes": name.collection, "indexes": indexes}
    try:
        link.command(name.database, command)
    except OperationFailure as error:
        if error.code != _UNKNOWN_INDEX_OPTION or version_tuple(link.version) < (4, 1, 9):
            raise _refused(f"the indexes of {shown_as} cannot be built", error) from error
    else:
        return []
    try:
        link.command(name.database, command | {"ignoreUnknownIndexOptions": True})
    except OperationFailure as error:
        raise _refused(f"the indexes of {shown_as} cannot be built", error) from error
    return [f"{shown_as}: options of its indexes that this server does not know were left out"]


def _is_plain_simple(link: Link, name: Namespace, metadata: Metadata) -> bool:
    """Tells whether an index that is listed without a collation has none, although its collection has one.

    MongoDB lists what an index took over from its collection, so nothing means `simple`, which must then be asked for.
    Servers that list only what an index was made with mean the collection's. One index shows how it is here.
    """
    if "collation" not in metadata.options or all("collation" in index for index in metadata.indexes[1:]):
        return False
    probe = {"key": {"dataguardian": 1}, "name": "dataguardian"}
    link.command(name.database, {"createIndexes": name.collection, "indexes": [probe]})
    listed = {index["name"]: index for index in link.indexes(name)}
    link.command(name.database, {"dropIndexes": name.collection, "index": "dataguardian"})
    return "collation" in listed["dataguardian"]


def _definition(index: Document, *, is_plain_simple: bool) -> Document:
    given = {key: value for key, value in index.items() if key not in ("ns", "v", "background")}
    if index.get("v") == 1 and given.get("collation") == {"locale": "simple"}:
        del given["collation"]
    if is_plain_simple and "collation" not in given:
        given["collation"] = {"locale": "simple"}
    return given


def _refused(what: str, error: Any) -> RestoreFailedError:  # noqa: ANN401 -- pymongo's OperationFailure
    details = error.details or {}
    return RestoreFailedError(f"{what}: {without_data(str(details.get('errmsg', error)))}", server_code=error.code)
