"""Documents of an archive on their way into a collection: raw, in batches, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dataguardian.domain.errors import RestoreFailedError
from dataguardian.engines.mongodb.archive import BUCKETS, Documents, Namespace, has_raw_data, version_tuple
from dataguardian.engines.mongodb.server import Link, without_data

BATCH_BYTES = 8 << 20
BATCH_DOCUMENTS = 10_000
_ZEROS_SINCE_PATCH = {7: 13, 6: 17, 5: 29}
_NO_PATCH = 1 << 30
_MIXED_SCHEMAS = 408
"""CannotInsertTimeseriesBucketsWithMixedSchema."""
_ZERO_TIMESTAMP = re.compile(rb"\x11[^\0]+\0{9}", re.DOTALL)


class RawDocument:
    """What pymongo takes for a document that is encoded already, without looking into it."""

    __slots__ = ("raw",)
    _type_marker: ClassVar[int] = 101

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


@dataclass
class Loader:
    """Fills one collection. `add` documents, then `flush`; `count` says how many the server took."""

    link: Link
    place: Namespace
    shown_as: Namespace
    is_time_series: bool = False
    count: int = 0
    _batch: list[RawDocument] = field(default_factory=list)
    _size_bytes: int = 0

    def add(self, documents: Documents) -> None:
        start, data = 0, documents.data
        for end in documents.ends:
            self._batch.append(RawDocument(bytes(data[start:end])))
            self._size_bytes += end - start
            start = end
            if self._size_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_DOCUMENTS:
                self.flush()

    def flush(self) -> None:
        if not self._batch:
            return
        batch, self._batch, self._size_bytes = self._batch, [], 0
        insert(self.link, self.place, batch, shown_as=self.shown_as, is_time_series=self.is_time_series)
        self.count += len(batch)


def insert(
    link: Link, place: Namespace, batch: list[RawDocument], *, shown_as: Namespace, is_time_series: bool = False
) -> None:
    """Inserts documents as they are, also ones that a validator would refuse today; raises RestoreFailedError."""
    keeps_zeros = _keeps_zero_timestamps(link.version)
    options: dict[str, Any] = {"bypassEmptyTsReplacement": True} if keeps_zeros else {}
    options |= (
        ({"rawData": True} if has_raw_data(link.version) else {})
        if is_time_series
        else {"bypassDocumentValidation": True}
    )
    command: dict[str, Any] = {"insert": place.collection, "documents": batch, "ordered": True} | options
    reply, sent = link.command(place.database, command), batch
    if is_time_series and _mixes_schemas(reply):
        _admit_mixed_schemas(link, place)
        sent = batch[int(reply.get("n", 0)) :]
        reply = link.command(place.database, command | {"documents": sent})
    _check(reply, len(sent), shown_as)
    if not keeps_zeros:
        _give_zeros_back(link, place, batch)


def _mixes_schemas(reply: dict[str, Any]) -> bool:
    return any(error.get("code") == _MIXED_SCHEMAS for error in reply.get("writeErrors", ()))


def _admit_mixed_schemas(link: Link, place: Namespace) -> None:
    """Buckets that older servers filled may hold one field with several types, which newer ones take only when told."""
    name = place.collection.removeprefix(BUCKETS)
    link.command(place.database, {"collMod": name, "timeseriesBucketsMayHaveMixedSchemaData": True})


def stored(link: Link, place: Namespace) -> list[bytes]:
    """Returns all documents of a small collection, undecoded."""
    documents: list[bytes] = []
    for batch in link.raw_batches(place):
        ends = document_ends(memoryview(batch))
        documents += [bytes(memoryview(batch)[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return documents


def document_ends(data: memoryview) -> list[int]:
    """Returns the offset behind each of the documents that `data` consists of."""
    ends, position = [], 0
    while position < len(data):
        position += int.from_bytes(data[position : position + 4], "little")
        ends.append(position)
    return ends


def _check(reply: dict[str, Any], sent: int, shown_as: Namespace) -> None:
    errors = reply.get("writeErrors") or ([reply["writeConcernError"]] if reply.get("writeConcernError") else [])
    if errors or reply.get("n") != sent:
        text = without_data(str(errors[0].get("errmsg", ""))) if errors else f"it took {reply.get('n')} of {sent}"
        raise RestoreFailedError(f"a document of {shown_as} could not be restored: {text}", collection=str(shown_as))


def _keeps_zero_timestamps(version: str) -> bool:
    """Tells whether a server can be asked to leave a Timestamp(0, 0) alone, which it else takes for "now".

    It came with 8.0, and with patches of 7.0, 6.0 and 5.0 only (SERVER-88750).
    """
    major, minor, patch = version_tuple(version)
    return major > max(_ZEROS_SINCE_PATCH) or (minor == 0 and patch >= _ZEROS_SINCE_PATCH.get(major, _NO_PATCH))


def _give_zeros_back(link: Link, place: Namespace, batch: list[RawDocument]) -> None:
    """Replaces documents in which an older server put the time in the place of an empty timestamp."""
    for document in batch:
        if _ZERO_TIMESTAMP.search(document.raw) and (identity := _with_zero(document.raw)):
            replacement = [{"$replaceRoot": {"newRoot": {"$literal": document}}}]
            update = {"q": {"_id": {"$eq": identity[0]}}, "u": replacement}
            link.command(place.database, {"update": place.collection, "updates": [update]})


def _with_zero(raw: bytes) -> tuple[Any] | None:
    """Returns the _id of a document that has an empty timestamp on its first level."""
    from bson import Timestamp  # noqa: PLC0415 -- an optional package, loaded when it is needed
    from bson.raw_bson import RawBSONDocument  # noqa: PLC0415 -- see above

    document = RawBSONDocument(raw)
    has_zero = any(value == Timestamp(0, 0) for key, value in document.items() if key != "_id")
    return (document["_id"],) if has_zero and "_id" in document else None
