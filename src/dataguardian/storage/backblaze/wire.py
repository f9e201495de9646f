"""The transport under b2sdk's raw API: `http` instead of requests, so that calls are bounded and nothing is retried.

b2sdk keeps the protocol (paths, headers, names, error codes); its own client would try an upload again by itself, up to
20 times, and bounds only the silence on a socket.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from dataguardian.domain.errors import (
    DataGuardianError,
    ObjectMissingError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
)
from dataguardian.domain.sizes import MIB
from dataguardian.storage.transport.http import Answer, HttpPeer, tls_context

MAX_JSON_BYTES = 32 * MIB
_TRANSIENT_STATUS = {408, 409, 425, 429}
_KEY_HINT = "check application_key_id and application_key, and that the key may list, read, write and delete there"


class TokenError(StorageTransientError):
    """The session's token is not valid any more: with a new one the call works."""

    code = "storage_transient"


_KINDS: dict[str, tuple[type[DataGuardianError], str]] = {
    "storage_cap_exceeded": (StorageFullError, "raise the account's storage cap or delete old backups"),
    "expired_auth_token": (TokenError, _KEY_HINT),
    "bad_auth_token": (TokenError, _KEY_HINT),
    "transaction_cap_exceeded": (StorageDeniedError, "raise the daily cap for transactions, or wait until tomorrow"),
    "auth_token_limit": (StorageTransientError, "two uploads shared an address: run it again"),
    "bad_bucket_id": (StorageUnreachableError, "check bucket_id"),
}


class BoundedB2Http:
    """Has the methods of b2sdk's `B2Http` that its raw API calls for what we do."""

    def __init__(self, *, address: str, timeout_seconds: float, ca_file: str | None = None) -> None:
        self._tls = tls_context(verify=True, ca_file=ca_file) if ca_file else None
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._peers: dict[tuple[str, str, int | None], HttpPeer] = {}

    def post_json_return_json(self, url: str, headers: Mapping[str, str], params: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- JSON
        given = {name: value for name, value in params.items() if value is not None}
        body = json.dumps(given).encode()
        return self._json(self.send("POST", url, headers, body, max_bytes=MAX_JSON_BYTES))

    def post_content_return_json(
        self,
        url: str,
        headers: Mapping[str, str],
        data: memoryview,
        try_count: int = 1,  # noqa: ARG002 -- a parameter of b2sdk's
    ) -> Any:  # noqa: ANN401 -- JSON
        given = {name: value for name, value in headers.items() if name != "Content-Length"}
        return self._json(self.send("POST", url, given, data, max_bytes=MAX_JSON_BYTES))

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: memoryview | bytes = b"", *, max_bytes: int
    ) -> Answer:
        """Returns a good answer. Raises what the service's error means, AnswerTooLargeError."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        answer = self._peer(parts.scheme, parts.hostname or "", parts.port).request(
            method, target, headers, body, max_bytes=max_bytes
        )
        if not 200 <= answer.status < 300:  # noqa: PLR2004 -- HTTP's good statuses
            raise _error(answer, self._address)
        return answer

    def _peer(self, scheme: str, host: str, port: int | None) -> HttpPeer:
        key = (scheme, host, port)
        if key not in self._peers:
            self._peers[key] = HttpPeer(scheme, host, port, timeout_seconds=self._timeout_seconds, tls=self._tls)
        return self._peers[key]

    def _json(self, answer: Answer) -> Any:  # noqa: ANN401 -- JSON
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise StorageUnreachableError(
                f"what answers for {self._address} does not speak B2", hint="check endpoint"
            ) from error


def _error(answer: Answer, address: str) -> DataGuardianError:
    """Returns what an error answer means, with b2sdk's own error as its cause."""
    from b2sdk.v2.exception import interpret_b2_error  # noqa: PLC0415 -- an SDK is loaded when it is used

    code, message = _code_and_message(answer)
    text = f"{address}: {code or answer.status} {message or answer.reason}".rstrip()
    ours = _meaning(answer.status, code, message, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about codes that it does not know
        ours.__cause__ = interpret_b2_error(answer.status, code, message, dict(answer.headers.items()))
    return ours


def _meaning(status: int, code: str, message: str, text: str) -> DataGuardianError:
    if status == 404 or code in ("no_such_file", "file_not_present"):  # noqa: PLR2004 -- HTTP
        return ObjectMissingError(text)
    if code in _KINDS:
        kind, hint = _KINDS[code]
    elif status >= 500 or status in _TRANSIENT_STATUS:  # noqa: PLR2004 -- HTTP
        kind, hint = StorageTransientError, "the service is busy or ill: run it again later"
    elif "sha1" in message.lower():
        kind, hint = StorageTransientError, "the bytes were damaged on their way: look at the network"
    else:
        kind, hint = StorageDeniedError, _KEY_HINT
    return kind(text, hint=hint)


def _code_and_message(answer: Answer) -> tuple[str, str]:
    try:
        document = json.loads(answer.body)
        code, message = str(document.get("code") or ""), str(document.get("message") or "")
    except (ValueError, AttributeError):
        return "", ""
    return code[:100], "".join(character for character in message if character.isprintable())[:300]
