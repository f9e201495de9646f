"""Requests to a service that speaks S3: signed by botocore, sent by `http`, their errors translated.

Of botocore only the credential chain and the signature are used: its client holds 20 MB more, copies bodies and bounds
no call in time (docs/architecture.md has the figures).
"""

from __future__ import annotations

import hashlib
import re
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dataguardian.domain.errors import (
    DataGuardianError,
    ObjectMissingError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.sizes import MIB
from dataguardian.storage.s3 import DEFAULT_REGION
from dataguardian.storage.transport.http import Answer, HttpPeer

if TYPE_CHECKING:
    from botocore.credentials import Credentials

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_TRANSIENT = {
    "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InternalError", "InvalidDigest", "OperationAborted",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException",
    "TooManyRequests", "XAmzContentSHA256Mismatch", "XMinioServerNotInitialized",
}  # fmt: skip
_FULL = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "StorageFull"}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "301"}
_TRANSIENT_STATUS = {408, 425, 429}
_DENIED_HINTS = {
    "InvalidAccessKeyId": "the service does not know this access key: check it",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: check it",
    "ExpiredToken": "get new temporary credentials",
    "RequestTimeTooSkewed": "set this machine's clock",
    "InvalidObjectState": "it lies in an archive class: restore it to a readable class first (restore-object)",
    "InvalidStorageClass": "the service has no such storage_class",
    "InvalidArgument": "check storage_class, server_side_encryption and object_lock_mode",
    "InvalidRequest": "check that the bucket has what storage_class, encryption and object_lock_mode ask for",
    "NotImplemented": "the service does not know one of the options: leave storage_class, encryption or lock out",
}
_DENIED_HINT = "allow these keys s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there, or check the keys"
_NAMESPACE = re.compile(rb' xmlns="[^"]*"')


@dataclass(frozen=True)
class Place:
    """Where a bucket is reached. `region` None lets the service say it."""

    scheme: str
    host: str
    port: int | None
    bucket: str
    path_style: bool
    region: str | None
    address: str
    """As shown to people."""


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    key: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: memoryview | bytes = field(default=b"", repr=False)
    sha256: str = EMPTY_SHA256
    """Of `body`, in hexadecimal digits."""
    max_bytes: int = 16 * MIB
    """What the answer's body may have."""


class S3Wire:
    """Sends requests to one bucket."""

    def __init__(
        self, place: Place, credentials: Credentials | None, *, timeout_seconds: float, tls: ssl.SSLContext | None
    ) -> None:
        self._place = place
        self._credentials = credentials
        self._region = place.region
        host = place.host if place.path_style else f"{place.bucket}.{place.host}"
        self._peer = HttpPeer(place.scheme, host, place.port, timeout_seconds=timeout_seconds, tls=tls)
        self._base = f"/{quote(place.bucket)}" if place.path_style else ""

    def request(self, request: Request) -> Answer:
        """Returns a good answer (2xx). Raises what the service's error means, AnswerTooLargeError."""
        answer = self._send(request)
        if _is_elsewhere(answer) and self._place.region is None and (region := _region_of(answer)) != self._region:
            self._region = region
            answer = self._send(request)
        if not 200 <= answer.status < 300:  # noqa: PLR2004 -- HTTP's good statuses
            raise self._error(answer, request)
        return answer

    def _send(self, request: Request) -> Answer:
        query = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in sorted(request.query.items()))
        target = f"{self._base}/{quote(request.key)}" + (f"?{query}" if query else "")
        headers = self._signed(request, target)
        return self._peer.request(request.method, target, headers, request.body, max_bytes=request.max_bytes)

    def _signed(self, request: Request, target: str) -> dict[str, str]:
        """Returns the headers of a request with its signature (AWS Signature Version 4)."""
        if self._credentials is None:
            raise StorageDeniedError(
                f"there are no keys for {self._place.address}",
                hint="give access_key_id and secret_access_key, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415 -- an SDK is loaded when it is used
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415 -- as above

        url = f"{self._place.scheme}://{self._peer.host_header}{target}"
        signed = AWSRequest(request.method, url, dict(request.headers))
        signer = S3SigV4Auth(self._frozen(), "s3", self._region or DEFAULT_REGION)
        signer.payload = lambda _signed: request.sha256
        signer.add_auth(signed)
        return dict(signed.headers.items())

    def _frozen(self) -> Any:  # noqa: ANN401 -- botocore has no types
        """Returns the keys of this moment: a chain renews temporary ones."""
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 -- as above

        assert self._credentials is not None  # noqa: S101 -- asked before
        try:
            return self._credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise StorageDeniedError(
                f"the keys for {self._place.address} cannot be renewed: {error}", hint="check the AWS profile or role"
            ) from error

    def _error(self, answer: Answer, request: Request) -> DataGuardianError:
        code, message = _code_and_message(answer)
        shown = request.key if request.key.isprintable() else ascii(request.key)
        where = f"{shown} in {self._place.address}" if shown else self._place.address
        text = f"{where}: {code or answer.status} {message or answer.reason}".rstrip()
        if code == "NoSuchBucket":
            return self._no_bucket()
        if answer.status == 404:  # noqa: PLR2004 -- HTTP
            return self._missing(code, request, where)
        if _is_elsewhere(answer):
            hint = f"set region={_region_of(answer) or '…'}"
            return StorageDeniedError(f"{text}: the bucket is in another region", hint=hint)
        kind, hint = _meaning(code, answer.status)
        return kind(text, hint=hint, path=shown)

    def _missing(self, code: str, request: Request, where: str) -> DataGuardianError:
        """Answers to HEAD have no body, so whether the bucket is there must be asked apart (see `stat`)."""
        if request.key and (request.method == "HEAD" or code in ("NoSuchKey", "NoSuchVersion")):
            return ObjectMissingError(f"{where} does not exist", path=ascii(request.key))
        return not_s3(self._place.address)

    def _no_bucket(self) -> StorageUnreachableError:
        return StorageUnreachableError(
            f"there is no bucket {self._place.bucket!r}: {self._place.address}",
            hint="create it, or check the name, the endpoint and the region",
        )


def _meaning(code: str, status: int) -> tuple[type[StorageError | UsageError], str]:
    if code in _FULL or status == 507:  # noqa: PLR2004 -- HTTP
        return StorageFullError, "delete old backups or raise the quota"
    is_ill = status >= 500 and code != "NotImplemented"  # noqa: PLR2004 -- HTTP
    if code in _TRANSIENT or status in _TRANSIENT_STATUS or is_ill:
        return StorageTransientError, "the service is busy or ill: run it again later"
    if code == "KeyTooLongError":
        return UsageError, "give it a shorter name"
    return StorageDeniedError, _DENIED_HINTS.get(code, _DENIED_HINT)


def not_s3(address: str) -> StorageUnreachableError:
    return StorageUnreachableError(f"what answers at {address} does not speak S3", hint="check endpoint and bucket")


def parse_xml(answer: Answer, address: str) -> ET.Element:
    """Returns an answer's document without its name space; raises StorageUnreachableError for what is none."""
    try:
        return ET.fromstring(_NAMESPACE.sub(b"", answer.body, count=1))  # noqa: S314 -- expat bounds expansion itself
    except ET.ParseError as error:
        raise not_s3(address) from error


def _code_and_message(answer: Answer) -> tuple[str, str]:
    try:
        document = ET.fromstring(_NAMESPACE.sub(b"", answer.body, count=1))  # noqa: S314 -- as above
    except ET.ParseError:
        return "", ""
    code, message = document.findtext("Code") or "", document.findtext("Message") or ""
    return code[:100], "".join(character for character in message if character.isprintable())[:300]


def _is_elsewhere(answer: Answer) -> bool:
    """Tells whether the bucket is in another region than the request was signed for."""
    if answer.status in (301, 307):
        return True
    return answer.status == 400 and (  # noqa: PLR2004 -- HTTP
        _code_and_message(answer)[0] in _WRONG_REGION or "x-amz-bucket-region" in answer.headers
    )


def _region_of(answer: Answer) -> str | None:
    if region := answer.headers.get("x-amz-bucket-region"):
        return str(region)
    match = re.search(rb"<Region>([a-z0-9-]{1,40})</Region>", answer.body)
    return match[1].decode() if match else None
