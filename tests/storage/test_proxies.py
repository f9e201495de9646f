"""Storages behind a proxy that the environment names: a real one, which connects, forwards, and asks for a password."""

from __future__ import annotations

import base64
import http.client
import random
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dataguardian.domain.errors import StorageConnectionError, StorageDeniedError, StorageUnreachableError
from dataguardian.storage.registry import build_storage
from tests.servers import free_port
from tests.storage.fixture_backblaze import B2Server, b2
from tests.storage.peers import shared
from tests.storage.s3_servers import rclone_s3

PASSWORD = "p@ss:wörd"
EXPECTED = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Proxy(ThreadingHTTPServer):
    """Writes down what it was asked for; with `is_strict` only for who knows the password."""

    daemon_threads = True

    def __init__(self, *, is_strict: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_strict = is_strict
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _is_let_in(self) -> bool:
        self.server.asked.append(f"{self.command} {self.path}")
        if not self.server.is_strict or self.headers.get("Proxy-Authorization") == EXPECTED:
            return True
        self.send_response(407, "Proxy Authentication Required")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def do_CONNECT(self) -> None:
        if not self._is_let_in():
            return
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as theirs:
            self.send_response(200, "Connection established")
            self.end_headers()
            ends = {self.connection: theirs, theirs: self.connection}
            while True:
                for source in select.select(list(ends), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[source].sendall(data)

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._is_let_in():
            return
        parts = urlsplit(self.path)
        onward = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name != "Proxy-Authorization"}
        target = self.path.split(parts.netloc, 1)[1]
        onward.request(self.command, target, body, headers)
        answer = onward.getresponse()
        content = answer.read()
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 -- the base's names


@contextmanager
def running(*, is_strict: bool = False) -> Iterator[Proxy]:
    with Proxy(is_strict=is_strict) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> B2Server:
    return shared(b2)


def test_tls_goes_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts go to and fro through CONNECT, the certificate is the server's own, and the password reaches the proxy."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    content = random.Random(1).randbytes(2_000_000)
    with rclone_s3("--cert", str(certificate), "--key", str(key)) as peer, running(is_strict=True) as proxy:
        (peer.folder / "bucket").mkdir()
        config = peer.config("bucket", endpoint=f"https://127.0.0.1:{peer.port}", ca_file=str(certificate))
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD.replace('@', '%40')}@{proxy.address}")
        storage = build_storage(config)
        storage.put("a/b", content)
        assert storage.get("a/b", len(content)) == content
        assert proxy.asked == [f"CONNECT 127.0.0.1:{peer.port}"]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:not-it@{proxy.address}")
        with pytest.raises(StorageDeniedError, match="proxy") as caught:
            build_storage(config).check()
        assert "not-it" not in f"{caught.value} {caught.value.hint}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        build_storage(config).check()


def test_plain_http_goes_through_the_proxy(server: B2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS the proxy is asked for the whole address, and NO_PROXY is honoured."""
    config = server.config(server.bucket())
    with running() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        build_storage(config).check()
        assert proxy.asked
        assert all(f" http://127.0.0.1:{server.port}/" in asked for asked in proxy.asked)
        proxy.asked.clear()
        monkeypatch.setenv("no_proxy", f"example.org,127.0.0.1:{server.port}")
        build_storage(config).check()
        assert not proxy.asked


def test_a_proxy_that_is_not_there_is_named(server: B2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for the fault at the storage: the error names the proxy, and never its password."""
    config = server.config("bucket")
    port = free_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hidden@127.0.0.1:{port}")
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    with pytest.raises(StorageConnectionError, match=f"proxy http://127.0.0.1:{port}") as caught:
        build_storage(config).check()
    assert "hidden" not in str(caught.value)
    for text in ("socks5://127.0.0.1:1080", "http://127.0.0.1:many"):
        monkeypatch.setenv("HTTP_PROXY", text)
        with pytest.raises(StorageUnreachableError, match="HTTP_PROXY"):
            build_storage(config).check()
