"""Requests that a proxy in front and this server could read in two ways, byte by byte, at the service as it runs."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.service import cleared, short_folder
from tests.faults.service import Parts, Service, wait_until

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /api/session HTTP/1.1\r\nContent-Type: application/json\r\nX-Request-ID: first\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"GET /api/setup HTTP/1.1\r\nX-Request-ID: smuggled\r\n" + HOST + b"\r\n"
"""What an attacker wants to have read as a request of somebody else."""
MARK = HIDDEN.replace(b"smuggled", b"second")
END = b"0\r\n\r\n"
LONG = 200_000
SECONDS = 60.0

REFUSED: dict[str, bytes] = {
    "TE and a short CL": CHUNKED + b"Content-Length: 4\r\n\r\n2\r\n{}\r\n" + END + HIDDEN,
    "TE and a long CL": CHUNKED + b"Content-Length: %d\r\n\r\n" % (len(END) + len(HIDDEN)) + END + HIDDEN,
    "TE and a CL that fits": CHUNKED + b"Content-Length: 12\r\n\r\n2\r\n{}\r\n" + END,
    "TE in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n2\r\n{}\r\n" + END + HIDDEN,
    "two CL that differ": POST + b"Content-Length: 2\r\nContent-Length: %d\r\n\r\n{}" % (2 + len(HIDDEN)) + HIDDEN,
    "a list of CL": POST + b"Content-Length: 2, %d\r\n\r\n{}" % (2 + len(HIDDEN)) + HIDDEN,
    "CL with a sign": POST + b"Content-Length: +2\r\n\r\n{}" + HIDDEN,
    "CL below zero": POST + b"Content-Length: -1\r\n\r\n{}" + HIDDEN,
    "CL in base 16": POST + b"Content-Length: 0x2\r\n\r\n{}" + HIDDEN,
    "CL of other digits": POST + b"Content-Length: \xb2\r\n\r\n{}" + HIDDEN,
    "CL beyond numbers": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}" + HIDDEN,
    "TE that is none": POST + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n" + END + HIDDEN,
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n" + END + HIDDEN,
    "TE behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n" + END + HIDDEN,
    "two TE": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n2\r\n{}\r\n" + END + HIDDEN,
    "a list of TE": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n" + END + HIDDEN,
    "TE in a folded line": POST + b"Content-Length: 2\r\nTransfer-Encoding:\r\n chunked\r\n\r\n{}" + HIDDEN,
    "a fold before any header": GET.replace(b"Host", b" X: y\r\nHost") + b"\r\n" + HIDDEN,
    "a chunk below zero": CHUNKED + b"\r\n-1\r\n{}\r\n" + END + HIDDEN,
    "a chunk in base 16 twice": CHUNKED + b"\r\n0x2\r\n{}\r\n" + END + HIDDEN,
    "a chunk beyond numbers": CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n{}\r\n" + END + HIDDEN,
    "a chunk that ends elsewhere": CHUNKED + b"\r\n2\r\n{}XX" + END + HIDDEN,
    "chunks of bare LF": CHUNKED + b"\r\n2\n{}\n0\n\n" + HIDDEN,
    "LF in a chunk's extension": CHUNKED + b"\r\n2;a\nxx\r\n{}\r\n" + END + HIDDEN,
    "a long extension": CHUNKED + b"\r\n2;" + b"a" * LONG + b"\r\n{}\r\n" + END,
    "a long header": GET + b"X: " + b"a" * LONG + b"\r\n\r\n",
    "many headers": GET + b"X: a\r\n" * (LONG // 6) + b"\r\n",
    "a long path": GET.replace(b"/health", b"/" + b"a" * LONG) + b"\r\n",
    "CRLF in the path": GET.replace(b"/health", b"/health\r\nX: y") + b"\r\n",
    "CR in the path": GET.replace(b"/health", b"/health\rX") + b"\r\n",
    "a blank in the path": GET.replace(b"/health", b"/health x") + b"\r\n",
    "NUL in the path": GET.replace(b"/health", b"/health\0") + b"\r\n",
    "CR in a header": GET + b"X-Request-ID: a\rSet-Cookie: b\r\n\r\n",
    "NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "a blank in a name": GET + b"X Y: a\r\n\r\n",
    "two hosts": GET + b"Host: evil.example.org\r\n\r\n",
    "no host": GET.replace(HOST, b"") + b"\r\n",
    "another version": GET.replace(b"HTTP/1.1", b"HTTP/9.9") + b"\r\n",
    "a version of one digit": GET.replace(b"HTTP/1.1", b"HTTP/2") + b"\r\n",
    "HTTP/2's first bytes": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
"""Each with what would be a second request to whoever ends the first one elsewhere."""

UNDERSTOOD: dict[str, tuple[bytes, int]] = {
    "two CL that agree": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 422),
    "TE behind a tab": (POST + b"Transfer-Encoding:\tchunked\r\n\r\n2\r\n{}\r\n" + END, 422),
    "a chunk's extension": (CHUNKED + b'\r\n2;a="\r\n{}\r\n' + END, 422),
    "CL behind the chunks": (CHUNKED + b"\r\n2\r\n{}\r\n0\r\nContent-Length: 90\r\n\r\n", 422),
    "a name that is nearly TE": (POST + b"Content-Length: 2\r\nTransfer_Encoding: chunked\r\n\r\n{}", 422),
    "TE inside a folded value": (GET + b"X: b\r\n Transfer-Encoding: chunked\r\n\r\n", 200),
    "a body of a GET": (GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, 200),
    "a body that nobody may send": (
        POST.replace(b"/session", b"/datasources") + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        401,
    ),
    "a body of another kind": (
        POST.replace(b"application/json", b"text/plain") + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        415,
    ),
    "a body that is too large": (POST + b"Content-Length: %d\r\n\r\n" % LONG + HIDDEN.ljust(LONG), 413),
    "chunks that are too large": (CHUNKED + b"\r\n%x\r\n" % LONG + HIDDEN.ljust(LONG) + b"\r\n" + END, 413),
    "a WebSocket": (GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 200),
    "HTTP/2 without TLS": (
        GET + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: A\r\n\r\n",
        200,
    ),
    "CRLF in the path, written": (GET.replace(b"/health", b"/api/x%0d%0aSet-Cookie:%20a=b") + b"\r\n", 401),
    "another host in the path": (GET.replace(b"/health", b"http://evil.example.org/health") + b"\r\n", 401),
}
"""Whose end is clear to all, and the status that each gets."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]


class Line:
    """A connection, and the answers that come over it, in order."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._file = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> Answer:
        """Reads one answer, to its last byte and no further."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        self._file.read(int(headers["content-length"]))
        return Answer(status, headers)

    def everything(self) -> bytes:
        """Returns what comes until the server ends the connection, which it does by itself.

        What it had not read by then breaks the connection, and with it an answer that we have not read yet.
        """
        found = b""
        try:
            while more := self._file.read1():
                found += more
        except ConnectionError:
            pass
        return found

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    folder = short_folder()
    made = Service(Parts(folder))
    made.start()
    yield made
    assert made.stop() == 0
    cleared(folder)


@pytest.fixture
def line(service: Service) -> Iterator[Callable[[], Line]]:
    made: list[Line] = []

    def connect() -> Line:
        made.append(Line(service.port))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def log_after(service: Service, here: Line) -> str:
    """Returns the log with the line of a request that was made after all others: a line may come after its answer."""
    name = f"mark-{uuid.uuid4()}"
    here.send(HIDDEN.replace(b"smuggled", name.encode()))
    assert here.answer().headers["x-request-id"] == name
    wait_until(lambda: name in service.log, "the request's line in the log")
    return service.log


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_two_ends_is_refused_and_ends_the_connection(line: Any, service: Service, kind: str) -> None:
    """A refusal, if anything, and nothing behind it: what follows is neither answered nor carried out."""
    here = line()
    here.send(REFUSED[kind])
    said = here.everything()
    assert re.findall(rb"HTTP/1\.1 (\d+)", said) in ([b"400"], [b"505"], *([[]] if len(REFUSED[kind]) > LONG else []))
    assert b"smuggled" not in said
    assert "smuggled" not in log_after(service, line())
    assert b"set-cookie" not in said.lower()


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_what_has_one_end_leaves_the_connection_in_step(line: Any, service: Service, kind: str) -> None:
    """The answer after it is that of the next request, and no other: bodies, read or not, are never requests."""
    data, status = UNDERSTOOD[kind]
    here = line()
    here.send(data)
    answer = here.answer()
    assert answer.status == status
    assert "set-cookie" not in answer.headers
    here.send(MARK)
    after = here.answer()
    assert (after.status, after.headers["x-request-id"]) == (200, "second")
    assert "smuggled" not in log_after(service, here)


def test_a_refused_request_harms_nobody_else(line: Any) -> None:
    """A connection that was open all the time goes on."""
    other, wrong = line(), line()
    other.send(GET + b"\r\n")
    assert other.answer().status == 200
    wrong.send(REFUSED["TE and a short CL"])
    assert wrong.answer().status == 400
    other.send(MARK)
    assert other.answer().headers["x-request-id"] == "second"


def test_the_log_would_tell_of_a_request_that_was_smuggled(line: Any, service: Service) -> None:
    """What the tests above look for is there when such a request is one."""
    here = line()
    here.send(HIDDEN.replace(b"smuggled", b"open"))
    assert here.answer().status == 200
    assert '"open"' in log_after(service, here)
