"""PostgreSQL by TLS, by sockets and in other languages: probe, dump and restore alike."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from dataguardian.domain.errors import AuthenticationError, CancelledError, NotFoundError, UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.engines.postgres import config as postgres_config
from dataguardian.engines.postgres.config import PostgresConfig
from dataguardian.engines.postgres.server import Server
from dataguardian.engines.registry import engine_config
from tests.certificates import Authority, Pair
from tests.conftest import missing, require_tool
from tests.engines.conformance import counted, dump, engine_at, restore
from tests.servers import PostgresServer

HBA = """
hostssl all cert_user 127.0.0.1/32 cert
hostssl all all       127.0.0.1/32 scram-sha-256
local   all all                    scram-sha-256
"""


@dataclass
class Secure:
    """A server that insists on TLS. Its certificate is made out to 127.0.0.1, not to localhost."""

    server: PostgresServer
    authority: Authority
    other: Authority
    client: Pair
    database: str


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder), Authority(folder, "other")
    pair, client = authority.issue("server", "127.0.0.1"), authority.issue("cert_user")
    server = PostgresServer(17, Path(tempfile.mkdtemp(prefix="dg-postgres-")))
    name = server.database("CREATE TABLE t AS SELECT 1 AS x", "CREATE ROLE cert_user LOGIN SUPERUSER")
    data, owner = server.folder / "data", (server.folder / "data").stat()
    for source, target in ((pair.certificate, "server.crt"), (pair.key, "server.key"), (authority.file, "ca.crt")):
        (data / target).write_bytes(source.read_bytes())
        (data / target).chmod(0o600)
        os.chown(data / target, owner.st_uid, owner.st_gid)
    (data / "pg_hba.conf").write_text(HBA)
    server.execute("postgres", "ALTER SYSTEM SET ssl = on", "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'")
    server.execute("postgres", "CHECKPOINT")  # what follows is not a clean stop
    server.stop()
    server.start()
    yield Secure(server, authority, other, client, name)
    server.close()


def there_and_back(source: str) -> None:
    """Probe, dump and restore by one address."""
    assert engine_at(source).check().status == "ok"
    streams = dump(source)
    restore(source, streams, drop_existing=True)
    assert counted(source) == {"public.t": 1}


@pytest.mark.parametrize(
    ("mode", "ca", "host", "fine"),
    [
        ("disable", "", "127.0.0.1", False),
        ("allow", "", "127.0.0.1", True),
        ("prefer", "", "127.0.0.1", True),
        ("require", "", "localhost", True),
        ("verify-ca", "ca", "localhost", True),
        ("verify-ca", "other", "127.0.0.1", False),
        ("verify-ca", "", "127.0.0.1", False),
        ("verify-full", "ca", "127.0.0.1", True),
        ("verify-full", "ca", "localhost", False),
        ("verify-full", "", "127.0.0.1", False),
    ],
)
def test_every_mode(secure: Secure, mode: str, ca: str, host: str, *, fine: bool) -> None:
    """Each ssl_mode lets in and keeps out what it says, for probe, dump and restore alike, in both spellings."""
    file = {"ca": secure.authority.file, "other": secure.other.file}.get(ca)
    for mode_key, ca_key in (("ssl_mode", "ssl_ca"), ("sslmode", "sslrootcert")):
        address = secure.server.url(secure.database).replace("127.0.0.1", host) + f"?{mode_key}={mode}"
        address += f"&{ca_key}={file}" if file else ""
        if fine:
            there_and_back(address)
        else:
            with pytest.raises(AuthenticationError) as caught:
                dump(address)
            assert caught.value.hint
            assert engine_at(address).check().status == "auth_failed"


def test_a_client_certificate(secure: Secure) -> None:
    """A user who signs in with a certificate instead of a password is let in, and not without it."""
    plain = secure.server.url(secure.database, user="cert_user", password=None) + "?ssl_mode=verify-full"
    plain += f"&ssl_ca={secure.authority.file}"
    there_and_back(f"{plain}&ssl_cert={secure.client.certificate}&ssl_key={secure.client.key}")
    with pytest.raises(AuthenticationError):
        dump(plain)
    wrong = secure.authority.issue("somebody")
    with pytest.raises(AuthenticationError):
        dump(f"{plain}&ssl_cert={wrong.certificate}&ssl_key={wrong.key}")


def test_files_that_cannot_be_read(secure: Secure) -> None:
    """A file of the address that is not there is named, and nothing is tried without it."""
    address = secure.server.url(secure.database) + "?ssl_mode=verify-ca&ssl_ca=/no/such/file"
    with pytest.raises(UsageError, match="ssl_ca"):
        dump(address)
    probe = engine_at(address).check()
    assert probe.status == "error"
    assert "/no/such/file" in probe.message


def test_the_authorities_of_this_machine(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssl_ca, the server's certificate is checked with what this machine trusts."""
    monkeypatch.setattr(postgres_config, "_AUTHORITIES", ("/no/such/file", str(secure.authority.file)))
    there_and_back(secure.server.url(secure.database) + "?ssl_mode=verify-full")


def test_sockets(secure: Secure) -> None:
    """A socket is named by its folder or by itself, as `socket` or, as psql has it, as `host`."""
    server = secure.server
    secret = server.url(secure.database).partition("@")[0]
    file = f"{server.socket}/.s.PGSQL.{server.port}"
    for tail in (
        f"@:{server.port}/{secure.database}?socket={server.socket}",
        f"@:{server.port}/{secure.database}?host={server.socket}",
        f"@/{secure.database}?socket={file}",
    ):
        there_and_back(secret + tail)
        config = engine_config(parse_url(secret + tail))
        assert engine_config(parse_url(config.describe())).describe() == config.describe()
    with pytest.raises(UsageError, match="socket"):
        engine_config(parse_url(f"{secret}@h/x?socket=/tmp"))


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    """A folder that the server's user can read, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="dg-locales-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_server_that_speaks_german(readable_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password, an unknown user, a missing database and a closed one are told apart in any language."""
    localedef = require_tool("localedef")
    if not Path("/usr/share/i18n/locales/de_DE").exists():
        missing("the definitions of locales (apt-get install locales)")
    subprocess.run([localedef, "-i", "de_DE", "-f", "UTF-8", str(readable_folder / "de_DE.UTF-8")], check=True)
    monkeypatch.setenv("LOCPATH", str(readable_folder))
    server = PostgresServer(15, Path(tempfile.mkdtemp(prefix="dg-postgres-")))
    try:
        server.execute("postgres", "ALTER SYSTEM SET lc_messages = 'de_DE.UTF-8'", "SELECT pg_reload_conf()")
        server.execute("postgres", "CREATE DATABASE closed ALLOW_CONNECTIONS false", "CREATE ROLE nologin")
        cases = {
            server.url("postgres", password="falsch"): ("auth_failed", "Passwort"),
            server.url("postgres", user="niemand"): ("auth_failed", ""),
            server.url("nicht-da"): ("error", "existiert nicht"),
            server.url("closed"): ("error", ""),
        }
        limit = time.monotonic() + 10
        while "existiert" not in engine_at(server.url("nicht-da")).check().message and time.monotonic() < limit:
            time.sleep(0.1)
        for address, (status, words) in cases.items():
            probe = engine_at(address).check()
            assert probe.status == status, probe
            assert words in probe.message
        with pytest.raises(NotFoundError):
            dump(server.url("nicht-da"))
    finally:
        server.close()


def test_a_stop_in_the_middle_of_the_log_in_hangs_up() -> None:
    """The server learns of it at once: until then no DROP DATABASE ends, ours while it cleans up among them."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.settimeout(30)
                heard.append(peer.recv(1000))
                os.kill(os.getpid(), signal.SIGUSR1)
                heard.append(peer.recv(1000))

        def stop(*_: object) -> None:
            raise CancelledError("stopped", signum=signal.SIGUSR1)

        thread = threading.Thread(target=serve)
        before = signal.signal(signal.SIGUSR1, stop)
        thread.start()
        try:
            address = f"postgresql://user:secret@127.0.0.1:{listening.getsockname()[1]}/db?sslmode=disable"
            with pytest.raises(CancelledError) as caught:
                Server(cast("PostgresConfig", engine_config(parse_url(address)))).maintenance_database()
            thread.join(10)
            assert not thread.is_alive(), "the connection lives as long as what stopped it"
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert heard[1] == b""
    assert caught.value.exit_code == 128 + signal.SIGUSR1
