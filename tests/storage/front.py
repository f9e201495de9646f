"""An HTTP server in front of another one, which answers as a script says instead of passing a request on.

A fault that never fired fails its test: `assert_all_fired()`.
"""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass(frozen=True)
class Reply:
    """What is answered instead; with `late` after the request was carried out."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    late: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    size_bytes: int


Choose = Callable[[Asked], Reply | None]


@dataclass
class Nth:
    """Answers so the `nth` request (from 1) that `when` names, and `times` in a row."""

    reply: Reply
    when: Callable[[Asked], bool] = lambda _asked: True
    nth: int = 1
    times: int = 1
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def __call__(self, asked: Asked) -> Reply | None:
        if not self.when(asked):
            return None
        self.seen += 1
        if not self.nth <= self.seen < self.nth + self.times:
            return None
        self.fired += 1
        return self.reply

    def assert_fired(self) -> None:
        assert self.fired == self.times, f"{self.reply} was given {self.fired} times, not {self.times}"


@dataclass
class Sometimes:
    """Answers a share of all requests so; half of these after they were carried out. The seed makes it repeatable."""

    reply: Reply
    share: float
    seed: int
    fired: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def __call__(self, _asked: Asked) -> Reply | None:
        if self._chance.random() >= self.share:
            return None
        self.fired += 1
        late = self._chance.random() < 0.5
        return Reply(self.reply.status, self.reply.body, self.reply.headers, late=late)

    def assert_fired(self) -> None:
        assert self.fired, "the fault never fired"


class HttpFront(ThreadingHTTPServer):
    """Passes requests on to `127.0.0.1:port` with the headers that came, so that signatures stay valid."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, *faults: Nth | Sometimes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = port
        self.faults = list(faults)
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def __enter__(self) -> Self:
        return self

    def assert_all_fired(self) -> None:
        for fault in self.faults:
            fault.assert_fired()

    def choose(self, asked: Asked) -> Reply | None:
        with self.lock:
            self.asked.append(asked)
            replies = [fault(asked) for fault in self.faults]
        return next((reply for reply in replies if reply is not None), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpFront

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        size_bytes = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size_bytes)
        reply = self.server.choose(Asked(self.command, self.path, size_bytes))
        if reply is None or reply.late:
            real = self._upstream(body)
            reply = reply or real
        self._answer(reply)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 -- the base's names

    def _upstream(self, body: bytes) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            skipped = {"transfer-encoding", "connection", "date", "server"}
            headers = tuple((name, value) for name, value in answer.getheaders() if name.lower() not in skipped)
            return Reply(answer.status, answer.read(), headers)
        finally:
            connection.close()

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        told = {name.lower() for name, _ in reply.headers}
        for name, value in reply.headers:
            self.send_header(name, value)
        if "content-length" not in told:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
