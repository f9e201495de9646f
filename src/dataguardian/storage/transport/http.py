"""HTTP/1.1 for storages: every wait bounded, no copies of bodies, no retries.

Vendors' clients bound the silence on a socket at best; here a whole call also has an end, however slowly the other side
goes on. Bodies are sent from the caller's buffer and read straight into the one that is returned.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from dataguardian.domain.errors import StorageConnectionError, StorageUnreachableError
from dataguardian.domain.sizes import KIB, MIB
from dataguardian.storage.transport.proxies import Proxy, proxy_for

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_SECONDS = 15.0
IDLE_SECONDS = 20.0
"""A connection that rested longer is not used again: the other side, or a router between, may have forgotten it."""
SLOWEST_BYTES_PER_SECOND = 10_000
MAX_ERROR_BYTES = 64 * KIB

_SLICE_BYTES = 256 * KIB
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class AnswerTooLargeError(StorageUnreachableError):
    """The body is longer than the caller allows; it was not read. Unless it is an object's, no such service sent it."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"what answers sends more than the {most_bytes} bytes that its answer may have",
            hint="check the endpoint: it does not speak this protocol",
        )


@dataclass(frozen=True)
class Answer:
    status: int
    reason: str
    headers: Message
    body: bytes


class Deadline:
    """Bounds one call: each wait by `silence_seconds`, all of it by what so many bytes take at the slowest."""

    def __init__(self, silence_seconds: float, size_bytes: int) -> None:
        self._silence_seconds = silence_seconds
        self._end = time.monotonic() + 4 * silence_seconds + size_bytes / SLOWEST_BYTES_PER_SECOND

    def wait_seconds(self) -> float:
        """Returns how long the next wait may last; raises TimeoutError when the whole has lasted too long."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("it goes on too slowly")
        return min(self._silence_seconds, left)


class HttpPeer:
    """One server. Connections are kept and used again; safe for several threads, each with a connection of its own."""

    def __init__(
        self, scheme: str, host: str, port: int | None, *, timeout_seconds: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host = host
        self.port = port or (443 if scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if scheme == "https" else None
        self._timeout_seconds = timeout_seconds
        self._idle: list[tuple[float, socket.socket]] = []
        self._lock = Lock()
        name = f"[{host}]" if ":" in host else host
        self.address = f"{scheme}://{name}" + (f":{port}" if port else "")
        self.host_header = name if port in (None, 443 if self._tls else 80) else f"{name}:{port}"
        self._authority = f"{name}:{self.port}"
        self._proxy = proxy_for(scheme, host, self.port)

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: memoryview | bytes = b"",
        *,
        max_bytes: int = MIB,
    ) -> Answer:
        """Raises AnswerTooLargeError, StorageConnectionError, StorageUnreachableError (a certificate, a host's name).

        Of an error's body at most MAX_ERROR_BYTES are read.
        """
        with self._translated():
            deadline = Deadline(self._timeout_seconds, max(len(body), max_bytes))
            sock = self._connection(deadline)
            if self._proxy and not self._tls:
                target, headers = f"http://{self._authority}{target}", {**headers, **self._proxy.headers}
            try:
                response = _exchange(sock, _head(method, target, self.host_header, headers, len(body)), body, deadline)
                response.begin()
                answer = _read(response, max_bytes)
            except BaseException:
                sock.close()
                raise
            self._keep(sock, response)
            return answer

    def _connection(self, deadline: Deadline) -> socket.socket:
        with self._lock:
            while self._idle:
                since, sock = self._idle.pop()
                if time.monotonic() - since < IDLE_SECONDS and _is_quiet(sock):
                    return sock
                sock.close()
        sock = self._opened()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy and self._tls:
                self._tunnel(sock, self._proxy, deadline)
            return self._tls.wrap_socket(sock, server_hostname=self.host) if self._tls else sock
        except BaseException:
            sock.close()
            raise

    def _opened(self) -> socket.socket:
        seconds = min(CONNECT_SECONDS, self._timeout_seconds)
        if self._proxy is None:
            return socket.create_connection((self.host, self.port), seconds)
        try:
            return socket.create_connection((self._proxy.host, self._proxy.port), seconds)
        except OSError as error:
            raise connection_error(error, f"the proxy {self._proxy.address}") from error

    def _tunnel(self, sock: socket.socket, proxy: Proxy, deadline: Deadline) -> None:
        """Lets the proxy connect `sock` to the server. The server says nothing before we do: no byte of it is lost."""
        head = _head("CONNECT", self._authority, self._authority, proxy.headers, 0)
        response = _exchange(sock, head, b"", deadline)
        response.begin()
        if response.status != http.client.OK:
            raise proxy.refusal(response.status, response.reason, self.address)
        sock.settimeout(deadline.wait_seconds())

    def _keep(self, sock: socket.socket, response: _Response) -> None:
        if response.will_close or response.answered_early or not response.isclosed():
            sock.close()
            return
        with self._lock:
            self._idle.append((time.monotonic(), sock))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise connection_error(error, self.address) from error


class _Response(http.client.HTTPResponse):
    answered_early = False


class _Incoming:
    """What `HTTPResponse` takes for a socket."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._sock, self._deadline), 64 * KIB)


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._sock.settimeout(self._deadline.wait_seconds())
        return self._sock.recv_into(buffer)


def _exchange(sock: socket.socket, head: bytes, body: memoryview | bytes, deadline: Deadline) -> _Response:
    """Sends a request; stops sending when the server answers, or hangs up, before it has all of it."""
    response = _Response(cast(Any, _Incoming(sock, deadline)), method=head.split(b" ", 1)[0].decode())
    view = memoryview(body)
    try:
        _send(sock, head, deadline)
        for offset in range(0, len(view), _SLICE_BYTES):
            if offset and _has_answered(sock):
                response.answered_early = True
                break
            _send(sock, view[offset : offset + _SLICE_BYTES], deadline)
    except (BrokenPipeError, ConnectionResetError):
        response.answered_early = True
        if not _incoming(sock):
            raise
    return response


def _send(sock: socket.socket, data: bytes | memoryview, deadline: Deadline) -> None:
    sock.settimeout(deadline.wait_seconds())
    sock.sendall(data)


def _read(response: _Response, max_bytes: int) -> Answer:
    """Reads the body. Of an answer that reports an error the beginning is enough, and a cut one is better than none."""
    is_good = response.status < http.client.MULTIPLE_CHOICES
    bound = max_bytes if is_good else MAX_ERROR_BYTES
    told_bytes = response.length
    if is_good and told_bytes is not None and told_bytes > bound:
        raise AnswerTooLargeError(bound)
    body = response.read(bound + 1 if told_bytes is None else min(told_bytes, bound))
    if is_good and len(body) > bound:
        raise AnswerTooLargeError(bound)
    if is_good and response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return Answer(response.status, response.reason, response.headers, body)


def _head(method: str, target: str, host: str, headers: Mapping[str, str], size_bytes: int) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() != "host"]
    if size_bytes or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {size_bytes}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _incoming(sock: socket.socket) -> bool:
    """Tells whether bytes, or the end, have come in. Below TLS these need not be an answer: tickets come too."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _has_answered(sock: socket.socket) -> bool:
    """Tells, before a request is complete, whether its answer has begun. Through TLS that cannot be seen."""
    return not isinstance(sock, ssl.SSLSocket) and _incoming(sock)


def _is_quiet(sock: socket.socket) -> bool:
    """Tells whether a connection that rested is still open and owes nothing."""
    if not _incoming(sock):
        return True
    if not isinstance(sock, ssl.SSLSocket):
        return False
    sock.settimeout(0)
    try:
        sock.recv(1)
    except ssl.SSLWantReadError:  # it was a ticket
        return True
    except OSError:
        return False
    return False


def connection_error(error: Exception, address: str) -> StorageConnectionError | StorageUnreachableError:
    """Returns what the failure of a connection means to a storage."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return StorageUnreachableError(
            f"the certificate of {address} is not trusted: {error.verify_message}",
            hint="give the certificate of its authority with ca_file",
        )
    if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_HOST:
        return StorageUnreachableError(f"there is no host of that name: {address}", hint="check the address")
    if isinstance(error, TimeoutError):
        what = "did not answer in time" if not error.args or error.errno else str(error)
        return StorageConnectionError(f"{address}: {what}", hint="check the network, or raise timeout_seconds")
    if isinstance(error, ConnectionRefusedError):
        return StorageConnectionError(f"nothing answers at {address}", hint="check address and port, and that it runs")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageConnectionError(f"the connection to {address} was lost: {reason}", hint="check the network")


def tls_context(*, verify: bool, ca_file: str | None) -> ssl.SSLContext:
    """Raises StorageUnreachableError when `ca_file` cannot be read."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise StorageUnreachableError(
            f"ca_file {ca_file} is no file of certificates", hint="give a PEM file that this user may read"
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
