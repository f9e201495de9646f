"""What every request passes before any route sees it, and every answer on its way out.

Only names that are ours are answered (`neighbours.py`), and nothing that another site can make a browser send is taken:
no foreign Origin, no body in a form's content type. Who asks is found out behind it (`access.py`).
"""

from __future__ import annotations

import re
import time
import uuid
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataguardian.api.errors import error_answer, internal_error
from dataguardian.api.framing import framing_refusal
from dataguardian.api.neighbours import SAFE_METHODS, Neighbours
from dataguardian.settings import Settings

MAX_BODY_BYTES = 1_000_000
MAX_PUBLIC_BYTES = 10_000
"""Of a body that anybody may send."""
MAX_VALUES = 30_000
"""JSON values in a body: to find 80,000 of them wrong stops the service for two seconds."""
_SIZES = {MAX_BODY_BYTES: "1 MB", MAX_PUBLIC_BYTES: "10 kB"}
REQUEST_ID = "X-Request-ID"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_OVER_TLS = {"Strict-Transport-Security": "max-age=31536000"}

log = structlog.get_logger(__name__)


@dataclass
class _Exchange:
    """One request and what became of it. A status of 499 means that the client left before the answer."""

    scope: Scope
    request_id: str
    send: Send
    headers: Mapping[str, str]
    """What every answer to this request carries, unless its route says otherwise."""
    status: int = 499

    async def forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
            for name, value in self.headers.items():
                headers.setdefault(name, value)
        await self.send(message)


class Gate:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._neighbours = Neighbours(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._neighbours.placed(scope)
        headers = Headers(scope=scope)
        sent = headers.get(REQUEST_ID, "")
        over_tls = _OVER_TLS if scope["scheme"] == "https" else {}
        told = {**_HEADERS, **over_tls, **self._neighbours.shared_with(headers)}
        exchange = _Exchange(scope, sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex, send, told)
        started = time.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._answer(exchange, receive)
            finally:
                _log(exchange, time.monotonic() - started)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        scope, headers = exchange.scope, Headers(scope=exchange.scope)
        answer = framing_refusal(scope, headers) or self._neighbours.refusal(scope, headers)
        answer = answer or self._neighbours.preflight(scope, headers)
        try:
            await (answer or self._app)(scope, receive, exchange.forward)
        except Exception:
            log.exception("a request met a defect", path=scope["path"])
            if exchange.status != _Exchange.status:
                raise  # the answer had begun: all that is left is to break the connection
            await internal_error(exchange.request_id)(scope, receive, exchange.forward)


class Bodies:
    """Reads a body before any route does, once it is clear that its sender may send one. `public` are routes for
    everybody, by method and path: what strangers send is small.
    """

    def __init__(self, app: ASGIApp, public: Collection[tuple[str, str]]) -> None:
        self._app = app
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or not _has_body(headers):
            await self._app(scope, receive, send)
            return
        refusal: Response | None = None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            refusal = error_answer(415, "not_json", "the body is not application/json", {"hint": "set Content-Type"})
        else:
            is_public = (scope["method"], scope["path"]) in self._public
            refusal, receive = await _buffered(headers, receive, MAX_PUBLIC_BYTES if is_public else MAX_BODY_BYTES)
        await (refusal or self._app)(scope, receive, send)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _buffered(headers: Headers, receive: Receive, most: int) -> tuple[Response | None, Receive]:
    """Reads the body, whose length a sender may hide; what is too large is refused before it is all here."""
    text = f"the body is larger than {_SIZES[most]}"
    refusal = error_answer(413, "body_too_large", text, {"hint": "send less at once"})
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
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
        if size_bytes > most or values > MAX_VALUES:
            return refusal if size_bytes > most else _too_many_values(), receive

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
