"""A bucket as a storage: one request puts one object, which S3 makes atomic and durable.

No part is large enough to need S3's own multipart uploads, so a killed put leaves nothing at all behind. Each put
carries the SHA-256 of its bytes, in the signature and as `x-amz-checksum-sha256`: a service that knows it refuses
damaged bytes, keeps it, and `stat` returns it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import unquote_plus

from dataguardian.domain.clock import Clock, SystemClock
from dataguardian.domain.errors import IntegrityError, ObjectMissingError, StorageUnreachableError, UsageError
from dataguardian.domain.sizes import GIB, format_size
from dataguardian.storage.base import PROBE_PREFIX, Data, Storage, StoredObject, checked_path
from dataguardian.storage.s3.wire import Request, S3Wire, not_s3, parse_xml
from dataguardian.storage.transport.http import Answer, AnswerTooLargeError

MAX_OBJECT_BYTES = 5 * GIB
"""What one request can put."""
MAX_KEY_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """Headers that objects are written and read with."""

    write: Mapping[str, str] = field(default_factory=dict)
    key: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of a customer's own key (SSE-C), which every request about an object needs."""
    lock_mode: str | None = None
    retain_days: int | None = None


class S3Storage(Storage):
    def __init__(
        self, wire: S3Wire, *, prefix: str, address: str, options: ObjectOptions, clock: Clock | None = None
    ) -> None:
        self._wire = wire
        self._root = f"{prefix}/" if prefix else ""
        self._address = address
        self._options = options
        self._clock = clock or SystemClock()

    def put(self, path: str, data: Data) -> None:
        self.put_hashed(path, data, hashlib.sha256(data).hexdigest())

    def put_hashed(self, path: str, data: Data, sha256: str) -> None:
        key = self._key(path)
        view = memoryview(data).cast("B")
        if len(view) > MAX_OBJECT_BYTES:
            raise UsageError(
                f"{path} has {format_size(len(view))}, and S3 takes 5 GiB at once", hint="use smaller parts"
            )
        headers = {
            **self._options.write,
            **self._options.key,
            **self._lock(path),
            "Content-Type": "application/octet-stream",
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
        }
        self._wire.request(Request(method="PUT", key=key, headers=headers, body=view, sha256=sha256))

    def get(self, path: str, max_bytes: int) -> bytes:
        key = self._key(path)
        try:
            request = Request(method="GET", key=key, headers=self._options.key, max_bytes=max_bytes)
            return self._wire.request(request).body
        except AnswerTooLargeError:
            raise IntegrityError(
                f"{path} in {self._address} is larger than the {max_bytes} bytes it may have at most", path=ascii(path)
            ) from None

    def stat(self, path: str) -> StoredObject:
        key = self._key(path)
        headers = {**self._options.key, "x-amz-checksum-mode": "ENABLED"}
        try:
            answer = self._wire.request(Request(method="HEAD", key=key, headers=headers))
        except ObjectMissingError:
            next(self._pages({"prefix": key, "max-keys": "1"}))  # an answer to HEAD cannot tell a missing bucket
            raise
        return StoredObject(path, _size_of(answer, self._address), _sha256_of(answer))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        top = self._folder(prefix)
        return self._objects(top)

    def folders(self, prefix: str = "") -> Iterator[str]:
        top = self._folder(prefix)
        return self._subfolders(top)

    def delete(self, path: str) -> None:
        key = self._key(path)
        try:
            self._wire.request(Request(method="DELETE", key=key))
        except ObjectMissingError:
            return

    def free_space(self) -> None:
        return None

    def _key(self, path: str) -> str:
        key = self._root + checked_path(path)
        try:
            size_bytes = len(key.encode())
        except UnicodeEncodeError:
            raise UsageError(f"{path!a}: S3 takes names that are UTF-8 only", path=ascii(path)) from None
        if size_bytes > MAX_KEY_BYTES:
            raise UsageError(f"{path!a}: S3 takes names of {MAX_KEY_BYTES} bytes at most", path=ascii(path))
        return key

    def _folder(self, prefix: str) -> str:
        return f"{self._key(prefix)}/" if prefix else self._root

    def _lock(self, path: str) -> dict[str, str]:
        """Returns the headers of object lock. A probe is not locked: it is taken away again."""
        days, mode = self._options.retain_days, self._options.lock_mode
        if days is None or mode is None or path.startswith(f"{PROBE_PREFIX}/"):
            return {}
        until = (self._clock.now() + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"x-amz-object-lock-mode": mode, "x-amz-object-lock-retain-until-date": until}

    def _objects(self, top: str) -> Iterator[StoredObject]:
        for page in self._pages({"prefix": top}):
            for entry in page.entries:
                if not entry.path.endswith("/"):  # what consoles put to show an empty folder
                    yield StoredObject(entry.path.removeprefix(self._root), entry.size_bytes)

    def _subfolders(self, top: str) -> Iterator[str]:
        for page in self._pages({"prefix": top, "delimiter": "/"}):
            for name in page.folders:
                folder = name.removeprefix(top).removesuffix("/")
                if folder and not folder.startswith("."):
                    yield folder

    def _pages(self, query: Mapping[str, str]) -> Iterator[_Page]:
        """Yields the pages of a listing (ListObjectsV2)."""
        token: str | None = None
        while True:
            more = {} if token is None else {"continuation-token": token}
            asked = {"list-type": "2", "encoding-type": "url", **query, **more}
            page = _page(self._wire.request(Request(method="GET", query=asked)), self._address)
            yield page
            if page.token is None:
                return
            if page.token == token:
                raise StorageUnreachableError(f"{self._address} repeats a page of its listing for ever")
            token = page.token


@dataclass(frozen=True)
class _Page:
    entries: list[StoredObject]
    folders: list[str]
    token: str | None


def _page(answer: Answer, address: str) -> _Page:
    document = parse_xml(answer, address)
    if document.tag != "ListBucketResult":
        raise not_s3(address)
    decode = unquote_plus if document.findtext("EncodingType") == "url" else str
    entries = [
        StoredObject(decode(item.findtext("Key") or ""), _number(item.findtext("Size"), address))
        for item in document.iterfind("Contents")
    ]
    folders = [decode(item.findtext("Prefix") or "") for item in document.iterfind("CommonPrefixes")]
    more = document.findtext("IsTruncated") == "true"
    token = document.findtext("NextContinuationToken") if more else None
    if more and not token:
        raise StorageUnreachableError(f"{address} cuts its listing short and does not say how it goes on")
    return _Page(entries, folders, token)


def _size_of(answer: Answer, address: str) -> int:
    return _number(answer.headers.get("Content-Length"), address)


def _number(text: str | None, address: str) -> int:
    if text is None or not (text.isascii() and text.isdecimal()):
        raise StorageUnreachableError(f"{address} does not tell the size of an object", hint="does it speak S3?")
    return int(text)


def _sha256_of(answer: Answer) -> str | None:
    """Returns the checksum that the service has for the whole object; one of parts (`…-3`) is another number."""
    text = answer.headers.get("x-amz-checksum-sha256")
    if not text or "-" in text or answer.headers.get("x-amz-checksum-type") == "COMPOSITE":
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None
