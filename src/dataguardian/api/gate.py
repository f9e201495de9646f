"""What every request passes before any route sees it, and every answer on its way out.

Until access control exists, whoever reaches the port is the administrator. So the only names under which we answer are
loopback names (a page of the web that rebinds its own name to 127.0.0.1 sends that name as Host), and nothing that
another site can make a browser send is taken: no foreign Origin, no body in a form's content type.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataguardian.api.errors import error_answer, internal_error

MAX_BODY_BYTES = 1_000_000
MAX_VALUES = 30_000
"""JSON values in a body: to find 80,000 of them wrong stops the service for two seconds."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
REQUEST_ID = "X-Request-ID"

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

log = structlog.get_logger(__name__)


@dataclass
class _Exchange:
    """One request and what became of it. A status of 499 means that the client left before the answer."""

    scope: Scope
    request_id: str
    send: Send
    status: int = 499

    async def forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self.send(message)


class Gate:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        exchange = _Exchange(scope, sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex, send)
        started = time.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._answer(exchange, receive)
            finally:
                _log(exchange, time.monotonic() - started)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        refusal, receive = await _admitted(exchange.scope, receive)
        try:
            await (refusal or self._app)(exchange.scope, receive, exchange.forward)
        except Exception:
            log.exception("a request met a defect", path=exchange.scope["path"])
            if exchange.status != _Exchange.status:
                raise  # the answer had begun: all that is left is to break the connection
            await internal_error(exchange.request_id)(exchange.scope, receive, exchange.forward)


async def _admitted(scope: Scope, receive: Receive) -> tuple[Response | None, Receive]:
    """Returns a refusal or None, and where the body comes from."""
    headers = Headers(scope=scope)
    changes = scope["method"] not in _SAFE_METHODS
    refusal = _foreign_host(headers) or _foreign_site(scope, headers, changes=changes)
    if refusal is not None or not changes or not _has_body(headers):
        return refusal, receive
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return error_answer(415, "not_json", "the body is not application/json", {"hint": "set Content-Type"}), receive
    return await _buffered(headers, receive)


def _foreign_host(headers: Headers) -> Response | None:
    if _hostname(headers.get("host", "")) in LOOPBACK_NAMES:
        return None
    return error_answer(
        403,
        "foreign_host",
        "DataGuardian answers under loopback names only",
        {"hint": "use http://localhost or http://127.0.0.1, through an SSH tunnel from another machine"},
    )


def _hostname(host: str) -> str | None:
    try:
        parsed = urlsplit(f"//{host}")
        whole = parsed.netloc == host and parsed.username is None and parsed.port != 0
    except ValueError:
        return None
    return parsed.hostname if whole else None


def _foreign_site(scope: Scope, headers: Headers, *, changes: bool) -> Response | None:
    origin = headers.get("origin")
    foreign = origin is not None and origin.lower() != f"{scope['scheme']}://{headers['host']}".lower()
    led_here = changes and headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}
    if not foreign and not led_here:
        return None
    return error_answer(
        403, "foreign_site", "this request comes from a page of another site", {"hint": "call DataGuardian directly"}
    )


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _buffered(headers: Headers, receive: Receive) -> tuple[Response | None, Receive]:
    """Reads the body, whose length a sender may hide; what is too large is refused before it is all here."""
    refusal = error_answer(413, "body_too_large", "the body is larger than 1 MB", {"hint": "send less at once"})
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        return refusal, receive
    messages: deque[Message] = deque()
    size_bytes, values, more = 0, 0, True
    while more:
        message = await receive()
        messages.append(message)
        piece = message.get("body", b"")
        size_bytes += len(piece)
        values += sum(map(piece.count, (b",", b"[", b"{")))
        more = message.get("more_body", False)
        if size_bytes > MAX_BODY_BYTES or values > MAX_VALUES:
            return refusal if size_bytes > MAX_BODY_BYTES else _too_many_values(), receive

    async def replay() -> Message:
        return messages.popleft() if messages else await receive()

    return None, replay


def _too_many_values() -> Response:
    hint = "send less at once"
    return error_answer(
        422, "validation", f"the body holds more than {MAX_VALUES} values", {"errors": [], "hint": hint}
    )


def _log(exchange: _Exchange, seconds: float) -> None:
    """One line per request, without its query: that may hold what is nobody's business."""
    level = "debug" if exchange.scope["path"] in _QUIET else "info"
    getattr(log, level)(
        "request",
        method=exchange.scope["method"],
        path=exchange.scope["path"],
        status=exchange.status,
        duration_ms=round(seconds * 1000, 2),
    )
