"""A collection's options and indexes as mongodump writes them: one canonical extended JSON document each.

{"options": {…}, "indexes": [{"v": …, "key": {…}, "name": …}, …], "uuid": hex, "collectionName": …, "type": …}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dataguardian.domain.errors import IntegrityError

Document = dict[str, Any]


@dataclass(frozen=True)
class Metadata:
    """What a collection is made with. `indexes` holds the one on _id too."""

    options: Document = field(default_factory=dict)
    indexes: tuple[Document, ...] = ()
    uuid: str = ""
    collection: str = ""
    type: str = ""


def as_json(metadata: Metadata) -> str:
    from bson import json_util  # noqa: PLC0415 -- an optional package, loaded when it is needed

    document: Document = {"options": metadata.options} if metadata.options else {}
    document["indexes"] = list(metadata.indexes)
    document |= {"uuid": metadata.uuid} if metadata.uuid else {}
    document["collectionName"] = metadata.collection
    document |= {"type": metadata.type} if metadata.type else {}
    # Escapes of two halves, as an emoji's would be, are more than mongorestore reads before 100.10 or so.
    return json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS, ensure_ascii=False)


def from_json(text: str) -> Metadata:
    """Also reads what mongodump wrote before extended JSON 2; raises IntegrityError."""
    if not text:
        return Metadata()
    try:
        document = json.loads(text, object_pairs_hook=_value)
        indexes = tuple(dict(index) for index in document.get("indexes") or ())
        return Metadata(
            options=dict(document.get("options") or {}),
            indexes=indexes,
            uuid=str(document.get("uuid") or ""),
            collection=str(document.get("collectionName") or ""),
            type=str(document.get("type") or ""),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"the archive is damaged: a collection's options cannot be read ({error})") from error


def _value(pairs: list[tuple[str, Any]]) -> Any:  # noqa: ANN401 -- any BSON value
    """Reads one JSON object. A validator's {"$regex": …} is an operator there, which old spellings would confuse."""
    from bson import json_util  # noqa: PLC0415 -- an optional package, loaded when it is needed
    from bson.codec_options import DatetimeConversion  # noqa: PLC0415 -- see above

    document = dict(pairs)
    if not any(key.startswith("$") for key in document) or "$regex" in document:
        return document
    options = json_util.JSONOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
    return json_util.object_hook(document, json_options=options)


def is_default_id(index: Mapping[str, Any]) -> bool:
    """Tells whether that is the index that every collection has from its beginning."""
    key = index.get("key")
    return isinstance(key, Mapping) and list(key) == ["_id"] and key["_id"] in (1, True)
