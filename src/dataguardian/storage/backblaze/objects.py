"""A bucket of Backblaze B2 as a storage.

One request uploads one object, which the service makes atomic, checked by the SHA-1 that comes with it. B2 keeps what
is replaced as an older version; a listing shows the newest, and `delete` removes them all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from dataguardian.domain.errors import (
    IntegrityError,
    ObjectMissingError,
    StorageDeniedError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.sizes import GIB, format_size
from dataguardian.storage.backblaze import BackblazeConfig
from dataguardian.storage.backblaze.wire import BoundedB2Http, TokenError
from dataguardian.storage.base import Data, Storage, StoredObject, checked_path
from dataguardian.storage.transport.http import Answer, AnswerTooLargeError

T = TypeVar("T")

MAX_OBJECT_BYTES = 5 * GIB
PAGE = 1000
"""More names in one page would be billed as more than one call."""


@dataclass(frozen=True)
class _Session:
    token: str
    api_url: str
    download_url: str
    bucket_id: str
    bucket_name: str


class BackblazeStorage(Storage):
    def __init__(self, config: BackblazeConfig) -> None:
        from b2sdk.v2 import B2RawHTTPApi  # noqa: PLC0415 -- an SDK is loaded when it is used

        self._config = config
        self._address = config.describe()
        self._root = f"{config.prefix}/" if config.prefix else ""
        self._http = BoundedB2Http(
            address=self._address, timeout_seconds=config.timeout_seconds, ca_file=config.ca_file
        )
        self._raw = B2RawHTTPApi(self._http)
        self._session: _Session | None = None
        self._upload_urls: list[tuple[str, str]] = []
        self._lock = Lock()

    @property
    def bucket(self) -> tuple[str, str]:
        """The bucket's id and name. Raises what signing in raises."""
        session = self._signed_in()
        return session.bucket_id, session.bucket_name

    def put(self, path: str, data: Data) -> None:
        name = self._name(path)
        view = memoryview(data).cast("B")
        if len(view) > MAX_OBJECT_BYTES:
            raise UsageError(
                f"{path} has {format_size(len(view))}, and B2 takes 5 GB at once", hint="use smaller parts"
            )
        sha1 = hashlib.sha1(view, usedforsecurity=False).hexdigest()  # what B2 checks
        url, token = self._take_upload_url()
        try:
            done = self._raw.upload_file(
                url, token, name, len(view), "application/octet-stream", sha1, {}, view
            )  # an upload address that failed is not used again
        except TokenError as error:
            raise StorageTransientError(error.message, hint=error.hint) from error
        if done.get("contentLength") != len(view) or str(done.get("contentSha1")).removeprefix("unverified:") != sha1:
            raise StorageTransientError(f"{path} did not arrive whole at {self._address}", hint="it is put again")
        with self._lock:
            self._upload_urls.append((url, token))

    def get(self, path: str, max_bytes: int) -> bytes:
        name = self._name(path)
        try:
            return self._with_session(lambda session: self._download("GET", session, name, max_bytes).body)
        except AnswerTooLargeError:
            raise IntegrityError(
                f"{path} in {self._address} is larger than the {max_bytes} bytes it may have at most", path=ascii(path)
            ) from None

    def stat(self, path: str) -> StoredObject:
        name = self._name(path)
        answer = self._with_session(lambda session: self._download("HEAD", session, name, 0))
        text = answer.headers.get("Content-Length") or ""
        if not (text.isascii() and text.isdecimal()):
            raise StorageUnreachableError(f"{self._address} does not tell the size of an object", hint="check endpoint")
        return StoredObject(path, int(text))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        top = self._folder(prefix)
        return (
            StoredObject(entry["fileName"].removeprefix(self._root), int(entry["contentLength"]))
            for entry in self._names(top)
            if entry.get("action", "upload") == "upload" and not entry["fileName"].endswith("/")
        )

    def folders(self, prefix: str = "") -> Iterator[str]:
        top = self._folder(prefix)
        names = (entry["fileName"] for entry in self._names(top, delimiter="/") if entry.get("action") == "folder")
        found = (name.removeprefix(top).removesuffix("/") for name in names)
        return (name for name in found if name and not name.startswith("."))

    def delete(self, path: str) -> None:
        name = self._name(path)
        for version in [*self._versions(name)]:
            with suppress(ObjectMissingError):  # somebody else was quicker
                self._with_session(partial(self._delete_version, name, version["fileId"]))

    def free_space(self) -> None:
        return None

    def _name(self, path: str) -> str:
        from b2sdk.v2.exception import UnusableFileName  # noqa: PLC0415 -- as above

        name = self._root + checked_path(path)
        try:
            self._raw.check_b2_filename(name)
        except (UnusableFileName, UnicodeEncodeError) as error:
            raise UsageError(f"{path!a}: B2 does not take this name: {error}", path=ascii(path)) from error
        return name

    def _folder(self, prefix: str) -> str:
        return f"{self._name(prefix)}/" if prefix else self._root

    def _download(self, method: str, session: _Session, name: str, max_bytes: int) -> Answer:
        url = self._raw.get_download_url_by_name(session.download_url, session.bucket_name, name)
        return self._http.send(method, url, {"Authorization": session.token}, max_bytes=max_bytes)

    def _delete_version(self, name: str, file_id: str, session: _Session) -> None:
        self._raw.delete_file_version(session.api_url, session.token, file_id, name)

    def _names(self, top: str, **more: str) -> Iterator[dict[str, Any]]:
        start: str | None = top or None
        while True:
            page = self._page("b2_list_file_names", prefix=top, startFileName=start, **more)
            yield from page["files"]
            before, start = start, page.get("nextFileName")
            if start is None:
                return
            if start == before:
                raise StorageUnreachableError(f"{self._address} repeats a page of its listing for ever")

    def _versions(self, name: str) -> Iterator[dict[str, Any]]:
        """Yields every version of one object."""
        start_id: str | None = None
        while True:
            page = self._page("b2_list_file_versions", prefix=name, startFileName=name, startFileId=start_id)
            yield from (entry for entry in page["files"] if entry["fileName"] == name)
            start_id = page.get("nextFileId")
            if page.get("nextFileName") != name or start_id is None:
                return

    def _page(self, call: str, **params: str | None) -> dict[str, Any]:
        def ask(session: _Session) -> dict[str, Any]:
            url = f"{session.api_url}/b2api/{self._raw.API_VERSION}/{call}"
            asked = {"bucketId": session.bucket_id, "maxFileCount": PAGE, **params}
            return dict(self._http.post_json_return_json(url, {"Authorization": session.token}, asked))

        return self._with_session(ask)

    def _take_upload_url(self) -> tuple[str, str]:
        """Returns an upload address and its token, which nobody else uses at the same time."""
        with self._lock:
            if self._upload_urls:
                return self._upload_urls.pop()
        made = self._with_session(
            lambda session: self._raw.get_upload_url(session.api_url, session.token, session.bucket_id)
        )
        return made["uploadUrl"], made["authorizationToken"]

    def _with_session(self, call: Callable[[_Session], T]) -> T:
        """Calls with a session; once more with a new one when the service says that its token has run out."""
        session = self._signed_in()
        try:
            return call(session)
        except TokenError:
            with self._lock:
                if self._session is session:
                    self._session = None
        try:
            return call(self._signed_in())
        except TokenError as error:
            raise StorageDeniedError(error.message, hint=error.hint) from error

    def _signed_in(self) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = self._sign_in()
            return self._session

    def _sign_in(self) -> _Session:
        key_id, key = self._key()
        try:
            account = self._raw.authorize_account(self._config.endpoint, key_id, key)
        except TokenError as error:
            raise StorageDeniedError(error.message, hint=error.hint) from error
        try:
            api, token = account["apiInfo"]["storageApi"], account["authorizationToken"]
            bucket_id, bucket_name = self._bucket(api, token, account["accountId"])
            return _Session(token, api["apiUrl"], api["downloadUrl"], bucket_id, bucket_name)
        except (KeyError, TypeError) as error:
            raise StorageUnreachableError(
                f"what answers for {self._address} does not speak B2", hint="check endpoint"
            ) from error

    def _bucket(self, api: dict[str, Any], token: str, account_id: str) -> tuple[str, str]:
        """Returns the bucket's id and name."""
        config = self._config
        if config.bucket_id and config.bucket_name:
            return config.bucket_id, config.bucket_name
        if api.get("bucketName") == config.bucket_name is not None and api.get("bucketId"):
            return api["bucketId"], config.bucket_name  # the key is for this bucket alone, and may not list others
        asked = {"accountId": account_id, "bucketId": config.bucket_id, "bucketName": config.bucket_name}
        url = f"{api['apiUrl']}/b2api/{self._raw.API_VERSION}/b2_list_buckets"
        for found in self._http.post_json_return_json(url, {"Authorization": token}, asked)["buckets"]:
            if config.bucket_id in (None, found["bucketId"]) and config.bucket_name in (None, found["bucketName"]):
                return found["bucketId"], found["bucketName"]
        raise StorageUnreachableError(
            f"there is no bucket {self._address}", hint="create it, or check bucket_name and bucket_id"
        )

    def _key(self) -> tuple[str, str]:
        key_id = self._config.application_key_id or os.environ.get("B2_APPLICATION_KEY_ID")
        key = self._config.application_key
        secret = key.get_secret_value() if key else os.environ.get("B2_APPLICATION_KEY")
        if not key_id or not secret:
            raise StorageDeniedError(
                f"there is no key for {self._address}",
                hint="give application_key_id and application_key, or set B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY",
            )
        return key_id, secret
