"""A web hook: each notification is one POST of JSON, signed when a secret is set (docs/notifications.md).

The answer's status decides and its body is not read. Redirects are refused, so that a message goes where it was
configured to go and nowhere else; nor does it go to this machine or a metadata service (`_targets`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError

from dataguardian import __version__
from dataguardian.domain.clock import Clock, SystemClock
from dataguardian.domain.errors import NotifierError, NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.domain.notifications import Notification
from dataguardian.domain.urls import Url
from dataguardian.notifiers._network import network_error, tls_context
from dataguardian.notifiers._targets import ForbiddenTargetError, forbidden, refuse_forbidden
from dataguardian.notifiers._timelimit import TimeLimit, within
from dataguardian.notifiers.base import Notifier, NotifierAdapter, NotifierConfig

ID_HEADER = "X-DataGuardian-Id"
TIMESTAMP_HEADER = "X-DataGuardian-Timestamp"
SIGNATURE_HEADER = "X-DataGuardian-Signature"
TOLERANCE_SECONDS = 300

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,8000}")
_URL = re.compile(r"https?://[\x21-\x7e]{1,4000}", re.IGNORECASE)
_RESERVED = ("host", "content-length", "content-type", "transfer-encoding", "connection", "expect", "user-agent")
_WORTH_RETRYING = (408, 425, 429)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Returns `sha256=` and the hex HMAC-SHA256, keyed with `secret`, of timestamp, a full stop and body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def verify_signature(
    secret: str, timestamp: str, body: bytes, signature: str, *, now: float, tolerance: float = TOLERANCE_SECONDS
) -> bool:
    """Tells whether we signed that body at most `tolerance` seconds before or after `now` (seconds since 1970).

    `timestamp` and `signature` are the headers as they came, from whomever.
    """
    if not re.fullmatch(r"[0-9]{1,15}", timestamp, re.ASCII) or abs(now - int(timestamp)) > tolerance:
        return False
    return hmac.compare_digest(sign(secret, timestamp, body).encode(), signature.encode(errors="replace"))


def _checked_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not _URL.fullmatch(text):
        raise ValueError("must be an http:// or https:// address in printable ASCII, percent-encoded where it is not")
    try:
        parts = urlsplit(text)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("has a malformed host or port")
    return value


def _checked_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("must have names of letters, digits and dashes")
        if name.lower() in _RESERVED or name.lower().startswith("x-dataguardian-"):
            raise ValueError(f"must not set {name}, which is set by DataGuardian")
        if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
            raise ValueError(f"must have printable ASCII values, which {name} has not")
    return headers


class WebhookConfig(NotifierConfig):
    """A web hook. `url` is a secret, because with many services it is all that a sender needs to know.

    `secret` None sends unsigned. A user and password in `url` are sent as basic authentication.
    """

    type: Literal["webhook"] = "webhook"
    url: Annotated[SecretStr, AfterValidator(_checked_url)]
    secret: Annotated[SecretStr, Field(min_length=8)] | None = None
    headers: Annotated[dict[str, SecretStr], AfterValidator(_checked_headers)] = Field(default_factory=dict)
    verify_tls: bool = True
    ca_file: str | None = None

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes the address whole, its query included: the other fields are not set by an address."""
        try:
            return cls.model_validate({"url": _complete(url)})
        except ValidationError as error:
            reason = error.errors(include_input=False, include_url=False)[0]["msg"]
            raise UsageError(f"wrong web hook address: {reason}", hint=f"write it like {_EXAMPLE}") from error

    def describe(self) -> str:
        """Returns scheme, host and port only."""
        parts = urlsplit(self.url.get_secret_value())
        return str(Url(scheme=parts.scheme, host=parts.hostname, port=parts.port))


class WebhookNotifier(Notifier):
    def __init__(self, config: WebhookConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._where = f"the web hook at {config.describe()}"

    def send(self, notification: Notification) -> None:
        body = notification.model_dump_json().encode()
        headers = dict(self._headers(notification, body))
        try:
            status = within(self._config.timeout_seconds, lambda limit: self._post(body, headers, limit))
        except http.client.HTTPException as error:
            # Not chained: what came instead of an answer may repeat the request, address and headers included.
            raise self._no_answer(error) from None
        except ForbiddenTargetError as error:
            raise forbidden(self._where) from error
        except OSError as error:
            raise network_error(error, self._where) from error
        if not 200 <= status < 300:  # noqa: PLR2004 -- the class of success
            raise self._refused(status)

    def _headers(self, notification: Notification, body: bytes) -> Iterator[tuple[str, str]]:
        config, timestamp = self._config, str(int(self._clock.now().timestamp()))
        yield "Content-Type", "application/json"
        yield "User-Agent", f"DataGuardian/{__version__}"
        yield "Connection", "close"
        yield ID_HEADER, str(notification.id)
        yield TIMESTAMP_HEADER, timestamp
        if config.secret is not None:
            yield SIGNATURE_HEADER, sign(config.secret.get_secret_value(), timestamp, body)
        parts = urlsplit(config.url.get_secret_value())
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            yield "Authorization", f"Basic {base64.b64encode(login).decode()}"
        for name, value in config.headers.items():
            yield name, value.get_secret_value()

    def _post(self, body: bytes, headers: dict[str, str], limit: TimeLimit) -> int:
        parts = urlsplit(self._config.url.get_secret_value())
        connection = _Connection(self._config, parts, limit)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", target, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _refused(self, status: int) -> NotifierError:
        if status in _WORTH_RETRYING or status >= 500:  # noqa: PLR2004 -- the class of the server's failures
            return NotifierTransientError(f"{self._where} answered {status}", hint="look at its log", status=status)
        if 300 <= status < 400:  # noqa: PLR2004 -- the class of redirects
            hint = "redirects are not followed: configure the address that it leads to"
        else:
            hint = "check the address, its token and the extra headers"
        return NotifierRejectedError(f"{self._where} refused the message: {status}", hint=hint, status=status)

    def _no_answer(self, error: http.client.HTTPException) -> NotifierError:
        return NotifierTransientError(
            f"{self._where} gave no answer in HTTP ({type(error).__name__})", hint="check that the port speaks HTTP"
        )


class _Connection(http.client.HTTPConnection):
    """A connection within a time limit."""

    def __init__(self, config: WebhookConfig, parts: SplitResult, limit: TimeLimit) -> None:
        self._config = config
        self._limit = limit
        self._secured = parts.scheme.lower() == "https"
        self.default_port = http.client.HTTPS_PORT if self._secured else http.client.HTTP_PORT
        super().__init__(parts.hostname or "", parts.port or self.default_port)

    def connect(self) -> None:
        self.sock = self._limit.connect(self.host, self.port, refuse=refuse_forbidden)
        if self._secured:
            context = tls_context(verify=self._config.verify_tls, ca_file=self._config.ca_file)
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def _complete(url: Url) -> str:
    """Returns the address as the server is to get it, secrets included, which `str` leaves out."""
    bare = str(replace(url, username=None, password=None, query={}))
    scheme, _, rest = bare.partition("://")
    query = "&".join(f"{quote(key, safe='')}={quote(value, safe='/')}" for key, value in url.query.items())
    return f"{scheme}://{_login(url)}{rest}" + (f"?{query}" if query else "")


def _login(url: Url) -> str:
    if url.username is None:
        return ""
    password = "" if url.password is None else f":{quote(url.password.get_secret_value(), safe='')}"
    return f"{quote(url.username, safe='')}{password}@"


_EXAMPLE = "https://hooks.example.com/backups"

ADAPTER = NotifierAdapter(
    type="webhook", schemes=("https", "http"), example=_EXAMPLE, config=WebhookConfig, build=WebhookNotifier
)
