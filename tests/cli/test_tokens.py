"""Tokens of the command line and of programs: made at home, shown to a real service, and ended."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataguardian.bootstrap import console
from dataguardian.cli import credentials
from dataguardian.db import migrate
from dataguardian.domain.errors import DataGuardianError
from dataguardian.settings import Settings
from tests.cli.program import wait_for
from tests.cli.service import Service
from tests.faults.service import RedisServer
from tests.servers import PostgresServer, free_port
from tests.signed import LOCAL_TOKEN, token_of

TOKEN = "DATAGUARDIAN_TOKEN"
STRANGER = "dgt_" + "x" * 43


def made(service: Service, *options: str, role: str = "viewer", name: str = "test") -> dict[str, Any]:
    return service.ok("token", "create", "--role", role, "--name", name, *options)


def test_a_token_opens_the_service(service: Service) -> None:
    """Made beside the running service, it is taken at once, and does what its role may: nothing more."""
    token = made(service)["token"]
    assert token.startswith("dgt_")
    assert len(token) == 47
    env = {TOKEN: token, "DATAGUARDIAN_HOME": "/nowhere"}
    assert service.ok("status", env=env)["session"]["role"] == "viewer"
    told = service.refused(5, "datasource", "add", "x", "files:///etc", env=env)
    assert "permission manage" in told
    assert "ask an administrator" in told
    assert service.run("queues", "pause", "backup", "--json", env=env).json["error"] == "forbidden"


def test_a_token_is_made_while_no_service_runs(own_service: Service) -> None:
    """In an empty home, before the first start: the catalogue is made for it, and the service takes it later."""
    first = made(own_service, role="admin", name="before")["token"]
    assert stat.S_IMODE(own_service.home.stat().st_mode) == 0o700
    own_service.start()
    env = {TOKEN: first, "DATAGUARDIAN_HOME": "/nowhere"}
    assert own_service.ok("status", env=env)["session"]["name"] == "before"
    own_service.stop()
    second = made(own_service, name="between")["token"]
    own_service.start()
    assert own_service.ok("job", "list", env={**env, TOKEN: second})
    names = {row["name"]: row for row in own_service.ok("token", "list")["data"]}
    assert {"before", "between"} <= names.keys()
    assert first not in str(names)


def test_a_token_is_made_while_the_first_start_is_under_way(own_service: Service) -> None:
    """Both make the same new catalogue, and neither is in the other's way."""
    process = own_service.begin("up", "--port", str(own_service.port))
    try:
        token = made(own_service, role="admin")["token"]
        assert process.stdout is not None
        assert process.stdout.readline().startswith('{"event": "ready"')
        assert own_service.ok("job", "list", env={TOKEN: token, "DATAGUARDIAN_HOME": "/nowhere"})
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_catalogue_on_postgresql(own_service: Service, postgres17: PostgresServer, tmp_path: Path) -> None:
    """With DATABASE_URL the token goes there: without a service, and beside one."""
    name = postgres17.database()
    redis = RedisServer(tmp_path / "redis")
    own_service.env |= {"DATABASE_URL": postgres17.url(name), "REDIS_URL": redis.url}
    try:
        before = made(own_service, role="operator")["token"]
        own_service.start()
        beside = made(own_service, role="operator")["token"]
        for token in (before, beside):
            env = {TOKEN: token, "DATAGUARDIAN_HOME": "/nowhere"}
            assert own_service.ok("status", env=env)["session"]["role"] == "operator"
        assert own_service.stop() == 0
        assert not (own_service.home / "catalogue.db").exists()
    finally:
        own_service.kill()
        redis.stop()
        postgres17.drop(name)


def test_a_scope_a_limit_and_an_end(service: Service) -> None:
    """Only what the token says: one permission, one datasource, until a day; people see it in words."""
    mine, other = service.prepared(), service.prepared()
    options = ["--permission", "view", "--datasource", mine.name, "--expires", "90d"]
    row = made(service, *options, role="operator")
    assert (row["permissions"], len(row["datasource_ids"])) == (["view"], 1)
    env = {TOKEN: row["token"]}
    shown = service.ok("datasource", "list", env=env)["data"]
    assert [found["name"] for found in shown] == [mine.name]
    service.refused(5, "datasource", "show", other.name, env=env)
    seen = service.told("status", env=env)
    assert "of 1 datasources only" in seen
    assert (str(mine.source) in seen, str(other.source) in seen) == (True, False)
    service.refused(5, "job", "run", mine.name, env=env)
    told = service.told("token", "create", "--role", "viewer", "--name", "people", "--datasource", mine.name)
    assert mine.name in told
    assert "never" in told
    assert "shown this once" in told


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--role", "king"], 2, "known: admin, operator, viewer"),
        (["--permission", "fly"], 2, "known: view"),
        (["--permission", "manage"], 2, "cannot have that scope"),
        (["--expires", "soon"], 2, "such as 12h, 90d or 52w"),
        (["--expires", "0d"], 2, "is no lifetime"),
        (["--expires", "99999999d"], 2, "is no lifetime"),
        (["--datasource", "nobody's"], 5, "there is no datasource"),
        (["--name", " "], 2, "visible characters"),
        (["--name", "a\x1bb"], 2, "visible characters"),
        (["--name", "x" * 101], 2, "visible characters"),
        (["--role", "admin", "--datasource", "dataguardian"], 2, "cannot be limited"),
    ],
)
def test_what_no_token_can_be(service: Service, options: list[str], code: int, words: str) -> None:
    """Each mistake is named, with what there is instead."""
    assert words in service.refused(code, "token", "create", "--role", "viewer", "--name", "x", *options)


def test_wrong_expired_and_revoked_tokens(own_service: Service) -> None:
    """Exit 5, where the token came from, how to get another one, and never the token itself."""
    own_service.start()
    expired, revoked = (made(own_service, "--expires", "1h", name=name) for name in ("expired", "revoked"))
    with closing(sqlite3.connect(own_service.home / "catalogue.db", timeout=10)) as catalogue, catalogue:
        catalogue.execute("UPDATE api_tokens SET expires_at = created_at WHERE name = 'expired'")
    assert own_service.ok("token", "revoke", "revoked", "--yes")["revoked_at"]
    for token in (STRANGER, "dgt_short", expired["token"], revoked["token"], token_of(own_service.home)[:-1] + "é"):
        outcome = own_service.run("job", "list", env={TOKEN: token})
        assert outcome.code == (2 if "é" in token else 5), outcome
        assert TOKEN in outcome.err
        assert token not in outcome.out + outcome.err + own_service.log
    told = own_service.refused(5, "job", "list", env={TOKEN: STRANGER})
    assert "unknown, expired or revoked" in told
    assert "dataguardian token create" in told
    states = {line.split()[0]: line for line in own_service.told("token", "list").splitlines()}
    assert " expired " in states["expired"]
    assert " revoked " in states["revoked"]


def test_a_token_that_is_in_use_is_revoked(own_service: Service) -> None:
    """The service knows it already, and lets it in no more some seconds later; by name, if only one has it."""
    own_service.start()
    first, second = made(own_service, name="twin"), made(own_service, name="twin")
    env = {TOKEN: first["token"]}
    own_service.ok("job", "list", env=env)
    assert "may be one of 2 tokens" in own_service.refused(2, "token", "revoke", "twin", "--yes")
    assert "--yes" in own_service.refused(2, "token", "revoke", first["id"])
    own_service.ok("token", "revoke", first["id"][:18], "--yes")
    wait_for(lambda: own_service.run("job", "list", env=env).code == 5, "the revoked token to be refused", seconds=10)
    assert "is revoked" in own_service.told("token", "revoke", "twin", "--yes")
    wait_for(lambda: own_service.run("job", "list", env={TOKEN: second["token"]}).code == 5, "its twin", seconds=10)
    assert "there is no token" in own_service.refused(5, "token", "revoke", "nobody", "--yes")


def test_the_local_token_is_made_anew_at_each_start(own_service: Service) -> None:
    """0600, other text after a restart, the old one refused; the command line, and a client that goes on, notice."""
    own_service.start()
    path = own_service.home / LOCAL_TOKEN
    before = token_of(own_service.home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with own_service.client() as client:
        assert client.get("/api/session")["name"].startswith("local ")
        own_service.stop()
        own_service.start()
        assert client.get("/api/session")["role"] == "admin"
    assert token_of(own_service.home) != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own_service.refused(5, "job", "list", env={TOKEN: before})
    own_service.ok("job", "list")
    path.unlink()
    told = own_service.refused(5, "job", "list")
    assert "the service asks for a token" in told
    assert str(path) in told


def test_a_token_from_a_file(service: Service, tmp_path: Path) -> None:
    """The first line of --token-file comes before the environment; what others may read is warned of; `-` is stdin."""
    file = tmp_path / "token"
    file.write_text(made(service, name="from a file")["token"] + "\nmore\n")
    file.chmod(0o600)
    outcome = service.run("status", "--json", "--token-file", str(file), env={TOKEN: STRANGER})
    assert (outcome.json["session"]["name"], outcome.err) == ("from a file", "")
    file.chmod(0o644)
    assert "other users may read" in service.run("job", "list", "--token-file", str(file)).err
    data = file.read_text()
    assert service.ok("status", "--token-file", "-", data=data)["session"]["name"] == "from a file"
    for wrong in ("", "\n", "two words\n", "\xff\n", "a\x00b\n"):
        file.write_text(wrong)
        assert "holds no token" in service.refused(2, "status", "--token-file", str(file))
    assert "cannot be read" in service.refused(2, "status", "--token-file", str(tmp_path / "none"))
    assert STRANGER not in service.refused(2, "status", "--token-file", STRANGER)
    assert "standard input holds no token" in service.refused(2, "status", "--token-file", "-", data="")


def test_the_token_of_this_machine_stays_on_it(service: Service) -> None:
    """Other machines are asked without it; a token of one's own goes there with a warning when it is not encrypted."""
    at = f"http://203.0.113.9:{free_port()}"
    assert credentials.credentials(at, None).token is None
    outcome = service.run("status", "--url", "http://localhost.invalid:1", env={TOKEN: STRANGER})
    assert outcome.code == 5
    assert "unencrypted" in outcome.err
    assert STRANGER not in outcome.err


LISTENER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    taken, _ = server.accept()
    said = taken.recv(65536)
    taken.sendall(b"HTTP/1.1 401 Unauthorized\\r\\nContent-Type: application/json\\r\\nConnection: close\\r\\n\\r\\n"
                  b'{"error": "unauthenticated", "message": "who?", "details": {}}')
    taken.close()
    print(said.decode("latin-1"), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_user_on_the_port_is_not_shown_the_token(service: Service) -> None:
    """While our service is elsewhere, somebody of this machine may listen at its usual port, to be given a token."""
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        port = int(stranger.stdout.readline())
        told = service.refused(5, "status", "--url", f"http://127.0.0.1:{port}")
        heard = stranger.stdout.read()
    assert "GET /api/system/info" in heard
    assert token_of(service.home) not in heard
    assert "authorization" not in heard.lower()
    assert "another user's process listens there" in told


def test_who_listens_is_known(service: Service) -> None:
    """The system's own tables say whose process it is: here it is ours."""
    assert credentials._listeners(service.port) == {os.geteuid()}
    assert not credentials._listeners(free_port())


@contextmanager
def _anothers(home: Path) -> Iterator[str]:
    """Makes a home somebody else's, as far as this user can; yields what the error says of it."""
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
        yield "nobody's"
        os.chown(home, 0, 0)
    else:
        home.chmod(0o500)
        yield "cannot be used"
        home.chmod(0o700)


@pytest.mark.parametrize("verb", [["token", "create", "--role", "admin", "--name", "x"], ["user", "list"]])
def test_anothers_home_is_refused(own_service: Service, verb: list[str]) -> None:
    """Nothing is written into it, by root neither: its files would be in the service's way."""
    own_service.home.mkdir(mode=0o700)
    with _anothers(own_service.home) as words:
        told = own_service.refused(5, *verb)
        assert words in told
        assert "DATAGUARDIAN_HOME" in told
        assert list(own_service.home.iterdir()) == []
    file = own_service.folder / "file"
    file.touch()
    assert "cannot be used" in own_service.refused(5, *verb, env={"DATAGUARDIAN_HOME": str(file)})


def test_an_older_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is brought up first; not under a service of an older release that runs on it, which must be restarted."""
    from dataguardian.service.home import Home  # noqa: PLC0415 -- only here

    settings = Settings(staging_dir=tmp_path, home=tmp_path / "home")
    settings.home.mkdir()
    migrate.upgrade(settings.catalogue_url, "0002")
    monkeypatch.setattr(console, "STARTING_SECONDS", 0.3)
    with Home(settings.home), pytest.raises(DataGuardianError, match="of another release"):
        console._prepare(settings)
    assert migrate.current(settings.catalogue_url) == "0002"
    console._prepare(settings)
    assert migrate.current(settings.catalogue_url) == migrate.revisions()[-1]
