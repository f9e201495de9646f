"""Real servers on free ports of this machine, and scripted ones that misbehave."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """A self-made certificate for localhost and 127.0.0.1, which is its own authority."""

    file: str
    context: ssl.SSLContext


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, key_file = folder / "cert.pem", folder / "key.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return Certificate(str(file), context)


@dataclass
class Mailbox:
    """What an SMTP server took. `answers` maps a recipient to the reply that refuses it, "DATA" refuses the message."""

    port: int = 0
    envelopes: list[Envelope] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    secured: list[bool] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 -- same
        if "DATA" in self.answers:
            return self.answers["DATA"]
        self.envelopes.append(envelope)
        assert server.transport is not None
        self.secured.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"


USERNAME, PASSWORD = "backup", "s3cret-Pässword-äöü"
ASCII_PASSWORD = "s3cret-Password"


@contextmanager
def smtp_server(
    *, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None, login: str | None = None
) -> Iterator[Mailbox]:
    """Runs aiosmtpd; `login` is the only password that it takes, and then it insists on one."""
    mailbox = Mailbox()

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        mailbox.logins.append(mechanism)
        good = data.login == USERNAME.encode() and data.password == (login or "").encode()
        return AuthResult(success=good, handled=False)

    controller = _Controller(
        mailbox,
        hostname="127.0.0.1",
        port=0,
        ssl_context=tls,
        tls_context=starttls,
        require_starttls=starttls is not None,
        authenticator=authenticate if login else None,
        auth_required=login is not None,
        auth_require_tls=login is None,
    )
    controller.start()
    mailbox.port = controller.port
    try:
        yield mailbox
    finally:
        controller.stop()


class _Controller(Controller):
    def _trigger_server(self) -> None:
        """Learns the port that the kernel chose before aiosmtpd knocks on it."""
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd's own


@dataclass
class Hook:
    """What an HTTP server was sent, and the status and headers that it answers with."""

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.requests]


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            with suppress(OSError):
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(hook.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    hook.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Misbehaving:
    """A server that does what a script says with each connection; `fired` counts them."""

    port: int
    fired: int = 0
    over: threading.Event = field(default_factory=threading.Event)


Script = Callable[[socket.socket, Misbehaving], None]


@contextmanager
def misbehaving_server(script: Script) -> Iterator[Misbehaving]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Misbehaving(listener.getsockname()[1])

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            script(connection, server)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                server.fired += 1
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def hang(connection: socket.socket, server: Misbehaving) -> None:
    """Takes the connection and says nothing."""
    server.over.wait()


def hang_up(connection: socket.socket, server: Misbehaving) -> None:
    """Closes the connection at once."""


def echo(connection: socket.socket, server: Misbehaving) -> None:
    """Says back what it is told."""
    while data := connection.recv(65536):
        connection.sendall(data)


def dribble(text: bytes) -> Script:
    """Sends the text and then blanks, a byte at a time, for ever and faster than any timeout of a single read."""

    def script(connection: socket.socket, server: Misbehaving) -> None:
        for byte in text:
            connection.sendall(bytes([byte]))
        while not server.over.wait(0.1):
            connection.sendall(b" ")

    return script


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Gives a function that tells the seconds since the block began."""
    began = time.monotonic()
    yield lambda: time.monotonic() - began
