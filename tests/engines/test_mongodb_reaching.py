"""MongoDB by TLS, and through something that stands between: probe, dump and restore alike."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from dataguardian.domain.errors import AuthenticationError
from dataguardian.domain.urls import parse_url
from dataguardian.engines.mongodb import server as mongodb_server
from dataguardian.engines.mongodb.config import MongoConfig, uri_of
from dataguardian.engines.mongodb.tlsfiles import key_file, uri_options
from dataguardian.engines.network import Endpoint
from dataguardian.engines.registry import engine_config
from tests.certificates import Authority, Pair
from tests.engines.conformance import counted, dump, engine_at, restore
from tests.engines.mongodb_peer import MongoPeer
from tests.mongo import MongoServer, require_mongo, require_programs


@dataclass
class Secure:
    """A server that insists on TLS and a client's certificate. Its own is made out to db.example, not to 127.0.0.1."""

    server: MongoServer
    authority: Authority
    other: Authority
    client: Pair
    database: str

    def url(self, query: str, host: str = "127.0.0.1") -> str:
        keys = f"ssl_cert={self.client.certificate}&ssl_key={self.client.key}"
        return f"mongodb://{host}:{self.server.port}/{self.database}?directConnection=true&{keys}&{query}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine that has not answered in clear text within a second never will."""
    monkeypatch.setattr(mongodb_server, "_SELECTION_SECONDS", 1.0)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    require_mongo()
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder), Authority(folder, "other")
    pair, client = authority.issue("server", "db.example", "localhost"), authority.issue("client")
    both = folder / "client.pem"
    both.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
    trusted = {"tls": True, "tlsCAFile": str(authority.file), "tlsCertificateKeyFile": str(both)}
    options = ("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    options += ("--tls-ca-file", str(authority.file), "--tls-require-client-cert")
    server = MongoServer(options=options, client={**trusted, "tlsAllowInvalidHostnames": True})
    server.client["secure"]["things"].insert_one({"_id": 1})
    yield Secure(server, authority, other, client, "secure")
    server.close()


@pytest.mark.parametrize(
    ("query", "host", "outcome"),
    [
        ("ssl_mode=disable", "127.0.0.1", "closed"),
        ("", "127.0.0.1", "closed"),
        ("ssl_mode=prefer", "127.0.0.1", "fine"),
        ("ssl_mode=require", "127.0.0.1", "fine"),
        ("ssl_mode=verify-ca&ssl_ca={ca}", "127.0.0.1", "fine"),
        ("ssl_mode=verify-ca&ssl_ca={other}", "127.0.0.1", "refused"),
        ("ssl_mode=verify-full&ssl_ca={ca}", "127.0.0.1", "refused"),
        ("tls=true&tlsCAFile={ca}", "localhost", "fine"),
        ("ssl_mode=verify-full", "localhost", "refused"),
    ],
)
def test_tls_modes(secure: Secure, query: str, host: str, outcome: str) -> None:
    """Every mode demands what it says of the server's certificate, for the probe, the dump and the restore."""
    source = secure.url(query.format(ca=secure.authority.file, other=secure.other.file), host)
    if outcome == "fine":
        assert engine_at(source).check().status == "ok"
        restore(source, dump(source), drop_existing=True)
        assert counted(source) == {"things": 1}
        return
    assert engine_at(source).check().status == ("auth_failed" if outcome == "refused" else "unreachable")
    if outcome == "refused":
        with pytest.raises(AuthenticationError):
            dump(source)


@pytest.mark.parametrize(
    ("query", "host", "by"),
    [
        ("ssl_mode=prefer", "127.0.0.1", "mongodump"),
        ("ssl_mode=require", "127.0.0.1", "mongodump"),
        ("ssl_mode=verify-full&ssl_ca={ca}", "localhost", "mongodump"),
        ("ssl_mode=verify-ca&ssl_ca={ca}", "127.0.0.1", "driver"),
    ],
)
def test_tls_by_mongodump(secure: Secure, query: str, host: str, by: str) -> None:
    """The real mongodump gets through to a server that asks for a certificate; else the driver does."""
    require_programs()
    source = secure.url(query.format(ca=secure.authority.file), host)
    (stream,) = dump(source)
    assert stream.metadata["dumped_with"] == by
    restore(source, [stream], drop_existing=True)
    assert counted(source) == {"things": 1}


def test_mongodump_verifies_what_it_is_asked_to(secure: Secure) -> None:
    """With the settings that the engine gives it, it refuses a stranger's certificate and another host's name."""
    require_programs()
    for ca, host in ((secure.other.file, "localhost"), (secure.authority.file, "127.0.0.1")):
        config = engine_config(parse_url(secure.url(f"ssl_mode=verify-full&ssl_ca={ca}", host)))
        assert isinstance(config, MongoConfig)
        with key_file(config) as key_path:
            options = uri_options(config, key_path, has_tls=True)
            address = uri_of(config, Endpoint(host, secure.server.port, host), None, options)
            # In an address the program takes serverSelectionTimeoutMS for seconds.
            argv = ["mongodump", "--archive", f"--db={secure.database}", f"--uri={address}"]
            argv += ["--serverSelectionTimeout=2"]
            done = subprocess.run(argv, capture_output=True, check=False)
        assert done.returncode != 0
        assert b"x509" in done.stderr, done.stderr


def test_the_servers_own_name_is_expected_behind_a_tunnel(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to this machine, and the certificate must still be made out to the far server."""

    def tunnelled(name: str) -> None:
        @contextmanager
        def reached(config: MongoConfig) -> Iterator[Endpoint]:
            yield Endpoint("127.0.0.1", secure.server.port, name, tunnelled=True)

        monkeypatch.setattr(mongodb_server, "reached", reached)

    source = secure.url(f"ssl_mode=verify-full&ssl_ca={secure.authority.file}", "db.example")
    tunnelled("db.example")
    assert engine_at(source).check().status == "ok"
    tunnelled("elsewhere.example")
    assert engine_at(source).check().status == "auth_failed"


def test_prefer_goes_on_without_tls() -> None:
    """A server that knows no TLS is spoken to in clear text when TLS was only preferred."""
    with MongoPeer() as peer:
        assert engine_at(peer.url("ssl_mode=prefer")).check().status == "ok"
        assert engine_at(peer.url("ssl_mode=require")).check().status in ("unreachable", "auth_failed", "timeout")


def test_key_files_are_looked_at_first(secure: Secure) -> None:
    """A certificate that is not there is named before anybody is asked."""
    address = f"mongodb://127.0.0.1:{secure.server.port}/x?tls=true&ssl_cert=/no/such.pem"
    probe = engine_at(address).check()
    assert probe.status == "error"
    assert "/no/such.pem" in probe.message
    assert isinstance(engine_config(parse_url(address)), MongoConfig)
